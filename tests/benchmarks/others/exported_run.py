"""What the three programs that run others' code share: reads an exported run, writes weights. Needs numpy alone.

The programs run in the environments of the others' code, so nothing here imports fedquit.
"""

import argparse
import atexit
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class ExportedRun:
    """An exported run, and how many weights were sent since.

    Attributes:
        arrays: of the file, by key.
        settings: of the run.
        sent: weights that went over the network, both ways, so far.
    """

    arrays: dict[str, Array]
    settings: dict[str, Any] = field(default_factory=dict)
    sent: int = 0

    def __post_init__(self) -> None:
        self.settings = json.loads(str(self.arrays["settings"]))

    @property
    def original(self) -> list[Array]:
        """The weights before the request, in the model's order: weight and bias of each layer."""
        return [self.arrays[f"original/{name}"] for name in self.arrays["names"]]

    @property
    def size(self) -> int:
        """How many weights the model has."""
        return sum(array.size for array in self.original)

    @property
    def clients(self) -> list[int]:
        """The clients' numbers."""
        return sorted(map(int, np.unique(self.arrays["train_client"])))

    @property
    def forgotten(self) -> list[int]:
        """The clients to be forgotten."""
        return sorted(map(int, np.unique(self.arrays["train_client"][self.arrays["train_forget"]])))

    def samples(self, client: int) -> tuple[Array, Array]:
        """Return a client's inputs as rows [n, values], and labels [n]."""
        own = self.arrays["train_client"] == client
        inputs = self.arrays["train_inputs"][own]
        return inputs.reshape(len(inputs), -1), self.arrays["train_labels"][own]


def as_torch(array: Array, image: tuple[int, int, int]) -> Array:
    """Return an array of a Keras model in PyTorch's order: channels before height and width, outputs before inputs.

    Args:
        array: a convolution [height, width, inputs, outputs], a matrix [inputs, outputs], or a bias.
        image: height, width and channels of what is flattened before the first matrix.
    """
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim == 2 and len(array) == np.prod(image):
        return array.reshape(*image, -1).transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    return array.T if array.ndim == 2 else array


def arguments(about: str) -> argparse.Namespace:
    """Return the arguments that each program takes; paths are whole: the program goes into another folder."""
    parser = argparse.ArgumentParser(description=about)
    for name, about_it in (
        ("--code", "folder of their repository"),
        ("--run", "file of fedquit simulate --export-partition"),
        ("--out", "npz file for the weights"),
    ):
        parser.add_argument(name, type=lambda text: Path(text).resolve(), required=True, help=about_it)
    parser.add_argument("--values", default="{}", help="JSON of their hyper-parameters that differ from their own")
    return parser.parse_args()


def read_run(path: Path, model: str = "mlp") -> ExportedRun:
    """Read an exported run of the model that a program builds."""
    with np.load(path, allow_pickle=False) as file:
        run = ExportedRun(dict(file))
    if run.settings["model"] != model:
        raise SystemExit(f"this program builds a model like {model}; export a run with --model {model}")
    return run


def work_in_scratch_folder() -> None:
    """Go into a new folder, for what their code reads and writes beside itself; it is removed when the program ends."""
    folder = tempfile.TemporaryDirectory(prefix="fedquit-others-")
    atexit.register(folder.cleanup)
    os.chdir(folder.name)


def write_weights(path: Path, run: ExportedRun, weights: list[Array]) -> None:
    """Write weights as `fedquit audit` reads them, and beside them a JSON file that says what was sent."""
    named: dict[str, Any] = dict(zip(map(str, run.arrays["names"]), weights, strict=True))
    np.savez(path, **named)
    path.with_suffix(".json").write_text(json.dumps({"sent": run.sent}) + "\n", encoding="utf-8")
