"""The number of cores that this process may use: a batch system or `taskset` may allow it only some of them."""

import os


def cores() -> int:
    """Return the number of cores that this process may use.

    >>> 1 <= cores() <= (os.cpu_count() or 1)
    True
    """
    if hasattr(os, "sched_getaffinity"):  # neither macOS nor Windows has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
