"""Run a program of this environment so that its process ends as soon as one of its threads fails.

`python -m fedquit.processes.end_together flower-supernode ...` does what `flower-supernode ...` does. But where the
main thread comes to its end, or another thread dies of an exception, while others live on, the process ends: what
keeps it alive can then start it again. A SuperNode gives up after any error of TLS, and its process would stay,
without a connection, for good.
"""

import os
import sys
import threading
import traceback
from importlib.metadata import entry_points

FAILED = 1


def main() -> None:
    """Run the program that the command line names.

    Raises:
        SystemExit: there is no such program.
    """
    sys.argv = sys.argv[1:]
    found = tuple(entry_points(group="console_scripts", name=sys.argv[0])) if sys.argv else ()
    if not found:
        raise SystemExit(f"{sys.argv[0] if sys.argv else 'no program'}: there is no such program in {sys.prefix}")
    threading.excepthook = _end
    program = found[0].load()
    try:
        program()
    except Exception:
        traceback.print_exc()
    print(f"{sys.argv[0]}: its work is over, and so is this process", file=sys.stderr)  # noqa: T201
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
