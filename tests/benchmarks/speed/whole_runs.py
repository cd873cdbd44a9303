"""Whole runs, each a process of its own: time and memory from 1,000 to 100,000 clients, and until the first round."""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fedquit.simulations.simulate.run_simulation import run_simulation
from tests.benchmarks.speed.machine import MemoryPeak, load, peak_mib
from tests.benchmarks.speed.works import federation

ROUNDS = 3
FEDERATIONS = {"1,000": (1000, 100), "10,000": (10_000, 100), "1,000, all": (1000, 1000), "100,000": (100_000, 1000)}
"""Name -> clients, and how many of them a round asks."""


def time_runs(runs: int) -> dict[str, Any]:
    """Return what whole runs take, in turn, as a document."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in FEDERATIONS}
    first, busy = list[float](), [load()]
    for _ in range(runs):
        first.append(first_round())
        for name, (clients, asked) in FEDERATIONS.items():
            found[name].append(_run_apart(clients, asked))
    busy.append(load())
    return {"load": busy, "first_round_seconds": first, "runs": {name: _medians(each) for name, each in found.items()}}


def _medians(each: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: statistics.median(run[key] for run in each) for key in each[0]}


def _run_apart(clients: int, asked: int) -> dict[str, Any]:
    """Return what a run in a process of its own says of itself."""
    command = [sys.executable, "-m", "tests.benchmarks.speed.whole_runs", str(clients), str(asked)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def first_round() -> float:
    """Return the seconds from the command to the end of the first round: 100 clients of digits, mlp."""
    command = [sys.executable, "-m", "fedquit", "simulate", "--clients", "100", "--model", "mlp", "--alpha", "0.3"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--out", f"{folder}/run"], stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stderr or ():
                if line.startswith("train 1/"):
                    return time.perf_counter() - started
            raise RuntimeError("the run ended before its first round")
        finally:
            process.kill()
            process.communicate()


@click.command()
@click.argument("clients", type=int)
@click.argument("asked", type=int)
@click.option("--workers", default=os.cpu_count() or 1)
def main(clients: int, asked: int, workers: int) -> None:
    """Carry out a run and print what it took, as JSON."""
    started, times = time.perf_counter(), dict[str, float]()

    def listen(event: Mapping[str, Any]) -> None:
        if event["event"] == "round" and event["phase"] == "train":
            times.setdefault("first", time.perf_counter() - started)
            times["last"] = time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder, MemoryPeak() as peak:
        given = federation(clients, asked, ROUNDS)
        run_simulation(given, out=Path(folder) / "run", workers=workers, listener=listen)
    own = resource.getrusage(resource.RUSAGE_SELF)
    document = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": own.ru_utime + own.ru_stime,
        "first_round_seconds": times["first"],
        "seconds_of_an_update": (times["last"] - times["first"]) / (asked * (ROUNDS - 1)),
        "server_peak_mib": peak_mib(),
        "peak_mib": peak.mib,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
