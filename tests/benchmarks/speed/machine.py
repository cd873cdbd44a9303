"""What the machine is doing and can do: its load, the memory of processes, and the rate of matrix products."""

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import torch


def load() -> float:
    """Return how many processes wanted a processor in the last minute, on average."""
    return round(os.getloadavg()[0], 1)


def descendants() -> set[int]:
    """Return the processes that this one began, and those that they did."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    found, new = set[int](), {os.getpid()}
    while new:
        new = {process for process, parent in parents.items() if parent in new} - found
        found |= new
    return found


def memory_mib(processes: Iterable[int]) -> float:
    """Return the memory of these processes together, MiB; of what several share, each has its part."""
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def of_ray(process: int) -> bool:
    """Say whether a process is one of Ray's: they begin late, while other engines begin theirs."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False
    arguments = command.split(b"\0")[:3]
    is_script = b"-c" not in arguments  # the code that begins our workers names the paths that Ray added
    return command.startswith(b"ray::") or (is_script and any(b"/ray/" in one for one in arguments))


def peak_mib() -> float:
    """Return the largest memory that this process has had, MiB; what its parent had before it does not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


class MemoryPeak:
    """The largest memory of this process and those it begins, looked at every second; use it as a context manager.

    Attributes:
        mib: so far.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.mib = max(self.mib, memory_mib({os.getpid(), *descendants()}))
            if self._over.wait(1.0):
                return


def matrix_rate(size: int = 512, seconds: float = 0.5) -> float:
    """Return the floating-point operations a second of products of square matrices on one thread, in 10^9."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = torch.randn(size, size), torch.randn(size, size)
        best, ends = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < ends:
            started = time.perf_counter()
            torch.mm(left, right)
            best = min(best, time.perf_counter() - started)
        return 2 * size**3 / best / 1e9
    finally:
        torch.set_num_threads(before)
