"""Keep some processes alive: start them in order, restart what dies with growing pauses, end all of them at last.

Knows nothing of what the processes are for. A part that dies is started again after 1, 2, 4 ... 60 seconds, less up to
half of that by chance, so that many devices whose server was away do not all come back at once. One that lived for ten
minutes starts again at 1; a shorter life proves nothing: on a busy machine a process may need minutes until it dies of
what ailed it from the start. Each part leads a process group of its own: once its main process has died, the whole
group is ended. If the supervisor itself is killed, the kernel ends its parts with it (on Linux); what is left even so,
the next one that starts with the same folder of logs ends.
"""

import contextlib
import ctypes
import logging.handlers
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedquit.documents import Listener
from fedquit.errors import FedquitError
from fedquit.processes import process_groups

LOG_BYTES, LOG_FILES = 10_000_000, 3
LONGEST_PAUSE, HEALTHY = 60.0, 600.0
JITTER = 0.5
"""Up to this share of a pause is left out by chance."""
GRACE = 20.0  # seconds for a part to end by itself
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Part:
    """A process to keep alive.

    Attributes:
        name: for people, and of its log file.
        command: what to run, or what returns it, called before each start: a port that was free may be taken by then.
        environment: in addition to the supervisor's own.
        port: that it listens on once it is ready; 0: it is ready at once.
        host: address of this machine at which that port is reached.
        on_line: called with each line that it prints; errors that this raises are ignored.
        before: called before each start, to remove what a killed one left.
    """

    name: str
    command: Sequence[str] | Callable[[], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    before: Callable[[], None] | None = None
    host: str = "127.0.0.1"
    on_line: Callable[[str], None] | None = None

    def arguments(self) -> list[str]:
        """Return what to run now."""
        return list(self.command() if callable(self.command) else self.command)


def pause(deaths: int) -> float:
    """Return the seconds to wait, at most, before a part is started again that died so often in a row.

    >>> [pause(deaths) for deaths in (1, 2, 3, 9, 5000)]
    [1.0, 2.0, 4.0, 60.0, 60.0]
    """
    doublings = min(deaths - 1, 16)  # a part may die for weeks, and a float ends at 2**1024
    return min(LONGEST_PAUSE, 2.0**doublings)


def line_of_part(event: Mapping[str, Any]) -> str:
    """Return what a supervisor says of a part as a line for people.

    >>> line_of_part({"event": "died", "part": "page", "code": 1, "again_in_seconds": 2.0, "log": "page.log"})
    'page: died (exit code 1); again in 2 s; see page.log'
    """
    part, kind = event.get("part", "run"), event["event"]
    if kind == "started":
        return f"{part}: started (pid {event['pid']})"
    if kind == "cleared":
        return f"{part}: ended what a killed server or device left running (processes: {event['processes']})"
    if kind == "died":
        return (
            f"{part}: died (exit code {event['code']}); again in {event['again_in_seconds']:.2g} s; see {event['log']}"
        )
    return f"{part}: {kind}"


class Supervisor:
    """Parts that are kept alive, in the order in which they are started.

    Args:
        parts: which ones.
        logs: folder for a log file of each.
        listener: called with every event: begun, died, ended.
    """

    def __init__(self, parts: Sequence[Part], logs: Path, listener: Listener = lambda _event: None) -> None:
        self._running = [_Running(part, logs, listener, self._remember) for part in parts]
        self._listener, self._logs = listener, logs
        self._stopping = threading.Event()

    def clear(self) -> None:
        """End what is left of a supervisor with the same folder of logs that was killed.

        Raises:
            FedquitError: it is alive.
        """
        for name, number in process_groups.clear(self._logs, GRACE).items():
            self._listener({"event": "cleared", "part": name, "processes": number})

    def start(self, wait: float) -> None:
        """Start all parts, each once the one before it is ready.

        Raises:
            FedquitError: one of them is not ready, and did no work on it for `wait` seconds; the others are ended. Or
            another supervisor with the same folder of logs is alive.
        """
        self.clear()
        for running in self._running:
            running.start()
            if not running.wait_until_ready(wait, self._stopping):
                self.stop()
                raise FedquitError(f"{running.part.name} did not start within {wait:.0f} s; see {running.log}")

    def tend(self) -> None:
        """Start again what has died, if its pause is over; to be called about once a second."""
        for running in self._running:
            running.tend()

    def run(self, beside: Callable[[], None] = lambda: None) -> None:
        """Tend the parts until `ask_to_stop` is called, then end them.

        Args:
            beside: called about once a second in a thread of its own: however long it takes, what dies meanwhile is
                started again. What it raises ends the parts, and is raised here.
        """
        failed = list[BaseException]()

        def call() -> None:
            try:
                while not self._stopping.wait(1.0):
                    beside()
            except BaseException as error:
                failed.append(error)
                self._stopping.set()

        threading.Thread(target=call, daemon=True).start()
        try:
            while not self._stopping.wait(1.0):
                self.tend()
        finally:
            self._stopping.set()
            self.stop()
        if failed:
            raise failed[0]

    def ask_to_stop(self) -> None:
        """End `run` soon; may be called from a signal's handler."""
        self._stopping.set()

    def stop(self) -> None:
        """End all parts, the last one first."""
        for running in reversed(self._running):
            running.stop()
        process_groups.forget(self._logs)

    def end(self, name: str) -> None:
        """Kill a part that lives and does not do its work; like one that died it is started again after a pause."""
        for running in self._running:
            if running.part.name == name:
                running.kill()

    def pids(self) -> dict[str, int]:
        """Return the main process of each part that is alive."""
        alive = ((running.part.name, running.process) for running in self._running)
        return {name: process.pid for name, process in alive if process and not process_groups.is_over(process)}

    def _remember(self) -> None:
        process_groups.remember(self._logs, self.pids())


class _Running:
    def __init__(self, part: Part, logs: Path, listener: Listener, remember: Callable[[], None]) -> None:
        self.part, self.log, self._listener, self._remember = part, logs / f"{part.name}.log", listener, remember
        self.process: subprocess.Popen[str] | None = None
        self._deaths, self._started, self._next = 0, 0.0, 0.0

    def start(self) -> None:
        if self.part.before:
            self.part.before()
        command = self.part.arguments()
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own commands
                command,
                env={**os.environ, **self.part.environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                process_group=0 if hasattr(os, "killpg") else None,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            raise FedquitError(f"{self.part.name}: cannot run {command[0]}: {error.strerror}") from error
        self._started = time.monotonic()
        self._remember()
        threading.Thread(target=_copy, args=(self.process, self.log, self.part.on_line), daemon=True).start()
        self._listener({"event": "started", "part": self.part.name, "pid": self.process.pid})

    def wait_until_ready(self, seconds: float, stopping: threading.Event) -> bool:
        """Wait until the part listens; False: it does not, and was idle for `seconds` seconds.

        On a busy machine a start takes long: as long as the process gets processor time it is waited for, until it has
        had `seconds` of that.
        """
        changed, worked = time.monotonic(), 0.0
        while not stopping.is_set() and time.monotonic() < changed + seconds and worked < seconds:
            if not self.part.port or listens(self.part.port, self.part.host):
                return True
            self.tend()
            if (now := self._worked()) > worked:
                worked, changed = now, time.monotonic()
            stopping.wait(0.2)
        return stopping.is_set()

    def _worked(self) -> float:
        """Return the processor seconds of a process that has not died yet; 0 where the system does not tell."""
        if self._deaths or self.process is None or sys.platform != "linux":
            return 0.0
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def tend(self) -> None:
        now = time.monotonic()
        if self.process is not None and process_groups.is_over(self.process):
            code = process_groups.end_group(self.process)
            self._deaths = 1 if now - self._started > HEALTHY else self._deaths + 1
            wait = pause(self._deaths) * random.uniform(1 - JITTER, 1)
            self._next = now + wait
            event = {"event": "died", "part": self.part.name, "code": code}
            self._listener({**event, "again_in_seconds": round(wait, 3), "log": str(self.log)})
            self.process = None
        if self.process is None and now >= self._next:
            self.start()

    def kill(self) -> None:
        process = self.process
        if process is not None and not process_groups.is_over(process):
            process.kill()

    def stop(self) -> None:
        if self.process is None:
            return
        was_alive = not process_groups.is_over(self.process)
        if was_alive:
            self.process.terminate()
            process_groups.wait_until_over(self.process, GRACE)
        code = process_groups.end_group(self.process)
        if was_alive:
            self._listener({"event": "ended", "part": self.part.name, "code": code})


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether something listens on a port of an address of this machine."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False


def reached_at(bind: str) -> str:
    """Return an address of this machine at which what listens on `bind` is reached.

    >>> reached_at("0.0.0.0"), reached_at("192.0.2.7")
    ('127.0.0.1', '192.0.2.7')
    """
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104 - compared, not bound


def _copy(process: "subprocess.Popen[str]", log: Path, on_line: Callable[[str], None] | None) -> None:
    """Copy what a process says into its log, each line with its time; the log never grows beyond some files.

    What cannot be written, as on a full disk, is left out: a process whose lines nobody takes would stand still.
    """
    writer = _Writer(log, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", delay=True)
    for line in process.stdout or ():
        said = COLOUR.sub("", line.rstrip("\n"))
        if said.strip():
            moment = datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
            writer.emit(logging.makeLogRecord({"msg": f"{moment} {said}"}))
            if on_line:
                with contextlib.suppress(Exception):
                    on_line(said)
    with contextlib.suppress(OSError):
        writer.close()


class _Writer(logging.handlers.RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing of a line that cannot be written."""


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)
