"""Run programs of this environment so that all end as soon as one of them, or one of their threads, fails.

`python -m fedquit.processes.end_together flower-supernode ... --and flower-superexec ...` does what both do, in two
processes that share the memory of what they import (where there is no fork, only one program can be given). But where
the main thread of a program comes to its end, or another thread dies of an exception, while others live on, all of it
ends: what keeps it alive can then start it again. A SuperNode gives up after any error of TLS, and its process would
stay, without a connection, for good.
"""

import ctypes
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

FAILED = 1
AND = "--and"
"""Comes between two programs."""
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
Program = Callable[[], object]


def main() -> None:
    """Run the programs that the command line names; the first in this process, the others in processes of their own.

    Raises:
        SystemExit: there is no such program.
    """
    (first, own), *others = [(given, _program(given)) for given in _commands(sys.argv[1:])]
    if others:
        gc.freeze()  # what was imported stays shared
        started = [_forked(given, program) for given, program in others]
        for pid in started:
            threading.Thread(target=_end_after, args=(pid,), daemon=True).start()
    _run(first, own)


def _commands(arguments: Sequence[str]) -> list[list[str]]:
    """Return the command lines between `AND`.

    >>> _commands(["a", "--flag", "--and", "b"])
    [['a', '--flag'], ['b']]
    """
    found = list[list[str]]([[]])
    for argument in arguments:
        if argument == AND:
            found.append([])
        else:
            found[-1].append(argument)
    return found


def _program(given: Sequence[str]) -> Program:
    """Import a program."""
    found = tuple(entry_points(group="console_scripts", name=given[0])) if given else ()
    if not found:
        raise SystemExit(f"{given[0] if given else 'no program'}: there is no such program in {sys.prefix}")
    program: Program = found[0].load()
    return program


def _run(given: list[str], program: Program) -> None:
    """Run a program, and end this process when it is over."""
    sys.argv = given
    threading.excepthook = _end
    try:
        program()
    except Exception:
        traceback.print_exc()
    print(f"{given[0]}: its work is over, and so is this process", file=sys.stderr)  # noqa: T201
    _exit()


def _forked(given: list[str], program: Program) -> int:
    """Run a program in a process of its own, which ends with this one, and return its id."""
    parent, pid = os.getpid(), os.fork()
    if pid:
        return pid
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(FAILED)
    _run(given, program)
    return 0


def _end_after(pid: int) -> None:
    """End this process when another has ended."""
    os.waitpid(pid, 0)
    _exit()


def _end(args: threading.ExceptHookArgs) -> None:
    """End the process that one of its threads died in; a thread that just ends itself is none of it."""
    if issubclass(args.exc_type, SystemExit):
        return
    traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)
    _exit()


def _exit() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FAILED)


if __name__ == "__main__":
    main()
