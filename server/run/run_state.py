"""How far a run is: all that a checkpoint must hold besides the models."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from fedquit.errors import InputError
from fedquit.server.run.phases import nth

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Round:
    """A finished round as state.json has it: what it measured and what it cost.

    Attributes:
        phase: train, forget, recover, later, retrain, retrain-1, ...
        number: how many rounds the new model has been trained for.
        exchanges: how often the server sent messages and waited; 1 except for some methods of forgetting.
        participants: the clients whose replies went into the model; `refused` replies did not.
        loss: mean training loss (nats) over their samples.
        seconds: from the first message to the new model.
        device_seconds: of processor time, over all devices.
        measures: accuracies of the new model, such as `holdout_accuracy`.
        bytes_down: payload from the server; `bytes_up`: to the server.
        update_norm: median length of single clients' steps, parameters alone; `update_norm_mad`: their median absolute
            deviation. None: no model is shared.
        compression_error_down: relative L2 error of the models sent, their mean; `compression_error_up`: of the
            replies, as devices report it; None: they were not compressed.
    """

    phase: str
    number: int
    exchanges: int
    participants: tuple[int, ...]
    refused: int
    loss: float
    seconds: float
    device_seconds: float
    measures: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    compression_error_down: float | None = None
    compression_error_up: float | None = None
    update_norm: float | None = None
    update_norm_mad: float | None = None

    def event(self) -> dict[str, Any]:
        """Return the facts of the event "round"."""
        errors = {
            "compression_error_down": self.compression_error_down,
            "compression_error_up": self.compression_error_up,
        }
        return {
            "phase": self.phase,
            "round": self.number,
            "clients": len(self.participants),
            "refused": self.refused,
            "loss": self.loss,
            **self.measures,
            "bytes_down": self.bytes_down,
            "bytes_up": self.bytes_up,
            **{name: error for name, error in errors.items() if error is not None},
            "seconds": self.seconds,
            "device_seconds": self.device_seconds,
        }

    @property
    def norms(self) -> dict[str, float]:
        """The statistics of the clients' steps, as `ObservedRound` made them; {}: there are none."""
        found = {"update_norm": self.update_norm, "update_norm_mad": self.update_norm_mad}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class State:
    """Finished rounds, the models that matter (by the SHA-256 of their files), and how each phase ended.

    Attributes:
        models: name of a stage (initial, original, unlearned, recovered, retrained, ...) -> SHA-256.
        current: SHA-256 of the model that the unfinished phase has reached.
        beside: SHA-256 of the objective's state, see `RoundState`; or None.
        moments: SHA-256 of the optimizer state, see `RoundState`; or None.
        ended: phase -> why it ended, in words; `reached`: phase -> whether its goal was met.
        recent: phase -> the last models of its rounds, the one before them first: what the guard compares with. Those
            of training stay, for runs that start from it.
        guard: phase -> what the guard decided about its model, as `Decision.document` has it.
        devices: stage -> client -> what that device reported of its personalised model, where devices have one.
        events_size: bytes of events.jsonl that belong to this state; `costs_size`: of costs.csv.
        costs_tail: the last of those of costs.csv, if they may not be on the disk yet.
        matches: whether models are trained on for the verdict; not in a run that an earlier version began.
    """

    rounds: tuple[Round, ...] = ()
    models: dict[str, str] = field(default_factory=dict)
    current: str | None = None
    beside: str | None = None
    moments: str | None = None
    ended: dict[str, str] = field(default_factory=dict)
    reached: dict[str, bool] = field(default_factory=dict)
    recent: dict[str, tuple[str, ...]] = field(default_factory=dict)
    guard: dict[str, dict[str, Any]] = field(default_factory=dict)
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)
    events_size: int = 0
    costs_size: int = 0
    costs_tail: str = ""
    matches: bool = True

    def of(self, phase: str) -> tuple[Round, ...]:
        """Return the finished rounds of a phase."""
        return tuple(r for r in self.rounds if r.phase == phase)

    def rounds_since_training(self, num_requests: int) -> int | None:
        """Return how many more rounds the recovered model was trained for than the original; None: there is none yet.

        A method that restarts may end with as many rounds as the original has.
        """
        last = nth("recover", num_requests - 1)
        if last not in self.ended:
            return None
        reached = [max((r.number for r in self.of(phase)), default=0) for phase in ("train", last)]
        return max(0, reached[1] - reached[0])

    def named_models(self) -> set[str]:
        """Return the models that must be kept."""
        recent = {name for names in self.recent.values() for name in names}
        return {*self.models.values(), *recent, *filter(None, (self.current, self.beside, self.moments))}

    @property
    def refused(self) -> str | None:
        """The phase whose model the guard refused, with which the run is over; None: there is none."""
        return next((phase for phase, decided in self.guard.items() if decided["verdict"] == "refuse"), None)

    def with_round(self, finished: Round, model: str, beside: str | None = None, moments: str | None = None) -> Self:
        """Return the state after a round that ended in `model`, with `beside` and `moments` kept for the next one."""
        return replace(self, rounds=(*self.rounds, finished), current=model, beside=beside, moments=moments)

    def with_model(self, stage: str, model: str) -> Self:
        """Return the state in which `stage` is `model`."""
        return replace(self, models={**self.models, stage: model})

    def with_devices(self, stage: str, reports: Mapping[str, Any]) -> Self:
        """Return the state with what devices reported of their personalised models at `stage`."""
        return replace(self, devices={**self.devices, stage: dict(reports)})

    def with_recent(self, phase: str, before: str, most: int) -> Self:
        """Return the state that remembers the phase's last models, at most this many, and the one before them."""
        seen = self.recent.get(phase, (before,))
        return replace(self, recent={**self.recent, phase: (*seen, self.current or before)[-most - 1 :]})

    def with_guard(self, phase: str, after: str, decision: Mapping[str, Any]) -> Self:
        """Return the state in which the guard decided so about a phase's model.

        What it compared with, the models of the phase `after` which it came, is forgotten, unless that is training.
        """
        recent = {name: models for name, models in self.recent.items() if name != after or name == "train"}
        return replace(self, guard={**self.guard, phase: dict(decision)}, recent=recent)

    def with_refusal(self, phase: str, finished: "Round", reason: str) -> Self:
        """Return the state in which `phase` is over without a model: the guard refused it."""
        return replace(
            self,
            rounds=(*self.rounds, finished),
            ended={**self.ended, phase: reason},
            reached={**self.reached, phase: False},
        )

    def with_end(self, phase: str, stage: str, model: str, reason: str, *, reached: bool) -> Self:
        """Return the state in which `phase` is over and its outcome is known as `stage`."""
        return replace(
            self.with_model(stage, model),
            current=None,
            beside=None,
            moments=None,
            ended={**self.ended, phase: reason},
            reached={**self.reached, phase: reached},
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], source: str) -> Self:
        """Return the state of a document that `to_json` made.

        Raises:
            InputError: another version made it, or it is not a state.
        """
        try:
            fields = {"matches": False, **document}
            version = fields.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise InputError(f"{source} has schema version {version}, this fedquit reads {SCHEMA_VERSION}")
            rounds = tuple(
                Round(**{**finished, "participants": tuple(finished["participants"])})
                for finished in fields.pop("rounds")
            )
            recent = {phase: tuple(names) for phase, names in fields.pop("recent", {}).items()}
            return cls(rounds=rounds, recent=recent, **fields)
        except InputError:
            raise
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise InputError(f"{source} is not the state of a run: {error!r}") from None
