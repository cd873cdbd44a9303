"""A proxy round any Flower Grid that changes nothing; proxies that do override what they change."""

from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedquit.strategies.flower_internals import NodeInfo, Run


class WrappedGrid(Grid):
    """Pass every call on.

    Args:
        grid: what carries the messages.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are connected."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what Flower knows of these nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, without waiting, and return the messages' names."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that have come."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, and return the replies."""
        return self._grid.send_and_receive(messages, timeout=timeout)

    def set_run(self, run: Run) -> None:
        """Say to which run the messages belong."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that the messages belong to."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Build a message; Flower asks to use `Message` instead."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)
