"""Training history for the methods that need it: models and updates of some rounds, on the server's disk.

    history/12/model.safetensors     the global model at the start of round 12
    history/12/3.safetensors         what client 3 sent in round 12 minus what it got

Which rounds, the methods' traits decide. All of it is removed when the last request is done: it contains what was to be
erased. The log of who took part when is small, and stays in the state of the run.
"""

import math
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fedquit.client.models.model_file import model_bytes, state_bytes, tensors_in
from fedquit.errors import FedquitError, InputError
from fedquit.files import explained, write_whole
from fedquit.settings import Settings
from fedquit.unlearning.methods.base import Traits
from fedquit.unlearning.tensors.convert import StateDict

MODEL = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Keep:
    """Which rounds of training are kept.

    Attributes:
        last: the last round; with every client's update.
        interval: round 1 and every `interval`-th after it, with updates; 0: none.
        models: the same, models alone.
        rollback: the model at the start of each round, until every client has taken part once.
    """

    last: bool = False
    interval: int = 0
    models: int = 0
    rollback: bool = False

    @classmethod
    def of(cls, *traits: Traits) -> "Keep":
        """Return what these methods need together; of intervals that differ, the rounds of all.

        >>> from fedquit.unlearning.methods.base import METHODS
        >>> Keep.of(METHODS["federaser"].traits, METHODS["retrain"].traits)
        Keep(last=False, interval=2, models=0, rollback=True)
        """
        every = [t for t in traits if t.history == "every"]
        return cls(
            last=any(t.history == "last" for t in traits),
            interval=math.gcd(*(t.history_interval for t in every if t.keeps_updates)),
            models=math.gcd(*(t.history_interval for t in every if not t.keeps_updates)),
            rollback=any(t.history == "rollback" for t in traits),
        )

    def updates(self, number: int) -> bool:
        """Say whether the updates of a round are kept while it is the last one."""
        return self.last or _is_nth(number, self.interval)

    def model(self, number: int, *, strangers: bool) -> bool:
        """Say whether the model at the start of a round is kept while it is the last one.

        Args:
            number: the round.
            strangers: whether some client has not taken part before it.
        """
        return self.updates(number) or self.stays(number, strangers=strangers)

    def stays(self, number: int, *, strangers: bool) -> bool:
        """Say whether a round is kept when it is no longer the last one."""
        nth = _is_nth(number, self.interval) or _is_nth(number, self.models)
        return nth or (self.rollback and strangers and number > 1)

    def stays_with_updates(self, number: int) -> bool:
        """Say whether the updates of a round are kept when it is no longer the last one."""
        return _is_nth(number, self.interval)

    def most_bytes(self, rounds: int, clients: int, model_bytes: int) -> int:
        """Return how much can lie on disk at once, in `rounds` rounds of `clients` clients each.

        >>> Keep(interval=2).most_bytes(rounds=4, clients=10, model_bytes=100)
        2200
        """
        with_updates = sum(_is_nth(number, self.interval) for number in range(1, rounds + 1)) + 2 * self.last
        alone = rounds if self.rollback else sum(_is_nth(number, self.models) for number in range(1, rounds + 1))
        return (with_updates * (1 + clients) + alone) * model_bytes


def _is_nth(number: int, interval: int) -> bool:
    return bool(interval) and (number - 1) % interval == 0


class History:
    """The kept rounds of a run's folder; a method reads them through `fedquit.unlearning.session.History`.

    Args:
        folder: of the run.
        keep: which rounds.
        clients: how many there are.
        log: a round's number to who took part in it.
    """

    def __init__(self, folder: Path, keep: Keep, clients: int, log: Callable[[int], Collection[int]]) -> None:
        self.path, self.keep, self.clients, self.participants = folder / "history", keep, clients, log
        self._seen: set[int] = set()
        self._walked, self._full = 0, math.inf

    def begin(self, number: int, model: StateDict) -> None:
        """Keep the model at the start of a round, and drop what a killed attempt at it has left."""
        self._tidy(number - 1)
        with explained(self.path):
            shutil.rmtree(self.path / str(number), ignore_errors=True)
        if self.keep.model(number, strangers=self._strangers(number)):
            self._write(number, "model", model)

    def add(self, number: int, client: int, update: StateDict) -> None:
        """Keep what a client sent minus what it got."""
        if self.keep.updates(number):
            self._write(number, str(client), update)

    def end(self, number: int) -> None:
        """Drop of the rounds before what was kept only while it was the last one."""
        self._tidy(number)

    def _tidy(self, last: int) -> None:
        for number in (last - 2, last - 1):  # two, as a run may have been killed before it could tidy
            folder = self.path / str(number)
            if folder.is_dir() and not self.keep.stays(number, strangers=self._strangers(number)):
                self.remove(list(folder.iterdir()))
            elif folder.is_dir() and not self.keep.stays_with_updates(number):
                self.remove([file for file in folder.iterdir() if file.name != MODEL])

    def stale(self, gone: Collection[int], *, everything: bool) -> list[Path]:
        """Return the files that contain what was erased.

        Args:
            gone: clients that had something erased: models after a round of theirs, and their updates.
            everything: whether all that was kept is returned, as no request is left.
        """
        rounds, theirs, seen, files = self.rounds(), {f"{client}.safetensors" for client in gone}, False, list[Path]()
        for number in range(1, max(rounds, default=0) + 1):
            if number in rounds:
                kept = sorted((self.path / str(number)).iterdir())
                files += [file for file in kept if everything or seen or file.name in theirs]
            seen = seen or bool(set(gone) & set(self.participants(number)))
        return files

    def remove(self, files: Collection[Path]) -> None:
        """Remove files, and the folders that are empty then."""
        with explained(self.path):
            for file in files:
                file.unlink(missing_ok=True)
            for folder in [*{file.parent for file in files}, self.path]:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def rounds(self) -> list[int]:
        """Return the kept rounds, in order."""
        return sorted(int(path.name) for path in self.path.iterdir()) if self.path.is_dir() else []

    def model(self, number: int) -> StateDict:
        """Return the global model at the start of a kept round."""
        return self._read(self.path / str(number) / MODEL)

    def update(self, number: int, client: int) -> StateDict | None:
        """Return what the client sent in a kept round minus what it got; None if it took no part or none was kept."""
        file = self._file(number, str(client))
        return self._read(file) if file.exists() else None

    def _strangers(self, number: int) -> bool:
        """Say whether some client has not taken part before a round; each round's log is read once."""
        while self._walked < number - 1 and self._full == math.inf:
            self._walked += 1
            self._seen.update(self.participants(self._walked))
            if len(self._seen) == self.clients:
                self._full = self._walked + 1
        return number < self._full

    def _file(self, number: int, name: str) -> Path:
        return self.path / str(number) / f"{name}.safetensors"

    def _write(self, number: int, name: str, state: StateDict) -> None:
        file = self._file(number, name)
        with explained(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, state_bytes(state))

    def _read(self, file: Path) -> dict[str, Tensor]:
        try:
            return tensors_in(file.read_bytes(), "it")
        except (OSError, FedquitError) as error:
            raise FedquitError(
                f"the kept history {file} cannot be read ({error}); use a method that needs none"
            ) from None


def check_room(settings: Settings, keep: Keep, model: StateDict) -> None:
    """Refuse to start training if its history may not fit.

    Raises:
        InputError: more than `history-bytes` could lie on disk at once.
    """
    size = len(model_bytes(model))
    most = keep.most_bytes(settings.rounds, max(1, round(settings.fraction * settings.clients)), size)
    if most > settings.history_bytes:
        raise InputError(
            f"history-bytes: up to {most:,} bytes of training are kept on disk for the method, "
            f"{settings.history_bytes:,} are allowed: raise it, train fewer rounds or take another method"
        )
