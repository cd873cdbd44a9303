"""Metrics of a model: on the server's validation set or, without one, as devices report them of their own samples."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fedquit.client.data.build_data_and_model import form_of
from fedquit.client.device.local_data.gather import gather
from fedquit.errors import UnusableModelError
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.participants.unused_replies import noted
from fedquit.server.coordinator.verification import Verification
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.federation import Federation
from fedquit.server.lifecycle.evaluator import Evaluator
from fedquit.strategies.guard.client_weights import believed, capped
from fedquit.strategies.rounds.evaluate import measure
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import Arrays

NOTHING_HELD = "has no samples"
"""In the reason of a device that holds none of the samples in question; see
`fedquit.client.device.deployed_device`."""


def trusted_samples(folder: Path, federation: Federation) -> Samples | None:
    """Return the validation set of the server in `folder`; None: it has none.

    Raises:
        InputError: it cannot be read.
    """
    path = federation.trusted.data
    return gather(folder / path, form_of(federation.settings()), lambda *_: True).samples if path else None


@dataclass(frozen=True)
class ModelMetrics:
    """Metrics of the models of one federation."""

    place: Workplace

    @cached_property
    def trusted(self) -> Samples | None:
        """The server's validation set; None: it has none."""
        return trusted_samples(self.place.folder, self.place.federation)

    def evaluator(self, gone: Collection[int] = ()) -> Evaluator:
        """Return what evaluates models on the validation set, without the classes `gone`."""
        return Evaluator(self.place.settings, self.trusted).without(gone)

    def of(
        self,
        arrays: Arrays,
        presence: Presence,
        config: Mapping[str, float | str],
        gone: Collection[int] = (),
        verification: Verification | None = None,
    ) -> dict[str, float]:
        """Return `accuracy`, and `loss` in nats: on the validation set, or the mean over devices by their samples.

        {} is returned if there is no validation set and no device replies.

        Args:
            arrays: the model.
            presence: which devices are connected.
            config: what they are sent.
            gone: classes that were forgotten.
            verification: what one device is asked besides, if devices are asked at all.

        Raises:
            UnusableModelError: the loss on the validation set is not a finite number.
        """
        return self.evaluate(arrays, gone) or self._reported(arrays, presence, config, verification)

    def evaluate(self, arrays: Arrays, gone: Collection[int] = ()) -> dict[str, float]:
        """Return `accuracy`, and `loss` in nats, on the validation set; {}: there is none. No device is asked.

        Raises:
            UnusableModelError: the loss is not a finite number.
        """
        metrics = self.evaluator(gone).metrics(arrays)
        if not math.isfinite(metrics.get("loss", 0.0)):
            raise UnusableModelError("the model's loss on trusted data is not a finite number")
        return metrics

    def _reported(
        self,
        arrays: Arrays,
        presence: Presence,
        config: Mapping[str, float | str],
        verification: Verification | None,
    ) -> dict[str, float]:
        reported, counts = dict[int, Mapping[str, float]](), dict[int, int]()
        own = {verification.member: verification.config} if verification else {}
        for member, count, metrics in measure(self.place.grid, presence.ready, arrays, config, self._on_reply, own=own):
            if verification and member == verification.member:
                verification.take(metrics)
            if "accuracy" in metrics:
                reported[member], counts[member] = metrics, count
        return _mean(reported, self._weights(counts))

    def _weights(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Return the weight of each device's report; see `client_weights`."""
        cap = self.place.settings.weight_cap
        return capped(believed(counts, {}), cap) if cap else dict(counts)

    def _on_reply(self, member: int, refused: str | None) -> None:
        """Name a reply that is not used in the audit log; to hold no samples is no fault."""
        if refused and NOTHING_HELD not in refused:
            noted(self.place, "evaluate", self.place.next_number())(member, refused)


def _mean(reported: Mapping[int, Mapping[str, float]], weights: Mapping[int, int]) -> dict[str, float]:
    """Return the weighted means of what devices reported, in whatever order; {} if none did."""
    names = ("accuracy", "loss") if reported else ()
    total = sum(weights.values())
    return {
        name: math.fsum(weights[member] * reported[member].get(name, 0.0) for member in sorted(reported)) / total
        for name in names
    }
