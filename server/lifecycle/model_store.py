"""Models on disk, each named by the SHA-256 of its file."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedquit.client.models.model_file import arrays_in, model_bytes
from fedquit.errors import FedquitError
from fedquit.files import explained, write_whole
from fedquit.unlearning.tensors.convert import Arrays

SUFFIX = ".safetensors"


class Models:
    """The models in a folder, which must be there.

    >>> import tempfile, numpy as np
    >>> folder = tempfile.TemporaryDirectory()
    >>> models = Models(Path(folder.name))
    >>> name = models.save({"w": np.zeros(1)})
    >>> models.load(name), models.names() == {name}
    ({'w': array([0.])}, True)
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, arrays: Arrays) -> str:
        """Write a model durably, and return its name."""
        content = model_bytes(arrays)
        name = hashlib.sha256(content).hexdigest()
        path = self.path(name)
        if not path.exists():
            write_whole(path, content)
        return name

    def load(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the model of that name.

        Raises:
            FedquitError: the file is missing or was altered.
        """
        path = self.path(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise FedquitError(f"checkpoint {path} is missing; the run cannot continue") from None
        if hashlib.sha256(content).hexdigest() != name:
            raise FedquitError(f"checkpoint {path} is damaged: its SHA-256 is not its name")
        return arrays_in(content, f"checkpoint {path}")

    def path(self, name: str) -> Path:
        """Return the file of the model of that name."""
        return self.folder / f"{name}{SUFFIX}"

    def names(self) -> set[str]:
        """Return the models that are there."""
        return {path.stem for path in self.folder.glob(f"*{SUFFIX}") if not path.name.startswith(".")}

    def remove(self, names: Iterable[str]) -> None:
        """Remove models, as far as they are there.

        Raises:
            FedquitError: a file cannot be removed.
        """
        for name in names:
            with explained(self.path(name)):
                self.path(name).unlink(missing_ok=True)
