"""Measure the account itself: its memory and file for many clients, and its share of a run's time.

    python -m fedquit.simulations.engine.account [--nodes 10000 --rounds 100 --arrays 8 --json]

Memory is Python's and NumPy's, as tracemalloc counts it, of writing the account and of reading it again. Time is that
of counting one question and its answer, for a model of that many arrays.
"""

import json
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import click
import numpy as np
from flwr.app import Message, RecordDict

from fedquit.simulations.costs.account import sums_of
from fedquit.simulations.costs.price import Price
from fedquit.strategies.costs import Costs
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.rows import Row, read_rows
from fedquit.strategies.train import record_of
from fedquit.strategies.wire import Wire, wire_of


def model(arrays: int, parameters: int, seed: int) -> RecordDict:
    """Return the content of a message with a model of so many parameters."""
    random = np.random.default_rng(seed)
    size = max(1, parameters // arrays)
    return RecordDict({"arrays": record_of({f"w{i}": random.random(size, dtype=np.float32) for i in range(arrays)})})


def memory_of(path: Path, nodes: int, rounds: int, objects: int) -> dict[str, float]:
    """Account so many rounds of so many nodes, read them again, and return the peaks in bytes."""
    tracemalloc.start()
    costs = Costs(path)
    for number in range(1, rounds + 1):
        for node in range(nodes):
            costs.record(Row("train", number, node, "down", 10**6, 0, 0), Wire(999, dict.fromkeys(range(objects), 99)))
        for node in range(nodes):
            own = range(1000 * node, 1000 * node + objects)
            costs.record(Row("train", number, node, "up", 10**6, 0, 0, 1.0, 1.0), Wire(999, dict.fromkeys(own, 99)))
        costs.settle()
    size, (_, written) = costs.sync(), tracemalloc.get_traced_memory()
    del costs
    tracemalloc.reset_peak()
    sums_of(read_rows(path), Price())
    _, read = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"peak_bytes_writing": written, "peak_bytes_reading": read, "file_bytes": size}


def seconds_of(arrays: int, parameters: int, messages: int) -> float:
    """Return the processor's seconds of accounting one question and its answer, every answer another model."""
    become_server_task(run_id=1)
    question = Message(model(arrays, parameters, 0), 7, "train")
    replies = [Message(model(arrays, parameters, seed), reply_to=question) for seed in range(1, messages + 1)]
    with tempfile.TemporaryDirectory() as folder:
        costs, started = Costs(Path(folder) / "costs.csv"), time.process_time()
        for node, reply in enumerate(replies):
            costs.record(Row("train", 1, node, "down", 1, 0, 0), wire_of(question))
            costs.record(Row("train", 1, node, "up", 1, 0, 0), wire_of(reply))
        costs.settle()
        return (time.process_time() - started) / messages


@click.command()
@click.option("--nodes", default=10_000, show_default=True)
@click.option("--rounds", default=100, show_default=True)
@click.option("--arrays", default=8, show_default=True, help="of the model")
@click.option("--parameters", default=100_000, show_default=True, help="of the model")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def main(nodes: int, rounds: int, arrays: int, parameters: int, as_json: bool) -> None:
    """Measure the account of so many nodes and rounds."""
    each = seconds_of(arrays, parameters, messages=100)
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = memory_of(Path(folder) / "costs.csv", nodes, rounds, objects=2 * arrays + 2)
    document = {"nodes": nodes, "rounds": rounds, "arrays": arrays, "parameters": parameters, **found}
    document["cpu_seconds_for_a_question_and_its_answer"] = each
    if as_json:
        print(json.dumps(document, indent=1))  # noqa: T201
        return
    print(  # noqa: T201
        f"{nodes} nodes, {rounds} rounds: peak {found['peak_bytes_writing'] / 1e6:.1f} MB writing, "
        f"{found['peak_bytes_reading'] / 1e6:.1f} MB reading; file {found['file_bytes'] / 1e6:.0f} MB\n"
        f"a question and its answer ({parameters} parameters in {arrays} arrays): {1e6 * each:.0f} µs of processor "
        f"time, under 1 % where a client is at work for more than {100 * each:.3f} s a round"
    )


if __name__ == "__main__":
    main()
