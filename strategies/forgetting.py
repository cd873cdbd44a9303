"""Add forgetting to an existing Flower app: the server's side, a wrapper around its strategy.

    strategy = Forgetting(FedAvg(), {5: 2})    # in round 5, the client of partition 2 is forgotten
    strategy.start(grid, initial_arrays, num_rounds=8)

In the round of a request no client trains: the one to be forgotten runs the method on the global model (its ClientApp
has `fedquit.client.forgetting_mod`), and if the guard accepts the result it is the next global model. From then on that
client gets no messages, and the rounds that follow are recovery. The guard compares with the rounds
before, as fedquit's own server does (docs/coordinator.md); it has no data, so accuracy is not among its checks.
"""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from statistics import median
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedquit.errors import BadReplyError, FedquitError, InputError
from fedquit.strategies.flower_internals import NodeInfo
from fedquit.strategies.grid.wrapped_grid import WrappedGrid
from fedquit.strategies.guard.decide import Policy, admit_model
from fedquit.strategies.guard.reply_checks import checked_arrays, checked_metrics
from fedquit.strategies.guard.step_checks import Recent, bounds_of, longest_of
from fedquit.unlearning.methods.base import make_method
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.arithmetic import difference, norm
from fedquit.unlearning.tensors.convert import StateDict, tensors_of

LOGGER = logging.getLogger("flwr")
"""Flower's own logger: what is said stands among what the app says."""
RECORD = "fedquit.forgetting"
WINDOW = 5
"""Rounds that the guard compares with."""
PATIENCE = 600.0
"""Seconds to wait for the clients' partition ids."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""PyTorch's names of model entries that are not parameters."""


class Forgetting(Strategy):
    """A Flower strategy that wraps another one and forgets clients in given rounds.

    Args:
        strategy: a Flower strategy, which runs all other rounds.
        requests: round -> the `partition-id` of the client to forget in it.
        method: of forgetting; it must run on the device alone, as fedquit does.
        guard: what to do with a model outside the bounds of the rounds before: "refuse", "clip" or "adopt" it.
        seed: of the method's random choices.
        settings: of the method, such as `lr`.

    Attributes:
        outcomes: round -> "forgotten", or the reason why not; then the model still contains the client's data.

    Raises:
        InputError: a round is below 2, as there is nothing to forget yet; or no such method, setting or guard.
    """

    def __init__(
        self,
        strategy: Strategy,
        requests: Mapping[int, int],
        *,
        method: str = "fedquit",
        guard: str = "refuse",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        if any(number < 2 for number in requests):
            raise InputError(f"requests: {min(requests)} is not a round in which there is something to forget: from 2")
        if guard not in ("refuse", "clip", "adopt"):
            raise InputError(f"guard is {guard!r}; it must be refuse, clip or adopt")
        self.strategy, self.requests, self.outcomes = strategy, dict(requests), dict[int, str]()
        self._method, self._settings = make_method(method, **settings), settings
        if self._method.traits.runs_at != "device":
            raise InputError(f"method '{method}' does not run on the device alone; fedquit does")
        self._policy, self._seed = Policy(guard), seed
        self._gone, self._seen = set[int](), set[int]()
        self._sent: StateDict = {}
        self._record = ArrayRecord()
        self._past = _Past()

    def summary(self) -> None:
        """Log what the strategy is."""
        self.strategy.summary()
        for number, client in sorted(self.requests.items()):
            LOGGER.info("\t└──> Round %s: the client of partition %s is forgotten", number, client)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the forget step to the client of this round's request; in other rounds, do as the strategy does."""
        sent = tensors_of({name: array.numpy() for name, array in arrays.items()})
        self._past.reached(sent, trained=server_round - 1 not in self.requests)
        self._sent, self._record = sent, arrays
        self._seen.update(grid.get_node_ids())
        if server_round in self.requests:
            return self._ask(server_round, arrays, grid)
        return self.strategy.configure_train(server_round, arrays, config, self._remaining(grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Admit the model of the client that forgot; in another round, aggregate as the strategy does."""
        came = list(replies)
        if server_round in self.requests:
            return self._admit(server_round, came)
        self._past.replies(self._sent, self._record, came)
        return self.strategy.aggregate_train(server_round, came)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the strategy does, without those who are forgotten."""
        return self.strategy.configure_evaluate(server_round, arrays, config, self._remaining(grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the strategy does."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def _ask(self, number: int, arrays: ArrayRecord, grid: Grid) -> list[Message]:
        """Return the message to the client to forget; none if it is not there, or two claim its partition."""
        client = self.requests[number]
        who = [_message(node, {"step": "who"}) for node in grid.get_node_ids()]  # also one whose model was refused
        said = {
            reply.metadata.src_node_id: reply.content.config_records[RECORD].get("partition")
            for reply in grid.send_and_receive(who, timeout=PATIENCE)
            if not reply.has_error() and RECORD in reply.content.config_records
        }
        nodes = [node for node, partition in said.items() if partition == client]
        if len(nodes) != 1:
            hint = "; does its ClientApp have forgetting_mod?" if not said else ""
            self._end(number, f"{len(nodes) or 'no'} clients say that they are partition {client}{hint}")
            return []
        self._gone.update(nodes)
        seed = derive_seed(self._seed, "forget", number)
        config: dict[str, str | int] = {
            "step": "forget",
            "seed": seed,
            "method": self._method.name,
            "settings": json.dumps(self._settings),
        }
        return [_message(nodes[0], config, arrays)]

    def _admit(self, number: int, replies: list[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the model of the client that forgot, if it may become the global one."""
        if number in self.outcomes:
            return None, None
        try:
            (reply,) = replies
            new = tensors_of(checked_arrays(reply, self._record))
            count, metrics = checked_metrics(reply)
            if RECORD not in reply.content.config_records:
                raise BadReplyError("it did not forget; does its ClientApp have forgetting_mod?")
        except ValueError:
            return self._end(number, "the client did not answer")
        except BadReplyError as error:
            return self._end(number, f"the client's reply cannot be used: {error}")
        known = self._past.examples.get(reply.metadata.src_node_id)
        bounds = bounds_of(self._method, _parameters(self._sent), [] if known is None else [known])
        decision = admit_model(new, self._sent, self._past.recent(), bounds, self._policy)
        if decision.state is None:
            return self._end(number, f"the guard refused its model: {decision.reason}")
        self.outcomes[number] = "forgotten"
        LOGGER.info("\t└──> Round %s: forgotten (%s)", number, decision.verdict)
        if decision.warning:
            LOGGER.warning("Round %s: %s", number, decision.warning)
        told = {f"forget-{name}": value for name, value in metrics.items()}
        return _record_of(decision.state), MetricRecord({"forget-num-examples": count, **told})

    def _end(self, number: int, reason: str) -> tuple[None, None]:
        """Note that a request was not carried out."""
        self.outcomes[number] = reason
        LOGGER.warning(
            "Round %s: NOT forgotten: %s; the model is as before, ask again in a later round", number, reason
        )
        return None, None

    def _remaining(self, grid: Grid) -> Grid:
        """Return the grid without those who are forgotten.

        Raises:
            FedquitError: the strategy would wait forever for more clients than are left.
        """
        if not self._gone:
            return grid
        remaining = RemainingGrid(grid, self._gone)
        self._seen.update(remaining.get_node_ids())
        left, wanted = len(self._seen - self._gone), getattr(self.strategy, "min_available_nodes", 0)
        if wanted > left:  # one that is away for a moment is waited for, as the strategy does
            name = type(self.strategy).__name__
            raise FedquitError(f"{name} waits for {wanted} clients and {left} are left; give it min_available_nodes")
        return remaining


class RemainingGrid(WrappedGrid):
    """A grid without some of its nodes."""

    def __init__(self, grid: Grid, gone: Collection[int]) -> None:
        super().__init__(grid)
        self._gone = gone

    def get_node_ids(self) -> list[int]:
        """Return the nodes that remain."""
        return [node for node in self._grid.get_node_ids() if node not in self._gone]

    def get_nodes(self) -> list[NodeInfo]:
        """Return what Flower knows of the nodes that remain."""
        return [node for node in self._grid.get_nodes() if node.node_id not in self._gone]


class _Past:
    """What the guard compares with: single clients' steps and the global model's, of the last rounds.

    Attributes:
        examples: node -> samples that it last said it trained on.
    """

    def __init__(self) -> None:
        self.examples: dict[int, int] = {}
        self._norms, self._spreads, self._updates = list[float](), list[float](), list[StateDict]()
        self._before: StateDict | None = None

    def reached(self, model: StateDict, *, trained: bool) -> None:
        """Take in the global model before a round; `trained`: the round before was one of training."""
        if self._before is not None and trained:
            self._updates = [*self._updates, difference(model, self._before, set(model))][-WINDOW:]
        self._before = model

    def replies(self, sent: StateDict, form: ArrayRecord, replies: Iterable[Message]) -> None:
        """Take in the replies of a round of training, as far as they are models."""
        lengths, names = list[float](), _parameters(sent)
        for reply, arrays in _models(form, replies):
            lengths.append(norm(difference(tensors_of(arrays), sent, names)))
            for record in reply.content.metric_records.values():
                count = record.get("num-examples")
                if isinstance(count, int) and count > 0:
                    self.examples[reply.metadata.src_node_id] = count
        if lengths:
            self._norms.append(median(lengths))
            self._spreads.append(median(abs(length - self._norms[-1]) for length in lengths))

    def recent(self) -> Recent:
        """Return what the last rounds show."""
        last = slice(-WINDOW, None)
        return Recent(self._norms[last], self._spreads[last], self._updates, longest_of(self._norms))


def _models(form: ArrayRecord, replies: Iterable[Message]) -> Iterator[tuple[Message, Mapping[str, Any]]]:
    for reply in replies:
        try:
            yield reply, checked_arrays(reply, form)
        except BadReplyError:
            continue  # what becomes of it is the strategy's to say


def _parameters(state: StateDict) -> frozenset[str]:
    """Return the entries that are parameters, as PyTorch names what is not."""
    return frozenset(name for name in state if name.rpartition(".")[2] not in BUFFERS)


def _message(node: int, config: Mapping[str, Any], arrays: ArrayRecord | None = None) -> Message:
    content = RecordDict({RECORD: ConfigRecord({**config})})
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content, dst_node_id=node, message_type="train")


def _record_of(state: StateDict) -> ArrayRecord:
    return ArrayRecord({**state})
