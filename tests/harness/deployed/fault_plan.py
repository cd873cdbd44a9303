"""Which fault comes when: everything follows from a seed and the fault's number."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

DEVICES = ("north", "east", "south")
SERVER_PARTS = ("SuperLink", "SuperExec", "ServerApp", "forget service", "page", "proxy", "serve")
DEVICE_PARTS = ("SuperNode", "device's SuperExec", "ClientApp", "ready process", "join", "all of the device")
KINDS: Mapping[str, int] = {
    "kill": 10,
    "kill two": 5,
    "stop and continue": 6,
    "handshakes cut": 3,
    "connections refused": 2,
    "connections stalled": 4,
    "disk full": 4,
    "clock jump": 4,
}
"""Kinds of faults, and how often each comes among 38."""
SHIFTS = (-86_400, -3600, -120, 120, 3600, 86_400)
"""Seconds by which a clock jumps, before it is set right again."""
LONGEST = 20.0
"""Seconds that a fault lasts at most which is not over at once."""
ASKED = 0.5
"""Share of faults before which a device asks for something to be forgotten."""


@dataclass(frozen=True, slots=True)
class Target:
    """A part of a deployment: of the server ("" as device) or of a device."""

    part: str
    device: str = ""

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.part} of {self.device}" if self.device else self.part


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault.

    Attributes:
        number: from 1.
        kind: one of `KINDS`.
        targets: what it hits: parts for kills and stops, else sides: `Target("server")` or `Target("device", name)`.
        lasts: seconds until what it does is taken back; 0: it is over at once.
        shift: seconds that a clock jumps ahead.
        asker: the device that asks before it; "": none does.
        after: seconds from the ask, or from the end of the fault before, to this one.
    """

    number: int
    kind: str
    targets: tuple[Target, ...]
    lasts: float = 0.0
    shift: int = 0
    asker: str = ""
    after: float = 0.0

    def __str__(self) -> str:
        """Return it for people."""
        shift = f" by {self.shift:+} s" if self.shift else ""
        lasts = f", for {self.lasts:.0f} s" if self.lasts else ""
        return f"{self.kind}{shift}: {' and '.join(map(str, self.targets))}{lasts}"


def fault(seed: int, number: int) -> Fault:
    """Return fault `number` of the campaign `seed`.

    >>> fault(1, 3) == fault(1, 3), fault(1, 3) == fault(2, 3)
    (True, False)
    """
    chance = random.Random(f"{seed}/{number}")
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    asker = chance.choice(DEVICES) if chance.random() < ASKED else ""
    after = chance.uniform(0.0, 25.0 if asker else 8.0)
    lasts = chance.uniform(3.0, LONGEST)
    shift = chance.choice(SHIFTS)
    if kind == "kill":
        return Fault(number, kind, (_part(chance),), 0.0, 0, asker, after)
    if kind == "kill two":
        first, second = _part(chance), _part(chance)
        while second == first:
            second = _part(chance)
        return Fault(number, kind, (first, second), 0.0, 0, asker, after)
    if kind == "stop and continue":
        return Fault(number, kind, (_part(chance),), lasts, 0, asker, after)
    if kind in ("disk full", "clock jump"):
        side = chance.choice([Target("server"), Target("device", chance.choice(DEVICES))])
        return Fault(number, kind, (side,), lasts, shift if kind == "clock jump" else 0, asker, after)
    some = [name for name in DEVICES if chance.random() < 0.5] or list(DEVICES)
    return Fault(number, kind, tuple(Target("connections", name) for name in some), lasts, 0, asker, after)


def _part(chance: random.Random) -> Target:
    """Return a part of the server as often as one of a device."""
    if chance.random() < 0.5:
        return Target(chance.choice(SERVER_PARTS))
    return Target(chance.choice(DEVICE_PARTS), chance.choice(DEVICES))
