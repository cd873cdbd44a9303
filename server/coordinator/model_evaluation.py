"""How good a model is: on data that the server trusts, or else on the devices' own, as they say."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from fedquit.client.data.build_data_and_model import form_of
from fedquit.client.device.device import model_with
from fedquit.client.device.local_data.gather import gather
from fedquit.client.training.sgd import evaluate
from fedquit.errors import UnusableModelError
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.participants.unused_replies import noted
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.federation import Federation
from fedquit.server.lifecycle.round_evaluation import accuracy_of, usable
from fedquit.strategies.guard.client_weights import believed, capped
from fedquit.strategies.guard.round_screen import Verdict
from fedquit.strategies.guard.step_checks import Accuracy
from fedquit.strategies.rounds.evaluate import measure
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import Arrays, tensors_of

NOTHING_HELD = "has no samples"
"""In the reason of a device that holds nothing of what it is asked about; see
`fedquit.client.device.deployed_device`."""


def trusted_samples(folder: Path, federation: Federation) -> Samples | None:
    """Return the samples that the server in `folder` trusts; None: it has none.

    Raises:
        InputError: they cannot be read.
    """
    path = federation.trusted.data
    return gather(folder / path, form_of(federation.settings()), lambda *_: True).samples if path else None


@dataclass(frozen=True)
class Evaluator:
    """Measures models for one workplace."""

    place: Workplace

    @cached_property
    def trusted(self) -> Samples | None:
        """The server's own samples; None: it has none."""
        return trusted_samples(self.place.folder, self.place.federation)

    def look(self, before: Arrays, gone: Collection[int] = ()) -> Callable[[Arrays], Verdict]:
        """Return what says whether the model of a round that began with `before` can be used; see `usable`."""
        return usable(self.place.settings, before, self._left(gone), self.place.settings.accuracy_floor)

    def accuracy(self, arrays: Arrays, gone: Collection[int] = ()) -> Accuracy | None:
        """Return the accuracy on trusted data, the classes `gone` left out; None: there is none."""
        samples = self._left(gone)
        if samples is None or not len(samples):
            return None
        return accuracy_of(model_with(self.place.settings, tensors_of(arrays)), samples)

    def measure(
        self, arrays: Arrays, presence: Presence, config: Mapping[str, float | str], gone: Collection[int] = ()
    ) -> dict[str, float]:
        """Return `accuracy`, and `loss` in nats: on trusted data, or on the devices' own, weighted by their samples.

        Nothing comes back if there is no trusted data and no device answers.

        Args:
            arrays: the model.
            presence: who is there.
            config: what devices are told.
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
        said, counts = dict[int, dict[str, float]](), dict[int, int]()
        for member, count, metrics in measure(self.place.grid, presence.ready, arrays, config, self._hear):
            if "accuracy" in metrics:
                said[member], counts[member] = metrics, count
        return _mean(said, self._weights(counts))

    def _weights(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Return how much each device's word counts; see `weights`."""
        cap = self.place.settings.weight_cap
        return capped(believed(counts, {}), cap) if cap else dict(counts)

    def _hear(self, member: int, refused: str | None) -> None:
        """Name in the audit log an answer that is not used; to hold no samples is no fault."""
        if refused and NOTHING_HELD not in refused:
            noted(self.place, "evaluate", self.place.next_number())(member, refused)

    def _left(self, gone: Collection[int]) -> Samples | None:
        if self.trusted is None or not gone:
            return self.trusted
        return self.trusted.subset((~torch.isin(self.trusted.labels, torch.tensor(sorted(gone)))).nonzero().flatten())


def _mean(said: Mapping[int, Mapping[str, float]], weights: Mapping[int, int]) -> dict[str, float]:
    """Return the weighted means of what devices said, whoever said it first; empty if nobody did."""
    names = ("accuracy", "loss") if said else ()
    total = sum(weights.values())
    return {n: math.fsum(weights[m] * said[m].get(n, 0.0) for m in sorted(said)) / total for n in names}
