"""Time one round of federated averaging three ways in one run: this engine, bare PyTorch processes, Flower on Ray.

    python -m tests.benchmarks.round [--dataset fashion-mnist --samples 12000 --runs 5 --no-ray --json]

All three do the same work: every client trains one epoch from the same model with the same batches, and the results
are averaged. The bare processes are a plain training loop with clients dealt by size, no Flower, no messages. The
first two take turns, so that a slow moment of the machine hits both; only their ratio means anything.
"""

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import click
import numpy as np
import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from torch.nn import functional as F

from fedquit.client.data.build_data_and_model import dataset_of, initial_model, split
from fedquit.settings import Settings
from fedquit.simulations.engine.flower_runtime import run_on_flower
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.train import Train
from fedquit.unlearning.samples import shuffled_batches
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.convert import Arrays

POLL_SECONDS = 0.002


def bare_worker(pipe: Connection, settings: Settings, clients: list[int]) -> None:
    """Answer each model that comes through `pipe` with the models of `clients` trained from it."""
    torch.set_num_threads(1)
    data, parts = dataset_of(settings).train, split(settings.key())
    shares = {client: data.subset(torch.from_numpy(parts[client])) for client in clients}
    model = initial_model(settings, settings.seed)
    while (task := pipe.recv()) is not None:
        number, arrays = task
        for client, share in shares.items():
            model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
            generator = torch.Generator().manual_seed(derive_seed(settings.seed, "train", number, client))
            optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
            model.train()
            for index in shuffled_batches(len(share), settings.batch_size, generator):
                inputs, labels = share.batch(index)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(F.cross_entropy(model(inputs), labels))
                optimizer.step()
            pipe.send((len(share), {name: tensor.numpy() for name, tensor in model.state_dict().items()}))


class BareProcesses:
    """Plain PyTorch worker processes, clients dealt to them largest first."""

    def __init__(self, settings: Settings, workers: int) -> None:
        sizes = [len(part) for part in split(settings.key())]
        hands: list[list[int]] = [[] for _ in range(workers)]
        for client in sorted(range(len(sizes)), key=lambda client: -sizes[client]):
            min(hands, key=lambda hand: sum(sizes[c] for c in hand)).append(client)
        context = multiprocessing.get_context("spawn")
        self.hands = hands
        self.pipes, self.processes = [], []
        for hand in hands:
            ours, theirs = context.Pipe()
            self.processes.append(context.Process(target=bare_worker, args=(theirs, settings, hand), daemon=True))
            self.processes[-1].start()
            self.pipes.append(ours)

    def round(self, number: int, arrays: Arrays) -> Arrays:
        """Return the average of what every client makes of `arrays`."""
        for pipe in self.pipes:
            pipe.send((number, dict(arrays)))
        total, sums = 0, {name: np.zeros(array.shape, dtype=np.float64) for name, array in arrays.items()}
        left = {id(pipe): len(hand) for pipe, hand in zip(self.pipes, self.hands, strict=True)}
        while any(left.values()):
            for pipe in self.pipes:
                if left[id(pipe)] and pipe.poll(POLL_SECONDS):
                    count, trained = pipe.recv()
                    left[id(pipe)] -= 1
                    total += count
                    for name, array in trained.items():
                        sums[name] += array * float(count)
        return {name: (values / total).astype(arrays[name].dtype) for name, values in sums.items()}

    def close(self) -> None:
        """End the workers."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()


@contextmanager
def our_engine(settings: Settings, workers: int) -> Iterator[Train]:
    """Yield the strategy on the in-process engine."""
    with InProcessGrid(settings.clients, settings.run_config(), workers=workers) as grid:
        metered = MeteredGrid(grid, patience=600)
        metered.begin("train", 1)
        yield Train(metered, seed=settings.seed)


def seconds_of(work: Any, *args: Any) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    work(*args)
    return time.perf_counter() - started


def ray_rounds(settings: Settings, arrays: Arrays, runs: int, workers: int) -> tuple[float, list[float]]:
    """Return the seconds until Flower's Ray engine has done its first round, start included, and of each later one."""
    times: list[float] = []
    server_app = ServerApp()
    started = time.perf_counter()
    first = 0.0

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        nonlocal first
        del context
        metered = MeteredGrid(grid, patience=600)
        metered.begin("train", 1)
        strategy = Train(metered, seed=settings.seed)
        strategy.round(1, arrays, {"lr": settings.lr})
        first = time.perf_counter() - started
        times.extend(seconds_of(strategy.round, 1, arrays, {"lr": settings.lr}) for _ in range(runs))

    run_on_flower(server_app, settings.clients, settings.run_config(), workers=workers)
    return first, times


@click.command()
@click.option("--dataset", default="fashion-mnist", show_default=True)
@click.option("--samples", default=12000, show_default=True, help="training samples; 0: all")
@click.option("--clients", default=10, show_default=True)
@click.option("--alpha", default=0.3, show_default=True)
@click.option("--model", default="cnn", show_default=True)
@click.option("--workers", default=os.cpu_count() or 1, show_default=True)
@click.option("--runs", default=5, show_default=True, help="counted rounds of each")
@click.option("--ray/--no-ray", default=True, help="time Flower's Ray engine too")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def main(
    dataset: str,
    samples: int,
    clients: int,
    alpha: float,
    model: str,
    workers: int,
    runs: int,
    ray: bool,
    as_json: bool,
) -> None:
    """Time one round of training on three engines."""
    settings = Settings.read(
        {"dataset": dataset, "samples": samples, "clients": clients, "alpha": alpha, "model": model}, "bench"
    )
    arrays = {n: t.numpy() for n, t in initial_model(settings, settings.seed).state_dict().items()}
    bare = BareProcesses(settings, workers)
    ours, theirs = [], []
    start = time.perf_counter()
    with our_engine(settings, workers) as strategy:
        result, _ = strategy.round(1, arrays, {"lr": settings.lr})
        our_first = time.perf_counter() - start
        difference = max(float(np.abs(result[n] - a).max()) for n, a in bare.round(1, arrays).items())
        for _ in range(runs):
            ours.append(seconds_of(strategy.round, 1, arrays, {"lr": settings.lr}))
            theirs.append(seconds_of(bare.round, 1, arrays))
    bare.close()
    document: dict[str, Any] = {
        "settings": {"dataset": dataset, "samples": samples, "clients": clients, "model": model, "workers": workers},
        "inprocess_seconds": ours,
        "bare_seconds": theirs,
        "inprocess_to_bare": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "inprocess_first_round_seconds": our_first,
        "largest_difference_of_models": difference,
    }
    if ray:
        first, rounds = ray_rounds(settings, arrays, runs, workers)
        document |= {"ray_first_round_seconds": first, "ray_seconds": rounds}
    print(json.dumps(document, indent=1) if as_json else _told(document))


def _told(document: dict[str, Any]) -> str:
    def median(name: str) -> str:
        return f"{statistics.median(document[name]):6.2f} s a round (median of {len(document[name])})"

    def first(name: str) -> str:
        return f"{median(name + '_seconds')}, first done after {document[name + '_first_round_seconds']:.1f} s"

    lines = [
        "One round: " + ", ".join(f"{name} {value}" for name, value in document["settings"].items()),
        f"  in-process     {first('inprocess')}",
        f"  bare processes {median('bare_seconds')}",
        f"  in-process / bare, median of pairs: {document['inprocess_to_bare']:.3f}",
        f"  largest difference of the two models: {document['largest_difference_of_models']:.1e}",
    ]
    if "ray_seconds" in document:
        lines.append(f"  Flower on Ray  {first('ray')}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
