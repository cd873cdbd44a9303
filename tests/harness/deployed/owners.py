"""Owners of devices who ask that some of their samples be forgotten, and wait until that is done."""

import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.harness.deployed.site import Site

SAMPLES = 8
"""Samples that each request is about."""
OVER = {0: "done", 6: "unrecovered"}
"""Exit codes of `fedquit forget --wait` after which the data is forgotten."""
TRY_AGAIN = (2, 3)
"""Those after which its owner gives the command again: the server could not be reached."""


@dataclass
class Ask:
    """A command that asks: whose, about what, and the process that runs it now."""

    device: str
    names: Path
    process: "subprocess.Popen[bytes]"


class Owners:
    """The owners of a site's devices.

    Attributes:
        asked: how many requests they have made.
        repeated: how often they gave a command again.
        wrong: what the commands should not have said.
    """

    def __init__(self, site: Site) -> None:
        self.asked, self.repeated, self.wrong = 0, 0, list[str]()
        self._site, self._open, self._made = site, list[Ask](), Counter[str]()

    def ask(self, device: str) -> None:
        """Ask for the next samples of a device."""
        number = self._made[device]
        self._made[device] += 1
        self.asked += 1
        names = self._site.folder / f"{device}-{number}.names"
        names.write_text("\n".join(str(row) for row in range(SAMPLES * number, SAMPLES * (number + 1))))
        self._open.append(Ask(device, names, self._run(device, names)))

    def _run(self, device: str, names: Path) -> "subprocess.Popen[bytes]":
        kit = self._site.kits[device].folder
        return self._site.run("forget", "forget", kit, "--samples", names, "--wait", "--json")

    def tend(self) -> None:
        """Look which commands have ended; one that could not reach the server is given again."""
        for ask in list(self._open):
            code = ask.process.poll()
            if code is None:
                continue
            if code in TRY_AGAIN:
                self.repeated += 1
                ask.process = self._run(ask.device, ask.names)
                continue
            self._open.remove(ask)
            if code not in OVER:
                self.wrong.append(f"fedquit forget of {ask.device} ended with {code}")

    def waiting(self) -> list[str]:
        """Return the commands that have not ended."""
        return [f"fedquit forget of {ask.device} runs" for ask in self._open]
