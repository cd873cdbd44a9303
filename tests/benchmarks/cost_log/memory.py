"""Measure the account's memory, and the size of its file, for many clients and rounds.

    python -m tests.benchmarks.cost_log.memory [--nodes 10000 --rounds 100 --arrays 8 --json]

Memory is Python's, as tracemalloc counts it, of writing the account and of reading it again. What the account takes of
a run's time, `share` measures.
"""

import json
import tempfile
import tracemalloc
from pathlib import Path

import click

from fedquit.simulations.costs.cost_document import sums_of
from fedquit.simulations.costs.price import Price
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import Row, read_rows
from fedquit.strategies.cost_log.flower_objects import Part
from fedquit.strategies.cost_log.message_size import MessageSize


def account_round(costs: Costs, number: int, nodes: int, arrays: int) -> None:
    """Account a round of so many nodes: each gets the same model of so many arrays, and returns one of its own."""
    sizes = (99,) * (2 * arrays + 1)
    model = Part(tuple(range(2**62, 2**62 + len(sizes))), sizes)
    for node in range(nodes):
        wire = MessageSize(999, (Part((2**61 + node,), (99,)), model), 10**6)
        costs.record(Row("train", number, node, "down", 10**6, 0, 0), wire)
    for node in range(nodes):
        start = 2**60 + 1000 * node
        wire = MessageSize(
            999, (Part((start - 1,), (99,)), Part(tuple(range(start, start + len(sizes))), sizes)), 10**6
        )
        costs.record(Row("train", number, node, "up", 10**6, 0, 0, 1.0 + node, 1.0 + node), wire)
    costs.settle()


def memory_of(path: Path, nodes: int, rounds: int, arrays: int) -> dict[str, int]:
    """Account so many rounds, read them again, and return the peaks in bytes, and the bytes of the file.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(memory_of(Path(folder) / "costs.csv", nodes=5, rounds=2, arrays=3))
    ['file_bytes', 'peak_bytes_reading', 'peak_bytes_writing']
    """
    tracemalloc.start()
    try:
        costs = Costs(path)
        for number in range(1, rounds + 1):
            account_round(costs, number, nodes, arrays)
            size = costs.sync().size
        written = tracemalloc.get_traced_memory()[1]
        del costs
        tracemalloc.reset_peak()
        sums_of(read_rows(path), Price())
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return {"peak_bytes_writing": written, "peak_bytes_reading": read, "file_bytes": size}


@click.command()
@click.option("--nodes", default=10_000, show_default=True)
@click.option("--rounds", default=100, show_default=True)
@click.option("--arrays", default=8, show_default=True, help="of the model")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def main(nodes: int, rounds: int, arrays: int, as_json: bool) -> None:
    """Measure the account of so many nodes and rounds."""
    with tempfile.TemporaryDirectory() as folder:
        found = memory_of(Path(folder) / "costs.csv", nodes, rounds, arrays)
    if as_json:
        print(json.dumps({"nodes": nodes, "rounds": rounds, "arrays": arrays, **found}, indent=1))
        return
    print(
        f"{nodes} nodes, {rounds} rounds: peak {found['peak_bytes_writing'] / 1e6:.1f} MB writing, "
        f"{found['peak_bytes_reading'] / 1e6:.1f} MB reading; file {found['file_bytes'] / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
