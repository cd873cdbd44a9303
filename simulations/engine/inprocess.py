"""A Flower Grid in one process: no Ray, no sockets, no polling.

The ClientApp is called directly, in a pool of worker processes (`worker_pool.py`), as many clients at once as there are
workers, each on one thread. Worker processes (and not threads) because PyTorch's random generator is shared by the
threads of a process, and because Python's lock makes threads wait. One worker means no pool at all.

What a round costs depends on the clients that it asks: messages travel in parcels (`parcels.py`), what they share goes
to each worker once, and the context of a node is made when the node is asked.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedquit.client.objectives import Objective
from fedquit.client.training.build_objective import objective_of
from fedquit.settings import Scalar, Settings
from fedquit.simulations.engine.parcels import (
    Parcel,
    Served,
    call,
    common_records,
    most_messages,
    parcel_sizes,
    replies,
    serve,
)
from fedquit.simulations.engine.summed_round import LARGEST, summed_here, summed_in_pool
from fedquit.simulations.engine.summing import SumTask
from fedquit.simulations.engine.worker_pool import OURS, Call, WorkerPool
from fedquit.strategies.cost_log.flower_objects import KEY
from fedquit.strategies.flower_internals import Run, become_server_task
from fedquit.strategies.grid.summed_replies import PlainRound, SummedReply
from fedquit.unlearning.tensors.convert import Arrays
from fedquit.unlearning.tensors.exact_mean import ExactMean

SERVER_NODE_ID = 1
FIRST_NODE_ID = 1000
RUN_ID = 1


class InProcessGrid(Grid):
    """Clients 0..K-1 as nodes, called in worker processes; use it as a context manager.

    Args:
        clients: K.
        run_config: what `Context.run_config` holds.
        workers: clients at work at once; 1: in this process.
        client_app: the ClientApp, or where to import it from (the only way with more than one worker).
        stack: clients that are trained at once, stacked; 1: each by itself. See `stack.py` for what can be stacked.

    Attributes:
        run_config, stack: as given; they may be changed between rounds.
    """

    def __init__(
        self,
        clients: int,
        run_config: Mapping[str, Scalar],
        *,
        workers: int = 1,
        client_app: ClientApp | str = OURS,
        stack: int = 1,
    ) -> None:
        if workers > 1 and not isinstance(client_app, str):
            raise ValueError("worker processes import the ClientApp: give 'package.module:name'")
        self._app, self._clients, self.stack = client_app, clients, stack
        self.run_config = dict(run_config)
        self._run = become_server_task(RUN_ID)
        self._ids = itertools.count(1)
        self._contexts: dict[int, Context] = {}
        self._waiting: dict[str, Call[list[Served]]] = {}
        self._pool = WorkerPool(workers, client_app) if isinstance(client_app, str) and workers > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, without waiting for what they are at."""
        if self._pool is not None:
            self._pool.close()

    def serve(self, server_app: ServerApp) -> None:
        """Run a ServerApp on this grid until it returns."""
        server_app(self, Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), dict(self.run_config)))

    def get_node_ids(self) -> list[int]:
        """Return the nodes, in the order of their clients."""
        return list(self.partition_ids())

    def partition_ids(self) -> dict[int, int]:
        """Return which client each node is, for whoever need not ask them: node -> partition id."""
        return {FIRST_NODE_ID + client: client for client in range(self._clients)}

    def context_of(self, node_id: int) -> Context:
        """Return the context of a node; a new one each time until a message leaves state in it."""
        if node_id in self._contexts:
            return self._contexts[node_id]
        client = node_id - FIRST_NODE_ID
        if not 0 <= client < self._clients:
            raise KeyError(f"there is no node {node_id}")
        node_config: dict[str, Scalar] = {"partition-id": client, "num-partitions": self._clients}
        return Context(RUN_ID, node_id, node_config, RecordDict(), dict(self.run_config))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand `messages` to the workers and return their ids."""
        submitted = {message.metadata.message_id: self._submit(message) for message in self._numbered(messages)}
        self._waiting.update(submitted)
        return list(submitted)

    def _numbered(self, messages: Iterable[Message]) -> list[Message]:
        numbered = list(messages)
        for message in numbered:
            message.metadata.__dict__["_message_id"] = str(next(self._ids))
        return numbered

    def _submit(self, message: Message) -> Call[list[Served]]:
        """Have one message served: without a pool, at once."""
        if self._pool is not None:
            with common_records([message], self._pool.folder) as nothing:
                asked = nothing.without(message, self.context_of(message.metadata.dst_node_id))
                return self._pool.submit(serve, Parcel(str(self._app), "", (asked,)))
        return Call.done([call(self._app, message, self.context_of(message.metadata.dst_node_id))])

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, without waiting."""
        while self._pool is not None and self._pool.collect(0.0):
            pass
        done = [name for name in message_ids if name in self._waiting and self._waiting[name].is_over]
        return [reply for name in done for reply in self._replies(self._waiting.pop(name))]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send `messages` and yield each reply as soon as it is there, until all are or `timeout` seconds have passed.

        Raises:
            FedquitError: a worker process died.
        """
        numbered = self._numbered(messages)
        if self._pool is not None:
            yield from self._pooled(self._pool, numbered, None if timeout is None else time.monotonic() + timeout)
            return
        if self.stack > 1:
            yield from self._stacked_here(numbered)
            return
        for message in numbered:
            yield from self._replies(self._submit(message))

    def _stacked_here(self, messages: list[Message]) -> Iterator[Message]:
        """Yield replies of this process, in groups that are trained at once."""
        for start in range(0, len(messages), self.stack):
            group = messages[start : start + self.stack]
            asked = [(message, self.context_of(message.metadata.dst_node_id)) for message in group]
            yield from (self._kept(given) for given in replies(self._app, asked, stacked=True))

    def _pooled(self, pool: WorkerPool, messages: list[Message], deadline: float | None) -> Iterator[Message]:
        """Yield replies while only a few parcels are under way, so that replies that nobody takes do not pile up."""
        with common_records(messages, pool.folder) as common:
            asked = (common.without(message, self.context_of(message.metadata.dst_node_id)) for message in messages)
            sizes = parcel_sizes(len(messages), pool.workers, most_messages(messages), self.stack)
            app, stacked = str(self._app), self.stack > 1
            parcels = (Parcel(app, common.path, tuple(itertools.islice(asked, n)), stacked) for n in sizes)
            for left in pool.results(serve, parcels, deadline):
                while left:
                    yield self._kept(left.pop(0))

    def can_sum(self, arrays: Arrays) -> bool:
        """Say whether models like these can be summed where they are made: see `SumsReplies`.

        Not if somebody may look at the messages, with a ClientApp or a class of grid of their own.
        """
        if self._app != OURS or type(self) is not InProcessGrid:
            return False
        objective = objective_of(Settings.from_run_config(self.run_config, self._clients))
        plain = type(objective).train is Objective.train and not objective.needs().owns
        return plain and sum(array.nbytes for array in arrays.values()) <= LARGEST

    def sum_replies(self, plain: PlainRound, mean: ExactMean, *, timeout: float) -> Iterator[SummedReply]:
        """See `SumsReplies`."""
        asked = [(node, node - FIRST_NODE_ID, seed) for node, seed in plain.seeds.items()]
        task = SumTask(replace(plain, seeds={}), self.run_config, self._clients, KEY, self.stack > 1)
        if self._pool is None:
            return summed_here(task, asked, mean, self.stack)
        return summed_in_pool(self._pool, task, asked, mean, self.stack, timeout)

    def _replies(self, served: Call[list[Served]]) -> Iterator[Message]:
        """Yield the replies of a parcel, and keep what state they leave."""
        for left in served.take():
            while left:
                yield self._kept(left.pop(0))

    def _kept(self, given: Served) -> Message:
        """Return a reply, numbered; the state that it leaves is kept."""
        reply, state = given
        reply.metadata.__dict__["_message_id"] = str(next(self._ids))
        node_id = reply.metadata.src_node_id
        if len(state) or node_id in self._contexts:
            self._contexts.setdefault(node_id, self.context_of(node_id)).state = state
        return reply

    def set_run(self, run: Run) -> None:
        """Use another run's id."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that the messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Build a message; Flower asks to use `Message` instead."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
