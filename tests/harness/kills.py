"""Kill a deployment with SIGKILL at every point of a request, go on, and compare with the run that nothing disturbed.

    make kills > kills.md

Server and devices are one process here (see `rehearsal`), so a kill takes both: also between what a device has written
down and its answer, and between the answer and the server's transaction. Points are those that the coordinator names
just before it passes them, and every write of a file (each `fsync`).
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from flwr.app import Message

from fedquit.errors import FedquitError
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

BEFORE, AFTER = 2, 3
"""Rounds of training before the request, and in all."""
ASKER = 1
GONE = "asker-gone"
NEVER = 100
"""Rounds in a row that recovery must be at its goal, which are more than it may take."""
MINUTES = 5
SCENES: dict[str, dict[str, bool]] = {
    "all of a device": {},
    "some samples of a device": {"sample": True},
    "all of a device that is gone": {"gone": True},
    "all of a device, and the model does not recover": {"recovers": False},
}
Reached = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a deployment ended.

    Attributes:
        status: of its request; `requests`: how many there are.
        model: SHA-256 of the model that it ended with; `unlearned`: of the one right after forgetting.
        steps: phases of its steps, in order.
        ended: how often the log says that the request came to its end.
        wrong: what is wrong with the log.
        receipt: whether there is one.
    """

    status: str
    requests: int
    model: str
    unlearned: str
    steps: tuple[str, ...]
    ended: int
    wrong: tuple[str, ...]
    receipt: bool

    def same(self, other: "Outcome") -> bool:
        """Say whether nothing differs that a request is for."""
        return self == other


class WatchedGrid(KitGrid):
    """A rehearsal's grid that names each message as it reaches its device, and each answer as it leaves it."""

    reached: Reached = staticmethod(lambda _point: None)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Carry messages one by one."""
        for message in list(messages):
            kind = message.metadata.message_type
            self.reached(f"device: {kind} comes")
            for reply in super().send_and_receive([message], timeout=timeout):
                self.reached(f"device: {kind} is answered")
                yield reply


def prepare(
    folder: Path, *, sample: bool = False, gone: bool = False, recovers: bool = True, deferred: bool = False
) -> Rehearsal:
    """Make a deployment that has trained for two rounds and been asked by one device.

    Args:
        folder: where to.
        sample: a fifth of the device's samples is to be forgotten, not all.
        gone: the device is not connected any more.
        recovers: the first round of recovery reaches its goal; else none does.
        deferred: the others get the model that forgot in a sum with a round of theirs.
    """
    forgetting = {"adopt": "deferred" if deferred else "direct", **({} if recovers else {"patience": NEVER})}
    rehearsal = rehearse(folder, {"forgetting": forgetting})
    rehearsal.run(rehearsal.grid(), rounds=BEFORE)
    samples = rehearsal.digests(ASKER) if sample else ()
    rehearsal.ask(rehearsal.signed(ASKER, samples[: len(samples) // 5]))
    if gone:
        (rehearsal.folder / GONE).touch()
    return rehearsal


def carry_on(folder: Path, reached: Reached) -> None:
    """Carry a prepared deployment to its end in this process."""
    rehearsal = Rehearsal(folder)
    grid = WatchedGrid(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    grid.reached = reached
    grid.away = {ASKER} if (folder / GONE).exists() else set()
    rehearsal.run(grid, rounds=AFTER, reached=reached)


def outcome_of(folder: Path) -> Outcome:
    """Return how a deployment ended."""
    with Rehearsal(folder).ledger() as ledger:
        steps, requests = ledger.steps(), ledger.requests()
        return Outcome(
            status=requests[0].status,
            requests=len(requests),
            model=steps[-1].model_after,
            unlearned=next((step.model_after for step in steps if step.phase == "forget"), ""),
            steps=tuple(step.phase for step in steps),
            ended=sum(event.kind == requests[0].status for event in ledger.events()),
            wrong=tuple(ledger.check_chain()),
            receipt=requests[0].receipt is not None,
        )


def points_of(prepared: Path, scratch: Path) -> tuple[list[str], Outcome]:
    """Carry a copy to its end undisturbed; return the points that it passed, and its outcome."""
    copy, log = scratch / "undisturbed", scratch / "points"
    shutil.copytree(prepared, copy)
    code = _in_process(_recorded, copy, log)
    if code:
        raise FedquitError(f"the undisturbed run ended with code {code}")
    outcome = outcome_of(copy)
    shutil.rmtree(copy)
    return log.read_text(encoding="utf-8").splitlines(), outcome


def killed_at(prepared: Path, scratch: Path, number: int, *, go_on_here: bool = False) -> Outcome:
    """Kill a copy at its point `number`, from 0, let another process (or this one) go on, and return the outcome.

    Raises:
        FedquitError: it was not killed, or the other process failed.
    """
    copy = scratch / f"killed-{number}"
    shutil.copytree(prepared, copy)
    code = _in_process(_killed, copy, number)
    if code != -signal.SIGKILL:
        raise FedquitError(f"point {number}: ended with code {code} before the kill")
    if go_on_here:
        carry_on(copy, _nowhere)
    elif code := _in_process(carry_on, copy, _nowhere):
        raise FedquitError(f"point {number}: going on failed with code {code}")
    outcome = outcome_of(copy)
    shutil.rmtree(copy)
    return outcome


def _in_process(work: Callable[..., None], *args: Any) -> int:
    """Carry something out in a process of its own, and return its exit code."""
    process = _context().Process(target=_quiet, args=(work, *args))
    process.start()
    process.join(60 * MINUTES)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise FedquitError(f"a run took more than {MINUTES} minutes")
    return int(process.exitcode)


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.harness.kills", "fedquit.client.app"])
    return context


def _quiet(work: Callable[..., None], *args: Any) -> None:
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process lives
    work(*args)


def _nowhere(_point: str) -> None:
    pass


def _watched(folder: Path, reached: Reached) -> None:
    """Carry a deployment on, and have every fsync be a point too."""
    sync = os.fsync

    def watched(descriptor: Any) -> None:
        reached("file: fsync")
        sync(descriptor)

    os.fsync = watched  # type: ignore[assignment]
    carry_on(folder, reached)


def _recorded(folder: Path, log: Path) -> None:
    points: list[str] = []
    _watched(folder, points.append)
    log.write_text("\n".join(points), encoding="utf-8")


def _killed(folder: Path, number: int) -> None:
    left = number

    def reached(_point: str) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    _watched(folder, reached)


def rows_of(prepared: Path, scratch: Path, told: Callable[[str], None] = _nowhere) -> list[tuple[str, int, int]]:
    """Kill at every point; return each kind of point, how often it was killed there, and how often all was the same.

    Raises:
        FedquitError: naming the first point at which something was not as undisturbed.
    """
    points, undisturbed = points_of(prepared, scratch)
    times, same = Counter[str](), Counter[str]()
    for number, point in enumerate(points):
        outcome = killed_at(prepared, scratch, number)
        times[point] += 1
        same[point] += outcome.same(undisturbed)
        told(f"{number + 1}/{len(points)} {point}: {'same' if outcome.same(undisturbed) else outcome}")
    return [(point, times[point], same[point]) for point in times]


def table_of(scenes: Mapping[str, list[tuple[str, int, int]]]) -> list[str]:
    """Return the table of `rows_of` several scenes: at how many of the kills at each kind of point all was the same.

    >>> table_of({"a": [("done: committed", 2, 2)], "b": []})[-1]
    '| done: committed | 2 of 2 | |'
    """
    cells: dict[str, dict[str, str]] = {"**all**": {}}
    for scene, rows in scenes.items():
        cells["**all**"][scene] = f"**{sum(row[2] for row in rows)} of {sum(row[1] for row in rows)}**"
        for point, times, same in rows:
            cells.setdefault(point, {})[scene] = f"{same} of {times}"
    lines = [f"| killed at | {' | '.join(scenes)} |", "|---" * (len(scenes) + 1) + "|"]
    for point, found in cells.items():
        lines.append("".join([f"| {point} |", *(f" {found[scene]} |" if scene in found else " |" for scene in scenes)]))
    return lines


def main() -> None:
    """Print the table of kills."""
    rows = {}
    for name, scene in SCENES.items():
        with tempfile.TemporaryDirectory() as temporary:
            scratch = Path(temporary)
            prepared = prepare(scratch / "prepared", **scene).folder
            rows[name] = rows_of(prepared, scratch, lambda line: click.echo(line, err=True))
    click.echo("\n".join(table_of(rows)))
