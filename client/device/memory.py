"""A device's state on its own disk from one round to the next, such as its previous model.

    FOLDER/3f9c0a.../3/0-train/12.safetensors       client 3, no request in force, phase train, after round 12

It is on disk, for a restarted SuperNode remembers nothing. A round reads what the last round before it wrote, never
its own, so a round that is carried out again after a crash, here or at the server, ends as it did the first time.
Every phase begins with an empty memory, and what is older than a request is removed with the first message that knows
of the request: it may hold what was to be forgotten. The run's digest keeps runs apart that share a folder.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedquit.client.models.model_file import state_bytes, tensors_in
from fedquit.errors import InputError
from fedquit.files import explained, write_whole
from fedquit.settings import Part, Settings, keys_of


@dataclass(frozen=True, slots=True)
class Memory:
    """One device's memory of one run, in `folder`.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     memory = Memory(Path(folder))
    ...     memory.keep({"w": torch.ones(1)}, "train", 0, number=1)
    ...     memory.recall("train", 0, number=1), memory.recall("train", 0, number=2)
    (None, {'w': tensor([1.])})
    """

    folder: Path

    @classmethod
    def of(cls, folder: Path, settings: Settings, client: int) -> "Memory":
        """Return the memory of a client in `folder`, where other runs and clients may have theirs.

        Runs are distinguished by the settings that differ from their defaults, so a version with more settings finds
        the state of the one before it.
        """
        default, places = type(settings)().run_config(), keys_of(Part.PLACE)
        changed = sorted(
            (key, str(value))
            for key, value in settings.run_config().items()
            if key not in places and value != default[key]
        )
        return cls(folder / hashlib.sha256(repr(changed).encode()).hexdigest()[:16] / str(client))

    def recall(self, phase: str, requests: int, number: int) -> dict[str, Tensor] | None:
        """Return the state saved in the last round of the phase before `number`; None: it took part in none.

        Raises:
            FedquitError: the file is damaged.
        """
        before = [other for other in self._rounds(phase, requests) if other < number]
        if not before:
            return None
        file = self._file(phase, requests, max(before))
        return tensors_in(file.read_bytes(), f"{file}, which the device keeps of the round before,")

    def keep(self, state: Mapping[str, Tensor], phase: str, requests: int, number: int) -> None:
        """Save `state` as of round `number`; of earlier rounds only the last is kept, as it may be requested again."""
        file = self._file(phase, requests, number)
        with explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, state_bytes(state))
        rounds = self._rounds(phase, requests)
        before = max((other for other in rounds if other < number), default=None)
        for other in rounds:
            if other not in (number, before):
                self._file(phase, requests, other).unlink()

    def forget_before(self, requests: int) -> None:
        """Delete state saved before request number `requests`."""
        for phase in self.folder.glob("*-*"):
            if int(phase.name.partition("-")[0]) < requests:
                shutil.rmtree(phase)

    def _rounds(self, phase: str, requests: int) -> list[int]:
        return [int(file.stem) for file in self._file(phase, requests, 0).parent.glob("[0-9]*.safetensors")]

    def _file(self, phase: str, requests: int, number: int) -> Path:
        if not re.fullmatch("[a-z0-9-]+", phase):  # it comes from the server, and becomes part of a path
            raise InputError(f"phase {phase!r} is not a phase name")
        return self.folder / f"{requests}-{phase}" / f"{number}.safetensors"
