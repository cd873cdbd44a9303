"""A Flower Grid in one process: no Ray, no sockets, no polling.

The ClientApp is called directly, in a pool of worker processes, as many clients at once as there are workers,
each on one thread. Worker processes (and not threads) because PyTorch's random generator is shared by the
threads of a process, and because Python's lock makes threads wait. One worker means no pool at all.
"""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedquit.errors import FedquitError
from fedquit.processes.worker_context import worker_context
from fedquit.settings import Scalar
from fedquit.strategies.flower_internals import Run, become_server_task

SERVER_NODE_ID = 1
FIRST_NODE_ID = 1000
RUN_ID = 1
CLIENT_APP_FAILED = 2

Answer = tuple[Message, RecordDict]


class InProcessGrid(Grid):
    """Clients 0..K-1 as nodes, called in worker processes; use it as a context manager.

    Args:
        clients: K.
        run_config: what `Context.run_config` holds.
        workers: clients at work at once; 1: in this process.
        client_app: the ClientApp, or where to import it from (the only way with more than one worker).
    """

    def __init__(
        self,
        clients: int,
        run_config: Mapping[str, Scalar],
        *,
        workers: int = 1,
        client_app: ClientApp | str = "fedquit.client.app:app",
    ) -> None:
        if workers > 1 and not isinstance(client_app, str):
            raise ValueError("worker processes import the ClientApp: give 'package.module:name'")
        self._app = client_app
        self._run = become_server_task(RUN_ID)
        self._ids = itertools.count(1)
        self._contexts = {
            FIRST_NODE_ID + client: Context(
                run_id=RUN_ID,
                node_id=FIRST_NODE_ID + client,
                node_config={"partition-id": client, "num-partitions": clients},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for client in range(clients)
        }
        self._waiting: dict[str, Future[Answer]] = {}
        self._pool = _pool(workers, client_app) if isinstance(client_app, str) and workers > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, without waiting for what they are at."""
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()

    def serve(self, server_app: ServerApp) -> None:
        """Run a ServerApp on this grid until it returns."""
        context = next(iter(self._contexts.values()))
        server_app(self, Context(RUN_ID, SERVER_NODE_ID, {}, RecordDict(), dict(context.run_config)))

    def get_node_ids(self) -> list[int]:
        """Return the nodes, in the order of their clients."""
        return list(self._contexts)

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

    def _submit(self, message: Message) -> Future[Answer]:
        context = self._contexts[message.metadata.dst_node_id]
        if self._pool is None:
            done: Future[Answer] = Future()
            done.set_result(_call(self._app, message, context))
            return done
        try:
            return self._pool.submit(_call, self._app, message, context)
        except BrokenProcessPool as error:
            raise _died() from error

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, without waiting."""
        done = [name for name in message_ids if name in self._waiting and self._waiting[name].done()]
        return [self._take(self._waiting.pop(name)) for name in done]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send `messages` and yield each reply as soon as it is there; none is kept.

        Raises:
            TimeoutError: `timeout` seconds have passed.
            FedquitError: a worker process died.
        """
        numbered = self._numbered(messages)
        if self._pool is None:
            yield from (self._take(self._submit(message)) for message in numbered)
            return
        futures = {self._submit(message) for message in numbered}
        for future in as_completed(futures, timeout):
            futures.discard(future)
            yield self._take(future)

    def _take(self, future: Future[Answer]) -> Message:
        try:
            reply, state = future.result()
        except BrokenProcessPool as error:
            raise _died() from error
        reply.metadata.__dict__["_message_id"] = str(next(self._ids))
        self._contexts[reply.metadata.src_node_id].state = state
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


def _call(app: ClientApp | str, message: Message, context: Context) -> Answer:
    """Call a ClientApp as Flower does: what it raises becomes an error reply."""
    try:
        reply = _load(app)(message, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned {reply!r}, not a Message")
        return reply, context.state
    except (Exception, SystemExit) as error:
        return Message(Error(CLIENT_APP_FAILED, f"{type(error).__name__}: {error}"), reply_to=message), context.state


def _load(app: ClientApp | str) -> ClientApp:
    if isinstance(app, ClientApp):
        return app
    module, _, name = app.partition(":")
    loaded = getattr(import_module(module), name)
    if not isinstance(loaded, ClientApp):
        raise TypeError(f"{app} is not a ClientApp")
    return loaded


def _pool(workers: int, client_app: str) -> ProcessPoolExecutor:
    """Start worker processes that have the ClientApp."""
    context = worker_context([client_app.partition(":")[0]])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker)


def begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, however it ends."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(0)


def _died() -> FedquitError:
    return FedquitError("a worker process died, perhaps for lack of memory; continue with --resume and fewer --workers")
