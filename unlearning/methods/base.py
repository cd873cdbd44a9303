"""The plug-in interface: what a way of unlearning promises, and where the program finds it by name.

A method is a frozen, slotted dataclass on top of `Method`. Its fields are its settings; `traits` say as data what it
needs, so a server can refuse a request that it cannot serve before anything runs; `serve` is the server's side and
`on_device` the device's. What only devices do needs no `serve`, what only the server does no `on_device`.
Another package adds a method by an entry point in the group "fedquit.methods"; it is loaded only when asked for.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from torch import nn

from fedquit.errors import InputError, unknown
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.plugins import Plugins
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.session import Session, weighted_mean
from fedquit.unlearning.setting_checks import check_count
from fedquit.unlearning.tensors.convert import StateDict

GRANULARITIES = ("client", "sample", "class")
PLACES = ("server", "device", "federation")
HISTORIES = ("none", "initial", "rollback", "last", "every")
STEPS = ("result", "answers", "nothing")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a method can do and what it needs, for programs to read.

    Attributes:
        granularities: what can be forgotten, out of "client", "sample", "class".
        runs_at: "server" (no device takes part), "device" (those that forget do) or "federation" (others do too).
        server_keeps: what the server must store for it, for people: "nothing", "initial model", "all updates", ...
        needs_device: whether the device that asks must be there when its request is served.
        secure_aggregation: whether training can stay under secure aggregation: no single update is read.
        summary: one line for people.
        paper: where it comes from; "" if nowhere in particular.
        restarts: whether what follows is training, from the round that `Method.restart_round` names, not recovery.
        history: the same as `server_keeps`, for programs: "none"; "initial" (the model before round 1); "rollback" (the
            model at the start of every round until each client has taken part once); "last" (the last round); "every"
            (round 1 and every `history_interval`-th after it). A round that is kept is the model at its start and, if
            `keeps_updates`, every client's update.
        history_interval: see `history`.
        needs_model: whether it works on the global model; without, it also serves devices that share none.
        step: what a guard can compare with recent rounds. "result": what `serve` returns is a few steps of an optimizer
            away from the current model. "answers": it is far away by design, and what each device hands back is a few
            steps away from what it was sent. "nothing": no device is asked, the server works with what it has.
        keeps_accuracy: whether what `serve` returns still classifies, so that a guard can ask for a share of the
            accuracy before. FedQUIT's does, though it overshoots; a model that is retrained from the start does not.
    """

    granularities: frozenset[str]
    runs_at: str
    server_keeps: str
    needs_device: bool
    secure_aggregation: bool
    summary: str
    paper: str = ""
    restarts: bool = False
    history: str = "none"
    history_interval: int = 1
    needs_model: bool = True
    step: str = "result"
    keeps_accuracy: bool = True

    def __post_init__(self) -> None:
        for granularity in self.granularities:
            if granularity not in GRANULARITIES:
                raise unknown("granularity", granularity, GRANULARITIES)
        if self.runs_at not in PLACES:
            raise unknown("place to run", self.runs_at, PLACES)
        if self.history not in HISTORIES:
            raise unknown("history", self.history, HISTORIES)
        if self.step not in STEPS:
            raise unknown("step", self.step, STEPS)
        if self.step == "nothing" and self.runs_at != "server":
            raise InputError(f"step 'nothing' is for methods that run at the server, not at the {self.runs_at}")
        check_count("history_interval", self.history_interval)
        if self.history == "last" and self.secure_aggregation:
            raise InputError("history 'last' keeps single updates: secure_aggregation must be False")

    @property
    def destroys(self) -> bool:
        """Whether the model that `serve` returns is of no use until recovery has mended it, which it may never have.

        A server goes back to the model before where recovery fails. One that is trained again needs no mending.
        """
        return not self.keeps_accuracy and not self.restarts

    @property
    def keeps_updates(self) -> bool:
        """Whether the rounds that are kept include single clients' updates."""
        return self.history in ("last", "every") and not self.secure_aggregation


class Method:
    """What every method is: override the sides it has.

    >>> import torch
    >>> METHODS["continue"]().on_device(nn.Linear(1, 2), Samples(torch.ones(1, 1), torch.tensor([0])), seed=0)
    Traceback (most recent call last):
    fedquit.errors.InputError: method 'continue' has no device procedure 'forget'; it has none
    """

    __slots__ = ()

    name: ClassVar[str]
    traits: ClassVar[Traits]

    @property
    def stronger(self) -> str:
        """In words, how a user makes its step longer, for a warning of the guard; empty: a short step is no fault."""
        return ""

    @property
    def undoes(self) -> bool:
        """Whether the step may be as long as those of the longest rounds; it ends once the samples are forgotten.

        Otherwise it is compared with recent rounds, whose steps are short once training has converged.
        """
        return False

    def as_in_run(self, *, epochs: int, batch_size: int) -> Self:  # noqa: ARG002 - the interface
        """Return the method as a run carries it out; itself, unless it leaves settings to the run.

        Args:
            epochs: that a client trains in an ordinary round of the run.
            batch_size: samples per step there.
        """
        return self

    def serve(self, session: Session) -> StateDict:
        """Serve a request at the server, and return the model from which recovery starts.

        Unless a method says otherwise the forgotten clients forget, each from the same g, and the result is
        `g + sum_u w_u (f_u - g)`, w_u being u's share of the forgotten samples. The shares add up to one, so this is
        the mean of the f_u; one forgotten client's model replaces g bit for bit.

        Raises:
            InputError: the session lacks what the method needs.
            FedquitError: a client that is needed did not answer.
        """
        return weighted_mean(session.run("forget", session.forgotten, session.current), session.forgotten)

    def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...] | None:
        """Return an estimate of what `serve` will ask, call by call; None: there is none.

        Optional, and used by `fedquit plan` alone, which says "not estimated" of a method without it. A method that
        leaves `serve` as it is has one: a single request to each forgotten client.
        """
        return (Exchange("forget", outlook.forgotten),) if type(self).serve is Method.serve else None

    def restart_round(self, outlook: Outlook) -> int:  # noqa: ARG002 - the interface
        """Return the round that training continues with after `serve`; asked only if `traits.restarts`."""
        return 1

    def needs(self) -> Traits:
        """Return the traits with this method's own settings in, such as how often a round is kept."""
        return self.traits

    def corrected(
        self,
        sent: StateDict,
        current: StateDict,  # noqa: ARG002 - the interface
        *,
        before: StateDict,  # noqa: ARG002
        unlearned: StateDict,  # noqa: ARG002
        parameters: Collection[str],  # noqa: ARG002
    ) -> StateDict:
        """Return what a client's model counts as in a round of recovery; as sent, unless a method overrides this.

        Args:
            sent: what the client sent.
            current: the global model of the round.
            before: the model that the request met.
            unlearned: what `serve` returned.
            parameters: the entries that are parameters, not buffers.
        """
        return sent

    def forget(self, model: nn.Module, samples: Samples, *, seed: int) -> list[float]:  # noqa: ARG002 - the interface
        """Unlearn `samples` in place on the device; return the mean loss of each epoch, at least one."""
        raise self.no_such_step("forget")

    def on_device(
        self,
        model: nn.Module,
        samples: Samples,
        *,
        seed: int,
        step: str = "forget",
        config: Mapping[str, float] | None = None,
        extra: StateDict | None = None,
    ) -> list[float]:
        """Carry out what `serve` asked for, in place on the device; return losses, at least one.

        A method whose device has one procedure overrides `forget`; one with several overrides this.

        Args:
            model: with the received state; changed in place, and then sent back.
            samples: a forgotten client's samples to forget, or a remaining client's own.
            seed: of this client's exercise.
            step: which procedure.
            config: the numbers that were sent along.
            extra: the tensors that were sent along.
        """
        del config, extra
        if step != "forget":
            raise self.no_such_step(step)
        return self.forget(model, samples, seed=seed)

    def reach(self, num_examples: int) -> float | None:  # noqa: ARG002 - the interface
        """Return how far `on_device` can move any one parameter, given the number of samples; None: unknown.

        It must hold for every device that follows the method: a server refuses what is beyond.
        """
        return None

    def no_such_step(self, step: str, known: Iterable[str] = ()) -> InputError:
        """Return the error for a device procedure that is not there, or lacks what must be sent along."""
        steps = ", ".join(known) or "none"
        return InputError(f"method '{self.name}' has no device procedure '{step}'; it has {steps}")


PLUGINS = Plugins("method", Method, Traits)
METHODS = PLUGINS.ours
"""Every method of fedquit by name; `all_methods` has those of other packages too."""
M = TypeVar("M", bound=type[Method])


def method(cls: M) -> M:
    """Register a method class under its `name`.

    Raises:
        InputError: the name is taken.

    >>> method(METHODS["continue"]).name  # again the same class: nothing changes
    'continue'
    """
    PLUGINS.add(cls)
    return cls


def make_method(name: str, /, **settings: Any) -> Method:
    """Return the method `name` with these settings.

    Raises:
        InputError: no such method, no such setting, or a setting is missing or out of range.
        FedquitError: another package's method cannot be loaded.

    >>> make_method("ascent", lr=1e-3)
    Ascent(lr=0.001, epochs=1, batch_size=32, clip=5.0, max_loss=None)
    """
    return PLUGINS.make(name, settings)


def all_methods() -> dict[str, type[Method]]:
    """Return every method by name, those of other packages included; a built-in name wins over theirs.

    >>> sorted(all_methods()["continue"].traits.granularities)
    ['class', 'client', 'sample']
    """
    return PLUGINS.all()
