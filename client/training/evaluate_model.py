"""One model on D_f, D_r and D_t: what it answers, and the measures of that.

Shared by the report of a run, by `fedquit audit` and by devices that measure models of their own, so that all mean the
same by the same name.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from fedquit.client.data.evaluation_sets import Sets
from fedquit.documents import Document
from fedquit.unlearning.evaluation.measures import (
    accuracy,
    group_accuracy,
    losses,
    per_class_accuracy,
    predict_log,
    threshold_attacks,
    worst_group,
    yeom,
)

PARTS = ("forget", "retain", "test")


@dataclass(frozen=True, slots=True)
class Outputs:
    """A model's log-probabilities [N, C] and the labels [N] of each of `PARTS`."""

    log_p: dict[str, Tensor]
    labels: dict[str, Tensor]

    def pair(self, part: str) -> tuple[Tensor, Tensor]:
        """Return probabilities and labels of a part."""
        return self.log_p[part].exp(), self.labels[part]


def outputs_of(model: nn.Module, sets: Sets) -> Outputs:
    """Ask a model about each sample once."""
    parts = {part: getattr(sets, part) for part in PARTS}
    log_p = {part: predict_log(model, samples) for part, samples in parts.items()}
    return Outputs(log_p, {part: samples.labels for part, samples in parts.items()})


def measure(outputs: Outputs, sets: Sets) -> Document:
    """Return accuracies, losses and attacks on the population, which overstate privacy; and who the means hide."""
    loss = {part: losses(outputs.log_p[part], outputs.labels[part]) for part in PARTS}
    retain_loss = float(loss["retain"].mean())
    return {
        **{f"{part}_accuracy": accuracy(*outputs.pair(part)) for part in PARTS},
        **{f"{part}_loss": float(loss[part].mean()) for part in PARTS},
        **_groups(outputs, sets),
        "attacks": {**_attacks(outputs), "yeom": {"member_rate": yeom(loss["forget"], retain_loss)}},
    }


def _groups(outputs: Outputs, sets: Sets) -> Document:
    """Return the accuracy of each class on D_t, of each client on its own training samples, and of each request."""
    by_class = per_class_accuracy(*outputs.pair("test"))
    by = {part: group_accuracy(outputs.log_p[part], outputs.labels[part], sets.owners[part]) for part in sets.owners}
    worst, lowest = worst_group(by["retain"])
    by_request = group_accuracy(outputs.log_p["forget"], outputs.labels["forget"], sets.requests)
    return {
        "worst_class_accuracy": float(by_class[~by_class.isnan()].min()),
        "per_class_accuracy": shares(by_class),
        "worst_client": worst,
        "worst_client_accuracy": lowest,
        "per_client_accuracy": {part: {str(client): share for client, share in by[part].items()} for part in by},
        "forget_accuracy_by_request": [share for _, share in sorted(by_request.items())],
    }


def _attacks(outputs: Outputs) -> dict[str, dict[str, float]]:
    """Attack the forgotten samples: is each called a member, going by what retained and test samples look like?

    Members and non-members to learn from are as many as there are; every second test sample is kept to attack.
    """
    p, y = outputs.pair("test")
    return threshold_attacks(outputs.pair("retain"), (p[::2], y[::2]), outputs.pair("forget"), (p[1::2], y[1::2]))


def shares(by_class: Tensor) -> list[float | None]:
    """Return accuracies per class as JSON has them: None for a class without samples.

    >>> shares(Tensor([0.5, float("nan")]))
    [0.5, None]
    """
    return [None if value != value else value for value in by_class.tolist()]
