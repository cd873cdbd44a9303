"""The federations that the verdict is calibrated on: many models each, retrained without one client, and measured."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedquit.documents import Document
from fedquit.files import write_json
from fedquit.simulations.simulate.run_simulation import run_simulation

STAGES = ("original", "control", "recovered")
JUDGED = ("forget_accuracy", "retain_accuracy", "test_accuracy", "forget_loss", "scores")


@dataclass(frozen=True, slots=True)
class Federation:
    """One federation: its settings, and how many models are retrained without a client of it."""

    name: str
    retrains: int
    settings: Mapping[str, Any]


def federation(number: int, retrains: int, data: str, model: str, alpha: float) -> Federation:
    """Return a federation of 5 clients that train 15 rounds; FedQUIT and two rounds of recovery follow.

    Args:
        number: seed of its split, from which its other seeds and the client to forget follow.
        retrains: how many models are retrained.
        data: the data set; of Fashion-MNIST 2,000 samples.
        model: the architecture.
        alpha: Dirichlet concentration of the split.
    """
    samples = {"samples": 2000} if data == "fashion-mnist" else {}
    settings = {"dataset": data, "model": model, "alpha": alpha, "forget": number % 5, "rounds": 15, **samples}
    settings |= {"split_seed": number, "seed": 1000 * number, "recover": "budget", "recover_rounds": 2}
    return Federation(f"{number}-{data}-{model}-{alpha:g}", retrains, {**settings, "guard": "adopt"})


KINDS = (
    ("digits", "mlp", 0.1),
    ("digits", "mlp", 1.0),
    ("digits", "mlp", 0.3),
    ("fashion-mnist", "mlp", 0.3),
    ("digits", "cnn", 0.3),
    ("fashion-mnist", "mlp", 1.0),
    ("digits", "mlp", 100.0),
    ("fashion-mnist", "mlp", 0.1),
)
CHOSEN = [
    federation(201 + number, 40 if kind[0] == "digits" else 20, *kind) for number, kind in enumerate((*KINDS, *KINDS))
]
"""The lengths of the two sides of the intervals were chosen on these."""
FRESH = [federation(401 + number, 20, *kind) for number, kind in enumerate(KINDS * 4)]
"""Nothing was chosen on these: their number and settings were fixed before, and each was trained and judged once."""


def measure(one: Federation, work: Path) -> Document:
    """Return the measurements of the models of a federation, from an earlier run where there is one."""
    kept = work / f"{one.name}.json"
    if not kept.is_file():
        folder = work / one.name
        resume = (folder / "settings.json").is_file()
        _, report = run_simulation({**one.settings, "references": one.retrains}, out=folder, resume=resume, workers=1)
        document = {
            "name": one.name,
            "settings": dict(one.settings),
            "samples": report["samples"],
            "stages": {name: _judged(report["stages"][name]) for name in STAGES},
            "retrained": [_judged(model) for model in report["matched"]],
        }
        write_json(kept, document)
        shutil.rmtree(folder)
    kept_document: Document = json.loads(kept.read_text(encoding="utf-8"))
    return kept_document


def _judged(measured: Document) -> Document:
    rate = measured["attacks"]["modified_entropy"]["member_rate"]
    return {**{name: measured[name] for name in JUDGED}, "attacked_as_member": rate}
