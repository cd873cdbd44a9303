"""Keep the tokens of Flower's tasks out of the list of processes, which every user of the machine can read.

Flower's SuperExec starts a program for each task, with `--token TOKEN` on its command line; with it, anybody on the
machine could speak for that task. `python -m fedquit.processes.hidden_token flower-superexec ...` does what
`flower-superexec ...` does, and hands the token to what it starts in the environment, which only the same user can
read; `python -m fedquit.processes.hidden_token flwr-serverapp ...` takes it from there.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

FLAG = "--token"
VARIABLE = "FEDQUIT_TASK_TOKEN"
PROGRAMS = "FEDQUIT_PROGRAMS"
"""Names a folder of programs that come before Flower's own and take the token from the environment themselves."""


class HidingPopen(subprocess.Popen[Any]):
    """A `subprocess.Popen` that starts a command with a token so that the token is not on its command line."""

    def __init__(self, args: Any, *others: Any, **how: Any) -> None:
        command, token = without_token(args)
        if token:
            how["env"] = {**(how.get("env") or os.environ), VARIABLE: token}
        super().__init__(command, *others, **how)


def without_token(command: Any) -> tuple[Any, str]:
    """Return how a command is run without its token on the command line, and the token; "": it has none.

    >>> without_token(["flwr-serverapp", "--token", "secret", "--insecure"])[0][1:]
    ['-m', 'fedquit.processes.hidden_token', 'flwr-serverapp', '--insecure']
    >>> without_token("flwr-serverapp")
    ('flwr-serverapp', '')
    """
    if isinstance(command, str | bytes) or not isinstance(command, Sequence) or FLAG not in command[:-1]:
        return command, ""
    at = command.index(FLAG)
    left = [*command[:at], *command[at + 2 :]]
    return [*starter(left[0]), *left[1:]], command[at + 1]


def starter(program: str) -> list[str]:
    """Return the command that runs a program of Flower's which takes its token from the environment."""
    own = os.path.join(os.environ.get(PROGRAMS, ""), program)  # noqa: PTH118 - no pathlib: this is on the way of messages
    if PROGRAMS in os.environ and os.access(own, os.X_OK):
        return [own]
    return [sys.executable, "-m", "fedquit.processes.hidden_token", program]


def with_token(arguments: Sequence[str]) -> list[str]:
    """Return arguments with the token that the environment has, and take it out of there."""
    token = os.environ.pop(VARIABLE, "")
    return [*arguments, FLAG, token] if token else list(arguments)


def main() -> None:
    """Run the program that the command line names.

    Raises:
        SystemExit: there is no such program.
    """
    given = sys.argv[1:]
    found = tuple(entry_points(group="console_scripts", name=given[0])) if given else ()
    if not found:
        raise SystemExit(f"{given[0] if given else 'no program'}: there is no such program in {sys.prefix}")
    sys.argv = with_token(given)
    subprocess.Popen = HidingPopen  # type: ignore[misc]
    found[0].load()()


if __name__ == "__main__":
    main()
