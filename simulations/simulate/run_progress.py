"""Live progress on standard error: a bar for people at a terminal, a line a round elsewhere."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """Shows the events of a run as they come; use it as a context manager and call it with events."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task: Any = None
        self._started = 0.0
        self._goal: int | None = None
        self._done = self._first = self._replies = 0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show an event."""
        shows: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "resume": self._resume,
            "phase": self._phase,
            "reply": self._reply,
            "refused": self._refused,
            "round": self._round,
            "phase-end": self._phase_end,
            "guard": self._guard,
            "stack": self._stack,
            "report": lambda _event: self._line("measuring the models"),
        }
        if event["event"] in shows:
            shows[event["event"]](event)

    def _resume(self, event: Mapping[str, Any]) -> None:
        self._say(f"going on after {event['rounds']} finished rounds")

    def _stack(self, event: Mapping[str, Any]) -> None:
        if event["reason"]:
            self._say(f"clients are trained one by one: {event['reason']}")
        else:
            self._say(
                f"{event['clients']} clients are trained at once; models differ by rounding from those of one by one"
            )

    def _phase(self, event: Mapping[str, Any]) -> None:
        self._goal, self._done, self._replies = event["at_most"], event["done"], 0
        self._first, self._started = event["done"], time.monotonic()
        self._task = self._bars.add_task(event["phase"], total=self._goal, completed=self._done, note="")

    def _reply(self, event: Mapping[str, Any]) -> None:
        del event
        self._replies += 1
        self._bars.update(self._task, note=f"{self._replies} clients answered")

    def _refused(self, event: Mapping[str, Any]) -> None:
        self._say(f"{event['phase']}: refused client {event['client']}: {event['reason']}")

    def _round(self, event: Mapping[str, Any]) -> None:
        self._done, self._replies = self._done + 1, 0
        note = f"held-out {event['holdout_accuracy']:.3f}, forget {event['forget_accuracy']:.3f}{self._left()}"
        self._bars.update(self._task, completed=self._done, note=note)
        self._line(f"{event['phase']} {self._done}/{self._goal}: {note}")

    def _left(self) -> str:
        """Say how long the phase takes at most, going by its rounds so far."""
        ran = self._done - self._first
        if not self._goal or not ran or self._done >= self._goal:
            return ""
        seconds = (time.monotonic() - self._started) / ran * (self._goal - self._done)
        return f", at most {seconds:.0f} s left"

    def _guard(self, event: Mapping[str, Any]) -> None:
        if event["off"]:
            self._say(f"{event['phase']}: the guard's verdict: {event['verdict']}: {event['off']}")
        if event["warning"]:
            self._say(f"{event['phase']}: warning: {event['warning']}")

    def _phase_end(self, event: Mapping[str, Any]) -> None:
        self._bars.update(self._task, total=self._done)
        self._say(f"{event['phase']}: {event['reason']}")

    def _line(self, text: str) -> None:
        """Say something that a bar shows anyway."""
        if self._bars.disable:
            self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
