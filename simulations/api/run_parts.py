"""The parts of a run's report: a measured model, what a phase cost, a request. Fields are keys of report.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A model of a run, measured. Accuracies and rates are shares from 0 to 1, losses are in nats.

    Attributes:
        forget_accuracy: on the samples of the requests.
        retain_accuracy: on all other training samples.
        test_accuracy: on samples that nobody trained on.
        forget_loss: mean cross-entropy on the samples of the requests.
        retain_loss: on all other training samples.
        test_loss: on samples that nobody trained on.
        worst_class_accuracy: the lowest test accuracy of a class.
        per_class_accuracy: test accuracy of each class [C]; None: no sample of it.
        worst_client: the client with the lowest accuracy on its own samples.
        worst_client_accuracy: that accuracy.
        per_client_accuracy: "forget" and "retain" -> client -> accuracy on its own samples.
        forget_accuracy_by_request: accuracy on the samples of each request.
        attacks: attack -> `member_rate` (share of the samples to forget that it calls members), and for most
            `nonmember_rate` (share of unseen samples that it calls non-members) and `accuracy` (mean of both).
        model_sha256: of the model's file; "": no model is shared.
        scores: logit confidence of each sample to forget, separated by spaces; None: not of personalised models.
        devices: client -> its personalised model and accuracies; None: all share one model.
    """

    forget_accuracy: float
    retain_accuracy: float
    test_accuracy: float
    forget_loss: float
    retain_loss: float
    test_loss: float
    worst_class_accuracy: float
    per_class_accuracy: list[float | None]
    worst_client: int
    worst_client_accuracy: float
    per_client_accuracy: Mapping[str, Mapping[str, float]]
    forget_accuracy_by_request: list[float]
    attacks: Mapping[str, Mapping[str, float]]
    model_sha256: str = ""
    scores: str | None = None
    devices: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What a phase of a run cost.

    Attributes:
        rounds: how often the server sent messages and waited for replies.
        bytes_down: payload of the messages from the server.
        bytes_up: payload of the messages to the server.
        seconds: without the server's evaluation between rounds.
        device_seconds: of processor time, over all devices.
        compression_error_down: relative L2 error of the models sent, mean over the rounds; None: not compressed.
        compression_error_up: of the replies.
    """

    rounds: int
    bytes_down: int
    bytes_up: int
    seconds: float
    device_seconds: float
    compression_error_down: float | None = None
    compression_error_up: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """What forgetting and recovery cost together, as shares of what retraining cost."""

    bytes: float
    rounds: float
    seconds: float
    device_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request of a run.

    Attributes:
        clients: who asked.
        samples: number of samples that it was about.
        guard: what the guard decided about the method's model (`verdict`, `findings`, `off`); None: it saw none.
        forget_accuracy: model -> accuracy on the samples of this request, 0 to 1.
        phases: "forget" and "recover" -> what it cost, under the keys of `Phase`; None: there was none.
    """

    clients: list[int]
    samples: int
    forget_accuracy: Mapping[str, float]
    phases: Mapping[str, Mapping[str, Any] | None]
    guard: Mapping[str, Any] | None = None
