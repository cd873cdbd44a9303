"""The metrics of a model on the forgotten data, reported by the device that still has that data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedquit.server.ledger import Request

NAMES = ("forget-loss", "forget-accuracy")
"""Metrics on what was forgotten, beside those on what a device keeps."""


@dataclass(slots=True)
class Verification:
    """One device's report of one model, asked for in the message that has it evaluate the model.

    Attributes:
        request: id of the request.
        member: the device.
        step: number of the step whose model it is about.
        config: what the device is sent for it.
        metrics: what it reported, `forget_loss` and `forget_accuracy`; {}: nothing.
    """

    request: str
    member: int
    step: int
    config: Mapping[str, float | str]
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, step: int) -> "Verification":
        """Return the verification of the model of a step of a request's recovery."""
        config: dict[str, float | str] = {"verify": 1, "request": request.id, "granularity": request.granularity}
        return cls(request.id, request.subject, step, config)

    def take(self, reported: Mapping[str, float]) -> None:
        """Take the metrics of the device's reply; a device of an older version reports none of them."""
        if all(name in reported for name in NAMES):
            self.metrics = {name.replace("-", "_"): reported[name] for name in NAMES}

    def is_of(self, request: str, step: int) -> bool:
        """Say whether the device reported, of the model of this step of this request."""
        return bool(self.metrics) and (self.request, self.step) == (request, step)
