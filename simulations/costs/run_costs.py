"""The costs of a run as a document: sums of each phase, round and node, compared with retraining.

Rows are read one by one, as far as the run's last checkpoint; so a run can be asked while it is at work.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.server.lifecycle.phases import nth
from fedquit.server.run.run_folder import costs_file, read_settings, read_state
from fedquit.server.run.run_state import Round, State
from fedquit.simulations.costs.price import Price
from fedquit.strategies.cost_log.cost_rows import Row, read_rows


@dataclass(frozen=True, slots=True)
class Clock:
    """How often the server asked in some rounds (0: once in each), and their seconds at the server."""

    exchanges: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, rounds: Sequence[Round]) -> Self:
        """Return that of finished rounds."""
        return cls(sum(r.exchanges for r in rounds), sum(r.seconds for r in rounds))


BYTES = ("payload_bytes", "wire_bytes", "deduplicated_bytes", "saved_bytes")
SUMS = tuple(f"{name}_{way}" for name in BYTES for way in ("down", "up"))
COMPARED = (*BYTES[:3], "rounds", "seconds", "device_seconds")


def rows_of(path: Path) -> Iterator[Row]:
    """Yield the rows of the simulated run in the folder `path`, up to its last checkpoint.

    Raises:
        InputError: it is no run, or has no cost log.
    """
    read_settings(path)
    size = read_state(path).costs_size
    if not size or not costs_file(path).is_file():
        raise InputError(f"{path} has no cost log: no round is finished, or an older fedquit began the run")
    return read_rows(costs_file(path), size)


def make_cost_document(path: Path, price: Price) -> Document:
    """Return what the simulated run in the folder `path` cost; its keys are described in docs/costs.md."""
    rounds, nodes = sums_of(rows_of(path), price)
    settings, state = read_settings(path), read_state(path)
    phases = phases_of(
        rounds, {name: Clock.of(state.of(name)) for name in dict.fromkeys(r.phase for r in state.rounds)}
    )
    retrain = phases.get("retrain")
    requests = [[phases.get(nth(name, i)) for name in ("forget", "recover")] for i in range(settings.num_requests)]
    return {
        "run": path.resolve().name,
        "model": price.document(),
        "phases": phases,
        "rounds": rounds,
        "nodes": nodes,
        "requests": [beside_retraining([phase for phase in spent if phase], retrain) for spent in requests],
        "incomplete": [
            name for name in dict.fromkeys(r.phase for r in state.rounds) if not _whole(name, phases, state)
        ],
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


def _whole(phase: str, phases: dict[str, Document], state: State) -> bool:
    """Say whether the rows of a phase sum to the bytes of its finished rounds."""
    found = phases.get(phase, dict.fromkeys(SUMS, 0))
    return all(
        found[f"payload_bytes_{way}"] == sum(getattr(r, f"bytes_{way}") for r in state.of(phase))
        for way in ("down", "up")
    )
