"""The state besides the model that a deployment keeps between rounds of a phase: a file per step in `kept/`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from fedquit.client.models.model_file import arrays_in
from fedquit.files import explained, write_whole
from fedquit.server.lifecycle.rounds.train_round import RoundState

SUFFIX = ".safetensors"


class KeptStates:
    """The states in the folder of a server.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> kept = KeptStates(Path(folder.name))
    >>> kept.save(7, RoundState(optimizer_state={"m": np.zeros(1)}), nth=2)
    >>> kept.load(7)
    (RoundState(objective_state=None, optimizer_state={'m': array([0.])}), 2)
    >>> kept.load(8)[1]
    0
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "kept"
        with explained(self.folder):
            self.folder.mkdir(exist_ok=True)

    def load(self, step: int) -> tuple[RoundState, int]:
        """Return what a step kept, and which round of its phase it was; an empty state and 0: it kept nothing."""
        path = self._file(step)
        if not path.exists():
            return RoundState(), 0
        content = arrays_in(path.read_bytes(), path)
        found = {
            part: {key.partition("/")[2]: array for key, array in content.items() if key.startswith(f"{part}/")}
            for part in ("beside", "moments")
            if part in content
        }
        return RoundState(found.get("beside"), found.get("moments")), int(content["nth"])

    def save(self, step: int, state: RoundState, nth: int) -> None:
        """Write what a step keeps, or nothing, in place of what a killed attempt at it wrote.

        An empty part of a state is written too: it may mean to an objective that a first round is over.

        Args:
            step: its number.
            state: for the next round of its phase.
            nth: which round of its phase it is, from 1.
        """
        flat: dict[str, NDArray[Any]] = {}
        for part, arrays in (("beside", state.objective_state), ("moments", state.optimizer_state)):
            if arrays is not None:
                flat |= {part: np.array(True), **{f"{part}/{name}": array for name, array in arrays.items()}}
        if not flat:
            self._file(step).unlink(missing_ok=True)
        else:
            content = {name: np.asarray(array, order="C") for name, array in flat.items()}
            write_whole(self._file(step), save({**content, "nth": np.array(nth)}))

    def drop_before(self, step: int) -> None:
        """Remove what steps before this one kept."""
        for path in self.folder.glob(f"*{SUFFIX}"):
            if int(path.stem) < step:
                path.unlink(missing_ok=True)

    def _file(self, step: int) -> Path:
        return self.folder / f"{step}{SUFFIX}"
