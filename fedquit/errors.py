"""The errors a person can mend: each is one line that names the thing and the way out."""

from collections.abc import Iterable
from difflib import get_close_matches


class FedquitError(Exception):
    """Something was refused or failed; the command line prints the text and exits with `exit_code`."""

    exit_code = 1


class InputError(FedquitError, ValueError):
    """What the user gave cannot be used: exit code 4."""

    exit_code = 4


def unknown(what: str, given: str, known: Iterable[str]) -> InputError:
    """Say that `given` is no `what`, with the nearest known name and all of them.

    >>> print(unknown("method", "fedquitt", ["fedquit", "continue"]))
    unknown method 'fedquitt' (did you mean 'fedquit'?); known: fedquit, continue
    """
    names = list(known)
    near = get_close_matches(given, names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return InputError(f"unknown {what} '{given}'{hint}; known: {', '.join(names)}")
