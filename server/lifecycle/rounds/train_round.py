"""Train for one round: what devices are sent, the model that their replies make, and what is kept for the next one."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedquit.client.objectives import Objective, Sharing
from fedquit.server.lifecycle.rounds.objective_travel import Shared
from fedquit.server.lifecycle.rounds.round_order import Order
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.guard.round_screen import Limits, Screen, Settled
from fedquit.strategies.rounds.aggregate import Aggregate
from fedquit.strategies.rounds.reply import OnReply, Reply, ReplyDetail
from fedquit.strategies.rounds.train import Correct, OnAsk, Train
from fedquit.strategies.rounds.travel import Apart
from fedquit.strategies.rules import Opening, Rule
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of, tensors_of

OnBounded = Callable[[int, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class RoundState:
    """What the server keeps besides the model from one round of a phase to the next.

    Attributes:
        objective_state: for the objective, as `Objective.broadcast` says.
        optimizer_state: for the rule, as `Aggregate.result` says.
    """

    objective_state: Arrays | None = None
    optimizer_state: Arrays | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """The model that a round made, and what its replies were.

    Attributes:
        taken: client -> number of samples that it is believed to have, and their digest if it sent one.
        refused: replies that did not go into the model.
        loss: mean training loss, nats.
        seconds: from the first message to the new model; `device_seconds`: processor time over all devices.
        adopted: whether the replies made a model that can be used; if not, the model and what was kept are as before.
        off: why the model of all replies could not be used; "": it could. `found`: the client to blame, if certain.
        checks: figures of the checks on the replies; the next rounds get them as `Limits.usual`.
    """

    arrays: Arrays
    state: RoundState
    taken: Mapping[int, tuple[int, str]]
    refused: int
    loss: float
    seconds: float
    device_seconds: float
    adopted: bool = True
    off: str = ""
    found: int | None = None
    checks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What is called with a round's replies.

    Attributes:
        on_reply: with every reply, and why it is refused.
        on_taken: with those that are used.
        reply_detail: what `on_taken` reads of them.
        on_ask: with the requests that replies carry.
        on_bounded: with what in a reply is far above its bound.
    """

    on_reply: OnReply = lambda _client, _reason: None
    on_taken: Callable[[Reply], None] = lambda _reply: None
    reply_detail: ReplyDetail = ReplyDetail.MODELS
    on_ask: OnAsk = lambda _client, _ask, _signature: None
    on_bounded: OnBounded = lambda _client, _facts: None


def train_round(
    grid: MeteredGrid,
    order: Order,
    arrays: Arrays,
    state: RoundState,
    *,
    objective: Objective,
    rule: Rule,
    names: frozenset[str],
    correct: Correct | None = None,
    callbacks: Callbacks | None = None,
    sharing: Sharing | None = None,
    limits: Limits | None = None,
) -> Trained:
    """Carry out a round with the clients that `grid` shows.

    Args:
        grid: after `begin`, which says what its messages count to, and who is left out.
        order: what the round is to be.
        arrays: the global model, or what else is shared.
        state: of the phase's round before.
        objective: what devices minimise; it may send more than the model.
        rule: what makes one model of the replies.
        names: the model's entries that are parameters, not buffers.
        correct: from a client's model and the global one to what goes into the mean.
        callbacks: what is called with the replies.
        sharing: what is shared and how, where devices train models of their own; None: the global model.
        limits: how much one reply may do; None: replies are added as they come.

    Raises:
        FedquitError: too few replies can be used, or they make no model.
    """
    started, taken, callbacks = time.perf_counter(), dict[int, tuple[int, str]](), callbacks or Callbacks()

    def take(reply: Reply) -> None:
        taken[reply.client] = (reply.num_examples, reply.samples_digest)
        callbacks.on_taken(reply)

    averages = sharing is None or sharing.averages
    strategy = Train(
        grid,
        seed=order.seed,
        draws=order.drawn_as,
        own=order.own,
        fraction=order.fraction,
        on_reply=callbacks.on_reply,
        on_taken=take,
        reply_detail=callbacks.reply_detail,
        on_ask=callbacks.on_ask,
        correct=correct,
        begin=_opener(rule, order, names, state.optimizer_state) if averages else _apart,
        needs=rule.needs(),
        parameters=names if sharing is None else None,
        screen=None if limits is None else lambda sent: Screen(limits, sent, names),
    )
    config = {"lr": order.lr, **order.config}
    if sharing is None:
        before = None if state.objective_state is None else tensors_of(state.objective_state)
        extra, keep = objective.broadcast(tensors_of(arrays), before)
        new, metrics = strategy.round(order.number, arrays, config, None if extra is None else arrays_of(extra))
        objective_state: Arrays | None = None if keep is None else arrays_of(keep)
    else:
        shared = Shared(sharing, arrays, state.objective_state, order.before)
        made, metrics = strategy.round(order.number, arrays, config, travel=shared)
        new, objective_state = shared.adopt(made, order.progress)
    settled = strategy.settled or Settled(None)
    adopted = strategy.settled is None or settled.made is not None
    return Trained(
        arrays=new,
        state=RoundState(objective_state, strategy.state) if adopted else state,
        taken=dict(sorted(taken.items())),
        refused=int(metrics["refused"]),
        loss=metrics["loss"],
        seconds=time.perf_counter() - started,
        device_seconds=metrics["device-seconds"],
        adopted=adopted,
        off=settled.reason,
        found=settled.found,
        checks=settled.measures,
    )


def _apart(sent: Arrays, asked: int) -> Aggregate:
    """Begin a round whose replies are not averaged."""
    del sent, asked
    return Apart()


def correction(
    method: Method, before: Callable[[], StateDict], unlearned: Callable[[], StateDict], names: frozenset[str]
) -> Correct | None:
    """Return what a method does to the models of a recovery round; None: nothing.

    Args:
        method: that served the request.
        before: gives the model that the request met.
        unlearned: gives the one that recovery began with.
        names: the entries that are parameters, not buffers.
    """
    if type(method).corrected is Method.corrected:
        return None
    met, began = before(), unlearned()

    def correct(sent: Arrays, current: Arrays) -> Arrays:
        new = method.corrected(tensors_of(sent), tensors_of(current), before=met, unlearned=began, parameters=names)
        return arrays_of(new)

    return correct


def _opener(
    rule: Rule, order: Order, names: frozenset[str], optimizer_state: Arrays | None
) -> Callable[[Arrays, int], Aggregate]:
    """Return what begins the rule's round with what it kept of the phase's last one."""

    def begin(sent: Arrays, asked: int) -> Aggregate:
        opening = Opening(
            sent=sent,
            parameters=names,
            number=order.nth,
            asked=asked,
            lr=order.lr,
            seed=derive_seed(order.seed, "rule", order.drawn_as, order.number),
            state=optimizer_state,
        )
        return rule.begin(opening)

    return begin
