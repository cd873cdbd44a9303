"""What the three programs that run others' code share: reads an exported run, writes weights. Needs numpy alone.

The programs run in the environments of the others' code, so nothing here imports fedquit.
"""

import argparse
import json
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
        if self.settings["model"] != "mlp":
            raise SystemExit("these programs build an mlp; export a run with --model mlp")

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


def arguments(about: str) -> argparse.Namespace:
    """Return the arguments that each program takes: where their code, the exported run and the result are."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--code", type=Path, required=True, help="folder of their repository")
    parser.add_argument("--run", type=Path, required=True, help="file of fedquit simulate --export-partition")
    parser.add_argument("--out", type=Path, required=True, help="npz file for the weights")
    parser.add_argument("--values", default="{}", help="JSON of their hyper-parameters that differ from their own")
    return parser.parse_args()


def read_run(path: Path) -> ExportedRun:
    """Read an exported run."""
    with np.load(path, allow_pickle=False) as file:
        return ExportedRun(dict(file))


def write_weights(path: Path, run: ExportedRun, weights: list[Array]) -> None:
    """Write weights as `fedquit audit` reads them, and print what was sent."""
    named: dict[str, Any] = dict(zip(map(str, run.arrays["names"]), weights, strict=True))
    np.savez(path, **named)
    print(json.dumps({"sent": run.sent}))
