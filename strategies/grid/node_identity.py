"""Who a grid's nodes are, whatever Flower numbers them.

A simulation's federation is fixed: every node says which client it is, of how many. A deployment's is not: devices come
and go, and each is known by the public key that its SuperNode has proven to own.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedquit.errors import FedquitError
from fedquit.strategies.flower_internals import fingerprint_of

JOIN_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the federation: which client it is, and how many samples it has, as far as that is known."""

    client: int
    num_examples: int = 0


@runtime_checkable
class KnowsPartitions(Protocol):
    """A grid that knows which client each of its nodes is."""

    def partition_ids(self) -> Mapping[int, int]:
        """Return node -> partition id, for each node."""


def join(grid: Grid, timeout: float) -> dict[int, Member]:
    """Ask every node who it is, until all of a fixed federation have said so; return them by node.

    Nodes say how many they are; on Flower's simulation runtime the ServerApp starts before they are registered.

    Raises:
        FedquitError: they are not complete within `timeout` seconds, or one cannot say who it is.
    """
    members: dict[int, Member] = {}
    deadline, size = time.monotonic() + timeout, 1
    while len(members) < size:
        if time.monotonic() > deadline:
            raise FedquitError(f"{len(members)} of {size} clients joined within {timeout:.0f} s")
        strangers = [node_id for node_id in grid.get_node_ids() if node_id not in members]
        if not strangers:
            time.sleep(JOIN_PAUSE)
            continue
        requests = [Message(RecordDict(), node_id, "query") for node_id in strangers]
        for reply in grid.send_and_receive(requests, timeout=timeout):
            if reply.has_error():
                raise FedquitError(f"a node could not join: {reply.error.reason}")
            try:
                said = reply.content.metric_records["metrics"]
                client, num_examples, size = (
                    int(said[key])  # type: ignore[arg-type]
                    for key in ("partition-id", "num-examples", "num-partitions")
                )
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise FedquitError(f"a node could not join: {error!r}") from None
            members[reply.metadata.src_node_id] = Member(client, num_examples)
    return members


@dataclass(frozen=True, slots=True)
class Present:
    """The nodes that are connected now.

    Attributes:
        members: node -> who it is.
        strangers: fingerprints of keys that nobody enrolled; "": a node without a key.
    """

    members: Mapping[int, Member]
    strangers: frozenset[str]


def recognise(grid: Grid, enrolled: Mapping[str, Member]) -> Present:
    """Tell by their public keys which of the `enrolled` (fingerprint -> member) are connected.

    Where two nodes prove the same key, the one with the higher number is meant: a node that registered again.
    """
    members, strangers = dict[int, Member](), set[str]()
    for node in sorted(grid.get_nodes(), key=lambda node: node.node_id):
        key = fingerprint_of(node)
        if key not in enrolled:
            strangers.add(key)
            continue
        for other in [n for n, member in members.items() if member.client == enrolled[key].client]:
            del members[other]
        members[node.node_id] = enrolled[key]
    return Present(members, frozenset(strangers))
