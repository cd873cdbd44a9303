"""What people are told while a comparison runs."""

import io
import multiprocessing
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from fedquit.simulations.compare.cells import cell as one_run
from fedquit.simulations.compare.cells.cell import DONE, FAILED, RESULT, ROUND
from fedquit.simulations.compare.cells.cells_progress import CompareProgress
from fedquit.simulations.compare.cells.plan_cells import Cell, plan
from fedquit.simulations.compare.cells.run_cells import BEGIN, Crew, first_ready
from fedquit.simulations.compare.config.read_config import make_comparison

TOLD = make_comparison({"targets": [0], "seeds": [0], "budget": 8, "methods": {"negate": {}, "continue": {}}})
CELLS = plan(TOLD, [(0,)])
BASE, REFERENCES, NEGATE, CONTINUE = CELLS  # about 20, 148, 8 and 8 rounds


def stop_clocks(monkeypatch: pytest.MonkeyPatch, now: list[float]) -> None:
    """Let the time since the start be `now`, and the time of day noon."""

    class Noon(datetime):
        def astimezone(self, tz: object = None) -> "Noon":
            return Noon(2026, 11, 30, 12, 0)

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("fedquit.simulations.compare.cells.cells_progress.datetime", Noon)


def test_each_finished_run_is_shown_with_what_is_left_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    stop_clocks(monkeypatch, now)
    text = io.StringIO()
    with CompareProgress(CELLS, tmp_path, Console(file=text)) as progress:
        progress({"event": BEGIN, "cell": BASE, "reason": ""})
        now[0] += 10
        progress({"event": DONE, "cell": BASE, "reason": ""})  # 20 of 184 rounds in 10 s: 82 s for the others
        progress({"event": ROUND, "cell": NEGATE, "reason": ""})
        progress({"event": FAILED, "cell": CONTINUE, "reason": "no room"})
    assert text.getvalue().splitlines() == [
        f"4 runs in {tmp_path}",
        "[1/4] seed-0/base: done in 10 s; 3 left, about 82 s, until 12:01",
        "[2/4] seed-0/target-0/continue: failed (no room); 2 left, about 53 s, until 12:00",
    ]


def test_what_was_done_before_is_not_counted_as_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    stop_clocks(monkeypatch, now)
    for cell in (BASE, REFERENCES):
        (tmp_path / cell.folder).mkdir(parents=True)
        (tmp_path / cell.folder / RESULT).write_text("{}")
    text = io.StringIO()
    with CompareProgress(CELLS, tmp_path, Console(file=text)) as progress:
        now[0] += 10
        progress({"event": DONE, "cell": NEGATE, "reason": ""})
    assert text.getvalue().splitlines() == [
        f"4 runs in {tmp_path}, 2 of them done already",
        "[3/4] seed-0/target-0/negate: done; 1 left, about 10 s, until 12:00",
    ]


def ready(waiting: list[Cell], at_work: list[Cell], room: int) -> list[Cell]:
    return first_ready(waiting, {cell.folder for cell in [*waiting, *at_work]}, room)


def test_what_starts_from_a_training_waits_until_it_is_over() -> None:
    assert ready(CELLS, [], 4) == [BASE]
    assert ready([REFERENCES, NEGATE, CONTINUE], [BASE], 4) == []
    assert ready([REFERENCES, NEGATE, CONTINUE], [], 2) == [REFERENCES, NEGATE]


def test_a_lone_training_has_all_cores_and_many_runs_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, int]] = []
    crew = Crew(list(CELLS), tmp_path, 8, lambda _event: None)
    monkeypatch.setattr(crew, "_begin", lambda cell, workers: begun.append((cell.folder, workers)))
    crew.begin(8)
    crew.begin(8)  # nothing at work, as `_begin` only noted it: the base is over
    shares = [(BASE.folder, 8), (REFERENCES.folder, 2), (NEGATE.folder, 2), (CONTINUE.folder, 2)]
    assert begun == shares


def test_a_run_whose_parent_has_ended_shows_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedquit.simulations.engine.worker_process.begin_worker", lambda *_: None)
    monkeypatch.setattr(one_run, "carry_out", lambda *_, on_round: on_round())
    ours, theirs = multiprocessing.Pipe()
    ours.close()
    one_run.work(theirs, BASE, tmp_path, 1, ("cpu", "fp32"))
    assert capfd.readouterr().err == ""
