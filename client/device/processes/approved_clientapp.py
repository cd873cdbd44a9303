"""Flower's `flwr-clientapp`, restricted to code that the device's owner approved.

    python -m fedquit.client.device.processes.approved_clientapp ARGUMENTS...

The task's token comes in the environment (`fedquit.processes.hidden_token`), or on the command line.

Flower unpacks the app that a server sent, and imports it. No code of ours runs between the two, so the function
that unpacks is replaced by one that checks first (`approved_code`). If a newer Flower has it elsewhere, nothing runs.

Flower names the folder of an app by its name, its version and 8 hex digits of its hash, and unpacks nothing if that
folder exists. Two bundles with the same 8 digits are quickly found: an approved bundle could then run the code of one
that is no longer approved. So the unpacked files are compared with what was sent, and unpacked again if they differ.
"""

import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fedquit.client.device.approved_code import check_bundle, is_unpacked
from fedquit.client.kit import Kit
from fedquit.errors import FedquitError
from fedquit.processes.hidden_token import with_token

PROGRAM = "flwr-clientapp"
RUNTIME, UNPACKS = "flwr.supernode.runtime.run_clientapp", "install_from_fab"
"""Where Flower 1.41 and 1.42 carry out a message, and the function there that unpacks the app."""


def kit_folder() -> Path:
    """Return the kit's folder, in which `fedquit join` put Flower's."""
    return Path(os.environ["FLWR_HOME"]).parent


def approved_program(folder: Path) -> Callable[[], object]:
    """Return Flower's program, which from now on in this process unpacks nothing that the kit in `folder` refuses.

    Raises:
        FedquitError: this Flower cannot be restricted so.
    """
    (program,) = entry_points(group="console_scripts", name=PROGRAM)
    run, runtime = program.load(), import_module(RUNTIME)
    unpack: Any = getattr(runtime, UNPACKS, None)
    if unpack is None:
        raise FedquitError(
            "this version of Flower cannot be kept to approved code; install one that fedquit was tested on"
        )

    def look_first(bundle: bytes | Path, *arguments: Any, **named: Any) -> Any:
        content = bundle if isinstance(bundle, bytes) else Path(bundle).read_bytes()
        check_bundle(content, Kit.read(folder))
        place = Path(unpack(content, *arguments, **named))
        if not is_unpacked(content, place):
            shutil.rmtree(place)
            unpack(content, *arguments, **named)
        return place

    sys.dont_write_bytecode = True  # what is unpacked stays what was sent
    setattr(runtime, UNPACKS, look_first)
    return run  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.argv = [PROGRAM, *with_token(sys.argv[1:])]
    approved_program(kit_folder())()
