"""What goes to a worker process at a time: some messages with their contexts, without what they have in common.

A record of arrays that several messages carry, such as the global model, is written to one file, which each worker
reads once. Parcels are large at first and small at the end, so that few of them travel and no worker is left with
much to do (guided self-scheduling, Polychronopoulos and Kuck, IEEE Transactions on Computers 1987).
"""

import contextlib
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedquit.errors import FullDiskError
from fedquit.files import explained

CLIENT_APP_FAILED = 2
MOST_BYTES = 8 * 2**20
"""Of the arrays of one parcel; replies are about as large, and travel together too."""

Served = tuple[Message, RecordDict]
"""A reply, and the state that the node has after it."""


@dataclass(frozen=True, slots=True)
class PackedMessage:
    """A message as it travels to a worker.

    Attributes:
        message: without the records that are in the file.
        context: of its node.
        names: of all its records, in order.
        places: name of a record that is in the file -> its place there.
    """

    message: Message
    context: Context
    names: tuple[str, ...]
    places: dict[str, int]


@dataclass(frozen=True, slots=True)
class Parcel:
    """Messages for one worker.

    Attributes:
        app: where to import their ClientApp from.
        common: the file of the records that they share with others; "" if there are none.
        stacked: whether those who train are trained at once, where that can be.
    """

    app: str
    common: str
    asked: tuple[PackedMessage, ...]
    stacked: bool = False


class CommonRecords:
    """The records that several of `messages` carry, in a file of `folder`, until it is closed.

    Attributes:
        path: of the file; "" if no record is shared.

    Raises:
        FullDiskError: there is no room for the file.
    """

    def __init__(self, messages: Sequence[Message], folder: Path) -> None:
        self._places = _places(messages)
        self.path = ""
        if self._places:
            try:
                self._write(folder)
            except BaseException:  # half a file fills a disk too
                self.close()
                raise

    def _write(self, folder: Path) -> None:
        with explained_room(folder), tempfile.NamedTemporaryFile(dir=folder, prefix="records-", delete=False) as file:
            self.path = file.name
            pickle.dump([record for record, _ in self._places.values()], file, pickle.HIGHEST_PROTOCOL)

    def without(self, message: Message, context: Context) -> PackedMessage:
        """Return a message as it travels: what is in the file is left out."""
        if not message.has_content():
            return PackedMessage(message, context, (), {})
        places = {name: self._places[id(r)][1] for name, r in message.content.items() if id(r) in self._places}
        own, names = message, tuple(message.content)
        if places:
            own = copy(message)
            own.content = RecordDict({name: r for name, r in message.content.items() if name not in places})
        return PackedMessage(own, context, names, places)

    def close(self) -> None:
        """Remove the file; a worker that reads it later finds nothing."""
        if self.path:
            with contextlib.suppress(OSError):  # Windows removes no file that a worker still reads; the pool's end does
                Path(self.path).unlink()


@contextmanager
def common_records(messages: Sequence[Message], folder: Path) -> Iterator[CommonRecords]:
    """Yield what `messages` have in common."""
    common = CommonRecords(messages, folder)
    try:
        yield common
    finally:
        common.close()


@contextmanager
def explained_room(folder: Path) -> Iterator[None]:
    """Turn an error of the file system into one line; the folder is a temporary one, which nobody chose."""
    try:
        with explained(folder):
            yield
    except FullDiskError as error:
        raise FullDiskError(f"{error.what} (or set TMPDIR to a folder with more room)") from error


def _places(messages: Sequence[Message]) -> dict[int, tuple[ArrayRecord, int]]:
    """Return the records of arrays that more than one message carries, by identity, and the place of each."""
    seen = Counter(id(record) for message in messages for record in _arrays(message))
    found = {id(record): record for message in messages for record in _arrays(message) if seen[id(record)] > 1}
    return {identity: (record, place) for place, (identity, record) in enumerate(found.items())}


def _arrays(message: Message) -> list[ArrayRecord]:
    if not message.has_content():
        return []
    return [record for record in message.content.values() if isinstance(record, ArrayRecord)]


def parcel_sizes(messages: int, workers: int, at_most: int, stack: int = 1) -> Iterator[int]:
    """Yield how many messages each parcel takes.

    Args:
        messages: how many there are.
        workers: that take them.
        at_most: one parcel takes.
        stack: devices that are trained at once: the result would depend on other sizes, so all parcels have this one.

    >>> list(parcel_sizes(20, 2, 100)), list(parcel_sizes(3, 2, 100)), list(parcel_sizes(20, 2, 100, stack=8))
    ([2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1], [8, 8, 8])
    """
    while messages > 0:
        size = stack if stack > 1 else max(1, min(at_most, messages // (4 * workers)))
        yield size
        messages -= size


def most_messages(messages: Sequence[Message]) -> int:
    """Return how many messages a parcel takes at most, by the arrays that the largest of them carries."""
    largest = max((sum(len(a.data) for r in _arrays(message) for a in r.values()) for message in messages), default=0)
    return max(1, MOST_BYTES // max(1, largest))


def serve(parcel: Parcel) -> list[Served]:
    """Serve the messages of a parcel, one after the other."""
    common = _read(parcel.common) if parcel.common else ()
    return list(
        replies(parcel.app, [(_filled(asked, common), asked.context) for asked in parcel.asked], parcel.stacked)
    )


def replies(app: ClientApp | str, asked: Sequence[tuple[Message, Context]], stacked: bool) -> Iterator[Served]:
    """Serve messages one after the other; if `stacked`, training is carried out for all of them before.

    What goes wrong in that is left to the message that it is about: served alone, its reply is its error.
    """
    if not stacked:
        yield from (call(app, message, context) for message, context in asked)
        return
    from fedquit.client.messages.trained_ahead import known_ahead, train_stacked

    try:
        ahead = train_stacked(asked)
    except (Exception, SystemExit):
        ahead = {}
    with known_ahead(ahead):
        yield from (call(app, message, context) for message, context in asked)


@lru_cache(maxsize=1)
def _read(path: str) -> tuple[ArrayRecord, ...]:
    """Read the records of a file, once in a worker."""
    return tuple(pickle.loads(Path(path).read_bytes()))  # noqa: S301 - written by the process that began this one


def _filled(asked: PackedMessage, common: Sequence[ArrayRecord]) -> Message:
    """Return a message with all its records."""
    message = asked.message
    if asked.places:
        own = message.content
        message.content = RecordDict(
            {name: common[asked.places[name]] if name in asked.places else own[name] for name in asked.names}
        )
    return message


def call(app: ClientApp | str, message: Message, context: Context) -> Served:
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
