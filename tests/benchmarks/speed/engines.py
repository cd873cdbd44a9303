"""The engines that take turns, each as something that carries out a round and can be closed."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedquit.server.app import known_members
from fedquit.settings import Settings
from fedquit.simulations.engine.flower_runtime import run_on_flower
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.simulations.engine.stack import stack_size
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.reply import ReplyDetail
from fedquit.strategies.rounds.train import Train
from fedquit.unlearning.tensors.convert import Arrays
from tests.benchmarks.speed.bare_processes import BareProcesses
from tests.benchmarks.speed.machine import descendants, memory_mib, of_ray

PATIENCE = 3600.0


@dataclass
class Engine:
    """One that takes part.

    Attributes:
        round: carries out round `number` from a model and returns the new one.
        first: seconds from its beginning to the end of its first round.
        seconds: of each later round.
        processes: that it began.
        is_ray: whether it is Flower's simulation runtime.
    """

    round: Callable[[int, Arrays], Arrays]
    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    processes: set[int] = field(default_factory=set)
    is_ray: bool = False

    def timed(self, number: int, arrays: Arrays) -> Arrays:
        """Carry out a round and note how long it takes."""
        started = time.perf_counter()
        new = self.round(number, arrays)
        self.seconds.append(time.perf_counter() - started)
        return new

    def memory(self) -> float:
        """Return the memory of its processes, MiB."""
        if self.is_ray:
            return memory_mib({process for process in descendants() if of_ray(process)})
        return memory_mib({process for process in self.processes if not of_ray(process)})


@dataclass(frozen=True)
class Ray:
    """Flower's simulation runtime, which has begun.

    Attributes:
        grid: its.
        seconds: that it took to begin.
    """

    grid: Grid
    seconds: float


def begun(make: Callable[[], Callable[[int, Arrays], Arrays]], arrays: Arrays) -> Engine:
    """Begin an engine and have it carry out its first round."""
    before, started = descendants(), time.perf_counter()
    engine = Engine(make())
    engine.round(1, arrays)
    engine.first = time.perf_counter() - started
    engine.processes = descendants() - before
    return engine


@contextmanager
def engines(settings: Settings, workers: int, arrays: Arrays, ray: Ray | None) -> Iterator[dict[str, Engine]]:
    """Yield the engines by name, each after its first round.

    Args:
        settings: of the federation.
        workers: processes of each.
        arrays: the model.
        ray: Flower's simulation runtime, which takes turns with the bare processes alone; None: all others do.
    """
    with ExitStack() as stack:

        def ours(size: int) -> Callable[[int, Arrays], Arrays]:
            grid = InProcessGrid(settings.clients, settings.run_config(), workers=workers, stack=size)
            stack.enter_context(grid)
            return rounds_on(MeteredGrid(grid, known_members(grid, settings), patience=PATIENCE), settings)

        def bare() -> Callable[[int, Arrays], Arrays]:
            processes = BareProcesses(settings, workers)
            stack.callback(processes.close)
            return processes.round

        if ray is not None:  # it is still beginning when it says that it has begun
            runtime = begun(lambda: rounds_on(MeteredGrid(ray.grid, patience=PATIENCE), settings), arrays)
            runtime.first += ray.seconds
            runtime.is_ray = True
            yield {"Flower on Ray": runtime, "bare processes": begun(bare, arrays)}
            return
        made = {"in-process": begun(lambda: ours(1), arrays), "bare processes": begun(bare, arrays)}
        size, _ = stack_size("auto", settings)
        if size > 1:
            made["stacked"] = begun(lambda: ours(size), arrays)
        yield made


def rounds_on(grid: MeteredGrid, settings: Settings) -> Callable[[int, Arrays], Arrays]:
    """Return what carries out a round on a grid."""
    grid.begin("train", 1)
    strategy = Train(grid, seed=settings.seed, fraction=settings.fraction, reply_detail=ReplyDetail.LENGTHS)
    return lambda number, arrays: strategy.round(number, arrays, {"lr": settings.lr})[0]


def with_ray(settings: Settings, workers: int, body: Callable[[Ray], None]) -> None:
    """Call `body` with Flower's simulation runtime, while it runs."""
    app, started = ServerApp(), time.perf_counter()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        body(Ray(grid, time.perf_counter() - started))

    run_on_flower(app, settings.clients, settings.run_config(), workers=workers)
