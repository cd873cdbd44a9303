"""The models of a round's replies on disk, until it is known what becomes of them: one at a time is in memory."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedquit.files import explained
from fedquit.unlearning.tensors.convert import Arrays


class Held:
    """Models by client in `folder`, which is emptied when this begins, and removed when it is cleared.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> held = Held(Path(folder.name) / "replies")
    >>> held.put(3, {"w": np.array([1.0])})
    >>> held.get(3)
    {'w': array([1.])}
    >>> held.clear()
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clear()
        with explained(folder):
            folder.mkdir(parents=True)

    def put(self, client: int, arrays: Arrays) -> None:
        """Hold the model of a client."""
        content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
        with explained(self._file(client)):
            self._file(client).write_bytes(content)

    def get(self, client: int) -> dict[str, NDArray[Any]]:
        """Return the model of a client."""
        with explained(self._file(client)):
            return load(self._file(client).read_bytes())

    def clear(self) -> None:
        """Remove all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, client: int) -> Path:
        return self.folder / f"{client}.safetensors"
