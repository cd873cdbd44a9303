"""Rounds of several engines in turn, in one run, so that a slow moment of the machine hits all of them."""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedquit.client.data.build_data_and_model import initial_model
from fedquit.settings import Settings
from fedquit.unlearning.tensors.convert import Arrays, arrays_of
from tests.benchmarks.speed.engines import Engine, Ray, engines, with_ray
from tests.benchmarks.speed.machine import load, matrix_rate
from tests.benchmarks.speed.works import Work

AGAINST = "bare processes"
SECONDS, MOST = 15.0, 50
"""For which rounds of a work go on, and how many there are at most."""


def time_work(work: Work, *, workers: int, runs: int, ray: bool, seconds: float = SECONDS) -> dict[str, Any]:
    """Return the times of every engine on a work, as a document; Ray, which is never idle, is timed after the others.

    Args:
        work: the work.
        workers: processes of each engine.
        runs: rounds of each engine, at least.
        ray: whether to time Flower on Ray.
        seconds: for which rounds go on, if they are short.
    """
    settings = work.settings()
    found = {"title": work.title, **_in_turn(settings, workers, runs, seconds, None)}

    def take_turns(runtime: Ray) -> None:
        later = _in_turn(settings, workers, runs, seconds, runtime)
        for part in ("engines", "largest_difference"):
            found[part] = {name: value for name, value in later[part].items() if name != AGAINST} | found[part]

    if ray:
        with_ray(settings, workers, take_turns)
    return found


def _in_turn(settings: Settings, workers: int, runs: int, seconds: float, ray: Ray | None) -> dict[str, Any]:
    arrays = arrays_of(initial_model(settings, settings.seed).state_dict())
    busy, rates, begun = [load()], list[float](), time.monotonic()
    with engines(settings, workers, arrays, ray) as made:
        for number in itertools.count():
            if number < runs:
                rates.append(matrix_rate())
            elif number >= MOST or time.monotonic() - begun > seconds:
                break
            results = {name: engine.timed(1, arrays) for name, engine in made.items()}
        busy.append(load())
        return {
            "load": busy,
            "matrix_gflops": statistics.median(rates),
            "engines": {name: _document(engine, made[AGAINST]) for name, engine in made.items()},
            "largest_difference": {name: difference(new, results[AGAINST]) for name, new in results.items()},
        }


def _document(engine: Engine, bare: Engine) -> dict[str, Any]:
    return {
        "seconds": engine.seconds,
        "median": statistics.median(engine.seconds),
        "first": engine.first,
        "to_bare": ratio(engine.seconds, bare.seconds),
        "memory_mib": engine.memory(),
    }


def ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of rounds that took turns.

    >>> ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0])
    2.0
    """
    return statistics.median(one / other for one, other in zip(seconds, others, strict=True))


def difference(new: Arrays, other: Mapping[str, Any]) -> float:
    """Return the largest difference of two models.

    >>> difference({"w": np.array([1.0, 2.0])}, {"w": np.array([1.0, 2.5])})
    0.5
    """
    return max(float(np.abs(np.asarray(new[name]) - np.asarray(array)).max()) for name, array in other.items())
