"""How many cores there are for this process: a batch system or `taskset` may have given it a few of many."""

import os


def cores() -> int:
    """Return how many cores this process may use.

    >>> 1 <= cores() <= (os.cpu_count() or 1)
    True
    """
    if hasattr(os, "sched_getaffinity"):  # neither macOS nor Windows has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
