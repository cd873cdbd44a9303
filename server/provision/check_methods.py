"""Can a federation's method and objective be carried out by deployed devices? Looking loads torch, some 0.5 GB.

`python -m fedquit.server.provision.check_methods FOLDER` looks for the server in a folder, and frees that memory when
it ends: `fedquit serve`, which lives for years, has no use for it.
"""

import subprocess
import sys
from pathlib import Path

from fedquit.errors import InputError
from fedquit.server.federation import FILE, Federation

TRAINS_ON_IT = ("pseudo-ascent",)
"""Methods that ask for an ordinary round of training on what is to be forgotten."""


def check_methods(federation: Federation, path: Path) -> None:
    """Look whether there are such a method of forgetting and such an objective, and whether deployed devices do them.

    Args:
        federation: what the file says.
        path: of the file, for the error.

    Raises:
        InputError: naming the file and the key.
    """
    from fedquit.client.training.build_method import method_of
    from fedquit.client.training.build_objective import NOT_DEPLOYED, objective_of

    settings = federation.settings()
    if objective_of(settings).needs().owns:
        raise InputError(f"{path}: [training] {NOT_DEPLOYED.format(settings.objective)}")
    if (method := method_of(settings).name) in TRAINS_ON_IT:
        raise InputError(
            f"{path}: [forgetting] method: '{method}' has the device train on what is to be forgotten, "
            "and a deployed device refuses that; choose another"
        )


def check_methods_apart(folder: Path) -> None:
    """Look in a process of its own whether the server in `folder` can be run; see `check_methods`.

    Raises:
        InputError: it cannot.
    """
    command = [sys.executable, "-m", "fedquit.server.provision.check_methods", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise InputError(lines[-1] if lines else f"{folder / FILE} cannot be checked: exit code {done.returncode}")


def main(folder: Path) -> None:
    """Check the server in a folder; what is wrong is the last line of stderr, and the exit code 4."""
    try:
        check_methods(Federation.read(folder), folder / FILE)
    except InputError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
