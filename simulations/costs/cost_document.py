"""The costs of a run or a deployment as a document: sums of each phase, round and node, and each request's.

All sums are over rows of the cost log, read one by one. What those rows do not hold, such as how long a phase took, a
source knows: the folder of a run, or that of a deployed server.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from fedquit.documents import Document
from fedquit.simulations.costs.price import Price
from fedquit.strategies.cost_log.cost_rows import Row

BYTES = ("payload_bytes", "wire_bytes", "deduplicated_bytes", "saved_bytes")
SUMS = tuple(f"{name}_{way}" for name in BYTES for way in ("down", "up"))
COMPARED = (*BYTES[:3], "rounds", "seconds", "device_seconds")


@dataclass(frozen=True, slots=True)
class Clock:
    """How often the server asked in some rounds (0: once in each), and their seconds at the server."""

    exchanges: int = 0
    seconds: float = 0.0


class CostSource(Protocol):
    """What a cost document needs besides the sums."""

    @property
    def name(self) -> str:
        """Name of the run or the federation."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the cost log, as far as they count."""

    def clocks(self) -> Mapping[str, Clock]:
        """Return the clock of each phase."""

    def node_names(self) -> Mapping[int, str] | None:
        """Return the names of the nodes; None: they have none."""

    def requests(self, rounds: Sequence[Document], phases: Mapping[str, Document]) -> list[Document]:
        """Return what each request cost, compared with retraining; see `beside_retraining`."""

    def incomplete(self, phases: Mapping[str, Document]) -> list[str]:
        """Return the phases whose rows do not sum to the bytes of their finished rounds."""


def cost_document(source: CostSource, price: Price) -> Document:
    """Return what a run or a deployment cost; the keys are described in docs/costs.md."""
    rounds, nodes = sums_of(source.rows(), price)
    phases, names = phases_of(rounds, source.clocks()), source.node_names()
    return {
        "run": source.name,
        "model": price.document(),
        "phases": phases,
        "rounds": rounds,
        "nodes": nodes if names is None else [{**node, "name": names.get(node["node"], "")} for node in nodes],
        "requests": source.requests(rounds, phases),
        "incomplete": source.incomplete(phases),
    }


def sums_of(rows: Iterable[Row], price: Price) -> tuple[list[Document], list[Document]]:
    """Return the sums of each round, in the order of the rows, and of each node.

    >>> row = Row("train", 1, 0, "down", 90, 100, 100)
    >>> rounds, nodes = sums_of([row, row._replace(node=1, direction="up")], Price())
    >>> rounds[0]["messages"], rounds[0]["wire_bytes_up"], nodes[1]["wire_bytes"]
    (2, 100, {'train': 100})
    """
    rounds: list[Document] = []
    nodes: dict[int, Document] = {}
    for (phase, number), group in groupby(rows, key=lambda row: (row.phase, row.round)):
        found: Document = {"phase": phase, "round": number, "messages": 0, **dict.fromkeys(SUMS, 0)}
        by_node: dict[int, int] = {}
        device_seconds = 0.0
        for row in group:
            found["messages"] += 1
            for name, size in zip(BYTES, (*row[4:7], row.saved_bytes), strict=True):
                found[f"{name}_{row.direction}"] += size
            by_node[row.node] = by_node.get(row.node, 0) + row.wire_bytes
            device_seconds += row.device_seconds
        for node, size in by_node.items():
            wire = nodes.setdefault(node, {"node": node, "wire_bytes": {}})["wire_bytes"]
            wire[phase] = wire.get(phase, 0) + size
        wire_bytes = found["wire_bytes_down"] + found["wire_bytes_up"]
        priced = price.of(wire_bytes, slowest=max(by_node.values()))
        rounds.append({**found, "device_seconds": device_seconds, **priced})
    return rounds, [nodes[node] for node in sorted(nodes)]


def phases_of(rounds: Iterable[Document], clocks: Mapping[str, Clock]) -> dict[str, Document]:
    """Return the sums of each phase over its rounds, in the order that phases came; what has no clock took no time."""
    found: dict[str, list[Document]] = {}
    for each in rounds:
        found.setdefault(each["phase"], []).append(each)
    return {name: summed(those, clocks.get(name, Clock())) for name, those in found.items()}


def summed(rounds: Sequence[Document], clock: Clock) -> Document:
    """Return the sums of rounds, at least one; how long they took and how often the server asked is the clock's."""
    names = ("messages", *SUMS, "device_seconds", "link_seconds", "one_link_seconds", "joules")
    sums: Document = {name: None if rounds[0][name] is None else sum(r[name] for r in rounds) for name in names}
    totals = {name: sums[f"{name}_down"] + sums[f"{name}_up"] for name in BYTES}
    return {"rounds": clock.exchanges or len(rounds), **totals, **sums, "seconds": clock.seconds}


def beside_retraining(spent: Sequence[Document], retrain: Document | None) -> Document:
    """Return what a request cost, and how many times as much retraining costs: the paper's factor; None: not known.

    >>> one = dict.fromkeys(COMPARED, 2)
    >>> beside_retraining([one], {**one, "rounds": 20, "seconds": None})["retraining_costs_times"]["rounds"]
    10.0
    """
    cost = {name: sum(phase[name] for phase in spent) for name in COMPARED}
    factors = {
        name: retrain[name] / cost[name] if retrain and retrain[name] is not None and cost[name] else None
        for name in COMPARED
    }
    return {"cost": cost, "retraining_costs_times": factors}
