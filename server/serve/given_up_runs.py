"""ServerApps of runs that Flower has given up: ended before another is started, and no other too soon after them.

Flower gives a run up whose ServerApp has given no sign of life for a while, as on a very loaded machine while it still
starts. Such a process cannot do its work any more, but it takes the processor from the next one, and may hold the
coordinator's lock. So it is ended, and a run that never came to work is followed by the next one after a pause that
grows.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from fedquit.processes.process_groups import process_of
from fedquit.processes.supervisor import pause
from fedquit.server.serve.last_look import look_of

PROGRAM = b"flwr-serverapp"
HOME = b"FLWR_HOME="


def serverapps(home: Path) -> list[int]:
    """Return the processes that run a ServerApp of the Flower whose home this is; finding them needs /proc (Linux)."""
    root, found = Path("/proc"), list[int]()
    for entry in root.iterdir() if root.is_dir() else ():
        if not entry.name.isdecimal():
            continue
        try:
            if PROGRAM in (entry / "cmdline").read_bytes() and (
                HOME + os.fsencode(home) in (entry / "environ").read_bytes().split(b"\0")
            ):
                found.append(int(entry.name))
        except OSError:
            continue  # it is gone, or not ours
    return [pid for pid in found if process_of(pid)]


class Starts:
    """How often in a row a run was started that never came to work.

    Args:
        folder: of the server.
        running: returns the ServerApps that live.
    """

    def __init__(self, folder: Path, running: Callable[[], list[int]]) -> None:
        self._folder, self._running = folder, running
        self._begun, self._before = False, look_of(folder)  # when a coordinator had last looked before the last start
        self._vain = 0

    def begun(self) -> None:
        """Remember that a run is started now."""
        self._begun, self._before = True, look_of(self._folder)

    def given_up(self) -> float:
        """End what is left of the run before; return the seconds for which it is best to start no other yet."""
        for pid in self._running():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not self._begun:
            return 0.0
        worked = look_of(self._folder) != self._before
        self._begun, self._vain = False, 0 if worked else self._vain + 1
        return pause(self._vain + SHORTEST) if self._vain else 0.0


SHORTEST = 4
"""The first pause is that after the fifth death of a part: 16 s; the longest is a minute."""
