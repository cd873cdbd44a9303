"""How good a model is: on data that the server trusts, or else on the devices' own, as they say."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from fedquit.client.device import model_with
from fedquit.client.local.data import gather
from fedquit.client.share import form_of
from fedquit.client.training import evaluate
from fedquit.errors import FedquitError
from fedquit.server.coordinator.presence import Presence
from fedquit.server.coordinator.replies import noted
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.federation import Federation
from fedquit.server.judge import accuracy_of, tensors_of
from fedquit.server.models import Arrays
from fedquit.strategies.guard.step_checks import Accuracy
from fedquit.strategies.measure import measure
from fedquit.unlearning.samples import Samples

NOTHING_HELD = "has no samples"
"""In the reason of a device that holds nothing of what it is asked about; see `fedquit.client.deployed`."""


class UnusableModelError(FedquitError):
    """A model that gives no numbers."""


def trusted_samples(folder: Path, federation: Federation) -> Samples | None:
    """Return the samples that the server in `folder` trusts; None: it has none.

    Raises:
        InputError: they cannot be read.
    """
    path = federation.trusted.data
    return gather(folder / path, form_of(federation.settings()), lambda *_: True).samples if path else None


@dataclass(frozen=True)
class Judge:
    """Measures models for one workplace."""

    place: Workplace

    @cached_property
    def trusted(self) -> Samples | None:
        """The server's own samples; None: it has none."""
        return trusted_samples(self.place.folder, self.place.federation)

    def accuracy(self, arrays: Arrays, gone: Collection[int] = ()) -> Accuracy | None:
        """Return the accuracy on trusted data, the classes `gone` left out; None: there is none."""
        samples = self._left(gone)
        if samples is None or not len(samples):
            return None
        return accuracy_of(model_with(self.place.settings, tensors_of(arrays)), samples)

    def measure(
        self, arrays: Arrays, presence: Presence, told: Mapping[str, float | str], gone: Collection[int] = ()
    ) -> dict[str, float]:
        """Return `accuracy`, and `loss` in nats: on trusted data, or on the devices' own, weighted by their samples.

        Nothing comes back if there is no trusted data and no device answers.

        Args:
            arrays: the model.
            presence: who is there.
            told: what devices are told.
            gone: classes that were forgotten.

        Raises:
            UnusableModelError: what the model says of trusted data is no number.
        """
        samples = self._left(gone)
        if samples is not None and len(samples):
            loss, accuracy = evaluate(model_with(self.place.settings, tensors_of(arrays)), samples)
            if not math.isfinite(loss):
                raise UnusableModelError("the model's loss on trusted data is not a finite number")
            return {"accuracy": accuracy, "loss": loss}
        sums = {"accuracy": 0.0, "loss": 0.0}
        weight = 0
        answers = measure(self.place.grid, presence.ready, arrays, told, self._hear)
        for _, count, metrics in sorted(answers, key=lambda answer: answer[0]):
            if "accuracy" in metrics:
                weight += count
                sums = {name: value + count * metrics.get(name, 0.0) for name, value in sums.items()}
        return {name: value / weight for name, value in sums.items()} if weight else {}

    def _hear(self, member: int, refused: str | None) -> None:
        """Name in the audit log an answer that is not used; to hold no samples is no fault."""
        if refused and NOTHING_HELD not in refused:
            noted(self.place, "evaluate", self.place.next_number())(member, refused)

    def _left(self, gone: Collection[int]) -> Samples | None:
        if self.trusted is None or not gone:
            return self.trusted
        return self.trusted.subset((~torch.isin(self.trusted.labels, torch.tensor(sorted(gone)))).nonzero().flatten())
