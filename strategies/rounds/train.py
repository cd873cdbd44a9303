"""A round of training: seeded sampling, a guard, and what makes one model of the replies.

By default that is the mean: federated averaging (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedquit.errors import BadReplyError, FedquitError
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.grid.array_record import arrays_of_record, record_of
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.grid.summed_replies import PlainRound
from fedquit.strategies.guard.buffers import check_buffers
from fedquit.strategies.guard.reply_checks import (
    Forms,
    ask_in,
    checked_arrays,
    checked_metrics,
    checked_numbers,
    samples_digest_in,
)
from fedquit.strategies.guard.round_screen import Screen, Settled, refuse_buffers
from fedquit.strategies.rounds.aggregate import Aggregate, Config, Mean
from fedquit.strategies.rounds.reply import Made, OnReply, Reply, ReplyDetail, Tally
from fedquit.strategies.rounds.travel import OneModel, Travel
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.convert import Arrays, Shape

OnAsk = Callable[[int, bytes, bytes], None]
Correct = Callable[[Arrays, Arrays], Arrays]
Begin = Callable[[Arrays, int], Aggregate]


def _nothing(_reply: Reply) -> None:
    """Take no notice."""


class Train(FedAvg):
    """A round whose model depends on the seed alone: not on who answers first, nor on the numbers Flower gives nodes.

    Args:
        grid: the metered grid, whose cost log is this strategy's `costs`.
        seed: decides which clients are sampled, and the seed each of them gets.
        draws: the phase that the clients' seeds derive from, besides; the grid's if "".
        own: client -> what only it is sent, besides the round's config.
        fraction: share of the clients that take part in a round.
        on_reply: called with every reply: the client, and why it was refused, or None.
        on_taken: given every reply that goes into the model.
        reply_detail: what `on_taken` is to be told of single replies; without their models the grid may sum them.
        on_ask: given the ask and the signature of every reply that carries them; such a reply is not used.
        correct: from a client's model and the round's global one to what goes into the mean.
        begin: from the round's global model and how many are asked to what makes a model of the replies.
        needs: of how many good replies at least.
        parameters: the model's entries that are parameters, so that the others are checked; None: they are not.
        screen: from the round's global model to what bounds the influence of single replies; None: replies are added as
            they come, and none is held.

    Attributes:
        state: the rule's state for the next round, after a round; None: none.
        settled: what the screen made of the last round.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        *,
        seed: int,
        draws: str = "",
        own: Mapping[int, Config] | None = None,
        fraction: float = 1.0,
        on_reply: OnReply = lambda _client, _reason: None,
        on_taken: Callable[[Reply], None] = _nothing,
        reply_detail: ReplyDetail = ReplyDetail.MODELS,
        on_ask: OnAsk = lambda _client, _ask, _signature: None,
        correct: Correct | None = None,
        begin: Begin = lambda _sent, _asked: Mean(),
        needs: int = 1,
        parameters: frozenset[str] | None = None,
        screen: Callable[[Arrays], Screen] | None = None,
    ) -> None:
        super().__init__(fraction_train=fraction, min_train_nodes=1, min_available_nodes=1)
        self.grid = grid
        self.seed, self.draws, self.own = seed, draws, own or {}
        self.on_reply = on_reply
        self.on_taken, self.reply_detail, self.on_ask = on_taken, reply_detail, on_ask
        self.correct = correct
        self.begin, self.needs = begin, needs
        self.parameters, self.screen = parameters, screen
        self.state: Arrays | None = None
        self.settled: Settled | None = None
        self._asked = 0
        self._sent: ArrayRecord | None = None
        self._travel: Travel | None = None
        self._extra: dict[str, ArrayRecord] = {}

    @property
    def costs(self) -> Costs:
        """The cost log of this strategy's messages."""
        return self.grid.costs

    def sample(self, server_round: int) -> list[int]:
        """Return the nodes of a round, those with most samples first so that none is left to wait for."""
        node_ids = self.grid.get_node_ids()
        if not node_ids:
            raise FedquitError(f"{self.grid.phase} round {server_round}: no client is left to ask")
        size = num_sampled(len(node_ids), self.fraction_train)
        chosen = random.Random(derive_seed(self.seed, "sample", server_round)).sample(node_ids, size)
        return sorted(chosen, key=lambda node: (-self.grid.members[node].num_examples, self.grid.members[node].client))

    def round(
        self,
        number: int,
        arrays: Arrays,
        config: Config,
        extra: Arrays | None = None,
        travel: Travel | None = None,
    ) -> tuple[Arrays, dict[str, float]]:
        """Send the messages of a round, and return the new model and what is known of the replies.

        Args:
            number: the round's number, from 1.
            arrays: the global model.
            config: sent to every client, such as `lr`.
            extra: what travels along with the model.
            travel: what travels, if it is not this model to all and models back.

        Returns:
            The new model, and `loss` (nats), `num-examples`, `clients`, `refused`, `device-seconds`. With a screen it
            is the model that was sent, of no clients, where the replies make none that can be used.

        Raises:
            FedquitError: too few replies can be used, or they make no model.
        """
        self._extra = {} if extra is None else {"extra": record_of(extra)}
        self._travel = travel
        summed = None if extra is not None or travel is not None else self._summed(number, arrays, config)
        if summed is not None:
            return summed
        messages = self.configure_train(number, record_of(arrays), ConfigRecord(dict(config)), self.grid)
        record, metrics = self.aggregate_train(number, self.grid.send_and_receive(messages))
        if record is None or metrics is None:
            raise FedquitError(f"{self.grid.phase} round {number}: no new model")
        return arrays_of_record(record), {
            name: float(value) for name, value in metrics.items() if not isinstance(value, list)
        }

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for each node of the round: the model, and a seed of the node's own."""
        del grid
        nodes, messages = self.sample(server_round), []
        self._sent, self._asked = arrays, len(nodes)
        rule_config = self.begin(arrays_of_record(arrays), len(nodes)).config
        travel = self._travel or OneModel(arrays)
        for node in nodes:
            client, seed = self.grid.members[node].client, self._seed_of(server_round, node)
            given = {**config, **self.own.get(client, {}), **rule_config}
            full_config = ConfigRecord({**given, "server-round": server_round, "seed": seed})
            sent = {self.arrayrecord_key: travel.down(client), **self._extra}
            content = RecordDict({**sent, self.configrecord_key: full_config})
            messages.append(
                Message(content, node, MessageType.TRAIN, group_id=str(server_round), ttl=self.grid.patience)
            )
        return messages

    def _seed_of(self, server_round: int, node: int) -> int:
        """Return the seed that a node gets."""
        return derive_seed(self.seed, self.draws or self.grid.phase, server_round, self.grid.members[node].client)

    def _summed(self, server_round: int, arrays: Arrays, config: Config) -> tuple[Arrays, dict[str, float]] | None:
        """Carry out a round without messages where nothing reads single models; None: something does."""
        if self.reply_detail is ReplyDetail.MODELS or self.screen or self.correct or self.own or "phase" in config:
            return None
        if not self.grid.can_sum(arrays):
            return None
        nodes = self.sample(server_round)
        aggregate = self.begin(arrays, len(nodes))
        if type(aggregate) is not Mean or aggregate.config:
            return None
        plain = PlainRound(
            arrays=arrays,
            config={**config, "server-round": server_round},
            seeds={node: self._seed_of(server_round, node) for node in nodes},
            parameters=self.parameters,
            lengths=self.reply_detail is ReplyDetail.LENGTHS,
        )
        refused, on_reply = self._heard()
        tally = Tally()
        for client, reply in self.grid.sum_replies(plain, aggregate.mean):
            on_reply(client, reply.refused or None)
            if not reply.refused:
                count, metrics = checked_numbers(reply.metrics)
                tally.add(client, count, metrics)
                self.on_taken(Reply(client, {}, count, metrics, length=reply.length))
        made = tally.made({}, None) if len(tally.used) < self.needs else tally.made(*aggregate.result())
        said = self._concluded(server_round, made, refused)
        return made.arrays, {name: float(value) for name, value in said.items()}

    def _heard(self) -> tuple[list[str], OnReply]:
        """Return a list of what is refused, and what is to be called with every reply."""
        refused: list[str] = []

        def on_reply(client: int, reason: str | None) -> None:
            if reason is not None:
                refused.append(f"client {client}: {reason}")
            self.on_reply(client, reason)

        return refused, on_reply

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take the replies in as they come; one that the guard refuses is named and left out.

        Raises:
            FedquitError: too few replies can be used, or they make no model.
        """
        if self._sent is None:
            raise RuntimeError("aggregate_train before configure_train")
        refused, on_reply = self._heard()
        good = self._good(replies, on_reply)
        made = self._streamed(good, on_reply) if self.screen is None else self._screened(good, on_reply)
        metrics = MetricRecord({**self._concluded(server_round, made, refused)})
        return (self._sent if made is None else record_of(made.arrays)), metrics

    def _concluded(self, server_round: int, made: Made | None, refused: list[str]) -> dict[str, int | float]:
        """Return the metrics of a round, and keep the rule's state for the next.

        Raises:
            FedquitError: too few replies can be used.
        """
        if made is None:
            self.state = None
            return {"loss": 0.0, "num-examples": 0, "clients": 0, "refused": len(refused), "device-seconds": 0.0}
        if len(made.used) < self.needs:
            raise FedquitError(f"{self.grid.phase} round {server_round}: {self._too_few(len(made.used), refused)}")
        self.state = made.state
        summary = {"loss": made.loss, "num-examples": made.weight, "clients": len(made.used)}
        return {**summary, "refused": len(refused), "device-seconds": made.seconds}

    def _good(self, replies: Iterable[Message], on_reply: OnReply) -> Iterator[Reply]:
        """Yield the replies that are in order by themselves, as they come."""
        travel, sent = self._travel or OneModel(self._record), arrays_of_record(self._record)
        for reply in checked(replies, travel.expected, self.grid, on_reply, self.on_ask):
            try:
                arrays = travel.read(reply.arrays, reply.num_examples)
                if self.screen is None and self.parameters is not None:
                    refuse_buffers(check_buffers(arrays, sent, self.parameters))
            except BadReplyError as reason:
                on_reply(reply.client, str(reason))
            else:
                yield replace(reply, arrays=arrays)

    def _streamed(self, replies: Iterable[Reply], on_reply: OnReply) -> Made:
        """Make a model of replies as they come; none is kept."""

        def take(reply: Reply) -> None:
            on_reply(reply.client, None)
            self.on_taken(reply)

        return self._make(replies, on_reply, take)

    def _screened(self, replies: Iterable[Reply], on_reply: OnReply) -> Made | None:
        """Hold replies until all have come, and make of them a model that can be used; None: they make none."""
        assert self.screen is not None  # noqa: S101 - for the types
        with self.screen(arrays_of_record(self._record)) as screen:
            settled = screen.settle(replies, self._make, self.needs, on_reply)
            self.settled, made = settled, settled.made
            if made is not None and len(made.used) >= self.needs:
                for reply in screen.replies(made.used):
                    on_reply(reply.client, None)
                    self.on_taken(reply)
        return made

    def _make(self, replies: Iterable[Reply], on_reply: OnReply, on_taken: Callable[[Reply], None] = _nothing) -> Made:
        """Make a model of replies.

        Raises:
            FedquitError: they make none, though there are enough.
        """
        aggregate, sent = self.begin(arrays_of_record(self._record), self._asked), arrays_of_record(self._record)
        tally = Tally()
        for reply in replies:
            weight = reply.weight or reply.num_examples
            try:
                taken = self.correct(reply.arrays, sent) if self.correct else reply.arrays
                aggregate.add(reply.client, taken, weight, reply.metrics)
            except (OverflowError, BadReplyError) as reason:
                on_reply(reply.client, str(reason))
                continue
            tally.add(reply.client, weight, reply.metrics)
            on_taken(reply)
        if len(tally.used) < self.needs:
            return tally.made({}, None)
        made, state = aggregate.result()
        new = {name: np.asarray(array) for name, array in made.items()}  # a counter may come as a bare number
        return tally.made(new, state)

    @property
    def _record(self) -> ArrayRecord:
        if self._sent is None:
            raise RuntimeError("aggregate_train before configure_train")
        return self._sent

    def _too_few(self, came: int, refused: list[str]) -> str:
        """Say that too few replies can be used, and why the others cannot."""
        if not came:
            return f"no reply to use ({'; '.join(refused) or 'none came'})"
        wanted = f"{self.needs} good replies are needed, {came} came"
        return f"{wanted} ({'; '.join(refused)})" if refused else wanted


def num_sampled(clients: int, fraction: float) -> int:
    """Return the number of clients that are sampled in a round.

    >>> num_sampled(10, 0.25), num_sampled(3, 0.1)
    (2, 1)
    """
    return max(1, round(fraction * clients))


def checked(
    replies: Iterable[Message],
    expected: Forms | Callable[[Mapping[str, Shape]], Forms],
    grid: MeteredGrid,
    on_refused: OnReply,
    on_ask: OnAsk = lambda _client, _ask, _signature: None,
) -> Iterator[Reply]:
    """Yield the replies whose arrays are as expected, as they come; tell `on_refused` of the others.

    A reply that carries an ask to be forgotten is for `on_ask`: what it says of the model is not used.
    """
    for reply in replies:
        client = grid.client_of(reply)
        try:
            ask = ask_in(reply)
            if ask is not None:
                on_ask(client, *ask)
                raise BadReplyError("it carries an ask to be forgotten, so it is left out")
            arrays, (count, metrics) = checked_arrays(reply, expected), checked_metrics(reply)
        except BadReplyError as reason:
            on_refused(client, str(reason))
        else:
            yield Reply(client, arrays, count, metrics, samples_digest_in(reply))
