"""The plug-in interface: the loss of a local round, its state, what is sent and received; and the registry.

An objective is a frozen, slotted dataclass on top of `Objective`. Its fields are its settings; `traits` say as data
what it needs. One that exchanges whole models overrides `loss`, from the model that came and the device's samples to
the loss of a batch; one that exchanges something else overrides `train`, which gets all that came and the device's
state, and returns what is sent and the new state. `broadcast` returns what the server sends along with the model.
Another package adds one by an entry point in the group "fedquit.objectives"; it is loaded only when asked for.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch import nn

from fedquit.client.objectives.base.sharing import Sharing
from fedquit.client.training.sgd import Loss, cross_entropy, fit
from fedquit.errors import unknown
from fedquit.unlearning.plugins import Plugins
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import StateDict

KEEPS = ("nothing", "previous model", "own model", "own teacher")
TRAVELS = ("model", "two models", "model and generator", "factors", "class logits", "prototypes", "open logits")

SHARES = ("model", "answers")


@dataclass(frozen=True, slots=True)
class Traits:
    """What an objective needs, for programs to read.

    Attributes:
        summary: one line for people.
        paper: where it comes from; "" if nowhere in particular.
        down: what travels to a device in a round; `up`: from it: words in `TRAVELS`.
        keeps: the state on a device's disk from one round to the next, a word in `KEEPS`.
        shares: what the server has from round to round: one "model", or what each device has said last, "answers";
            then there is no global model.
        same_model: whether all devices must have the same architecture.
        gated: whether it has a term of each sample, so that a gate can choose among them.
    """

    summary: str
    paper: str = ""
    down: str = "model"
    up: str = "model"
    keeps: str = "nothing"
    shares: str = "model"
    same_model: bool = True
    gated: bool = False

    def __post_init__(self) -> None:
        for word in (self.down, self.up):
            if word not in TRAVELS:
                raise unknown("thing that travels", word, TRAVELS)
        if self.keeps not in KEEPS:
            raise unknown("thing to keep", self.keeps, KEEPS)
        if self.shares not in SHARES:
            raise unknown("thing to share", self.shares, SHARES)

    @property
    def owns(self) -> bool:
        """Whether a device has a personalised model, which it trains from round to round."""
        return self.keeps.startswith("own")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRound:
    """One device's round: hyperparameters, what came along with the model, and the state of its last round.

    Attributes:
        seed: of the shuffle.
        lr: step size of SGD; `epochs`, `batch_size`, `momentum`, `weight_decay`: its other settings.
        extra: the tensors that `Objective.broadcast` sent along with the model; None: none.
        state: this device's state after the last round it took part in; None: this is its first.
        shared: what `Sharing.down` sent, where a device trains a personalised model.
        mentee: a model of the kind that the federation shares, to be filled, where it is another than the device's own.
        progress: how far training is at the end of this round, from 0 to 1.
    """

    seed: int
    lr: float
    epochs: int = 1
    batch_size: int = 32
    momentum: float = 0.0
    weight_decay: float = 0.0
    extra: StateDict | None = None
    state: StateDict | None = None
    shared: StateDict = field(default_factory=dict)
    mentee: nn.Module | None = None
    progress: float = 0.0


def progress(number: int, rounds: int) -> float:
    """Return the fraction of training that is done after round `number` of `rounds`; 1 in all phases after it.

    >>> progress(5, 20), progress(25, 20)
    (0.25, 1.0)
    """
    return min(1.0, number / rounds)


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a round: the last epoch's mean loss, what is sent, the state for the next (None: none)."""

    loss: float
    send: StateDict
    keep: StateDict | None = None


class Objective:
    """What every objective is: override the sides it has.

    >>> import torch
    >>> samples, local_round = Samples(torch.ones(2, 1), torch.tensor([0, 1])), LocalRound(seed=0, lr=0.1)
    >>> done = OBJECTIVES["fedavg"]().train(nn.Linear(1, 2), samples, local_round)
    >>> sorted(done.send), done.keep
    (['bias', 'weight'], None)
    """

    __slots__ = ()

    name: ClassVar[str]
    traits: ClassVar[Traits]

    def needs(self) -> Traits:
        """Return the traits with this objective's own settings in."""
        return self.traits

    def check(self, model: nn.Module) -> None:
        """Refuse a model that this objective cannot train, before anything runs.

        Raises:
            InputError: it cannot.
        """

    def shaped(self, model: nn.Module) -> nn.Module:
        """Return a device's personalised model as this objective trains it; it may be changed in place."""
        return model

    def own_model(self, state: StateDict) -> StateDict:
        """Return the weights of a device's personalised model in its state."""
        return state

    def sharing(self, model: nn.Module, classes: int) -> Sharing:  # noqa: ARG002 - the interface
        """Return the server's side: what is shared, and how.

        Args:
            model: one that devices train, as `shaped` returns it; all of them must share alike.
            classes: C.
        """
        return Sharing()

    def broadcast(
        self,
        current: StateDict,  # noqa: ARG002 - the interface
        state: StateDict | None,  # noqa: ARG002
    ) -> tuple[StateDict | None, StateDict | None]:
        """Return what the server sends along with the global model, and its state for the next round; None: nothing.

        Args:
            current: the global model at the start of the round.
            state: what this returned in the round before; None in the first round of a phase.
        """
        return None, None

    def loss(
        self,
        model: nn.Module,  # noqa: ARG002 - the interface
        samples: Samples,  # noqa: ARG002
        local_round: LocalRound,  # noqa: ARG002
    ) -> Loss:
        """Return what is minimised on a batch, made before the model moves: it is still the global one."""
        return cross_entropy

    def train(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Done:
        """Carry out a round on the device: train `model`, which came from the server or is its own, in place."""
        value = fit(
            model,
            samples,
            loss=self.loss(model, samples, local_round),
            lr=local_round.lr,
            epochs=local_round.epochs,
            batch_size=local_round.batch_size,
            momentum=local_round.momentum,
            weight_decay=local_round.weight_decay,
            seed=local_round.seed,
        )
        state = model.state_dict()
        return Done(value, state, state if self.needs().keeps == "previous model" else None)


PLUGINS = Plugins("objective", Objective, Traits)
OBJECTIVES = PLUGINS.ours
"""Every objective of fedquit by name; `all_objectives` has those of other packages too."""
O = TypeVar("O", bound=type[Objective])  # noqa: E741


def objective(cls: O) -> O:
    """Register an objective's class under its `name`.

    Raises:
        InputError: the name is taken.

    >>> objective(OBJECTIVES["fedavg"]).name  # again the same class: nothing changes
    'fedavg'
    """
    PLUGINS.add(cls)
    return cls


def make_objective(name: str, /, **settings: Any) -> Objective:
    """Return the objective `name` with these settings.

    Raises:
        InputError: no such objective, no such setting, or a setting is missing or out of range.
        FedquitError: another package's objective cannot be loaded.

    >>> make_objective("fedprox", mu=0.1)
    FedProx(mu=0.1)
    """
    return PLUGINS.make(name, settings)


def all_objectives() -> dict[str, type[Objective]]:
    """Return every objective by name, those of other packages included; a built-in name wins over theirs.

    >>> all_objectives()["moon"].traits.keeps
    'previous model'
    """
    return PLUGINS.all()
