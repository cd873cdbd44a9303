"""Devices that were found to have made a round useless are not sampled for some rounds; then they are again.

The device is a measure of the step of that round, so a coordinator that starts again knows it. A device that is found
again is kept out again.
"""

from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.workplace import Workplace

FOUND = "found_member_"
"""How the measure of a step begins that names who made it useless."""


def kept_out(place: Workplace, presence: Presence, needs: int, phase: str) -> frozenset[int]:
    """Return the devices that are not sampled in the next step: none, if too few would remain.

    Args:
        place: the workplace.
        presence: which devices are connected.
        needs: replies that the rule of the phase needs.
        phase: "train" or "recover".
    """
    schedule, last = place.federation.schedule, place.next_number() - 1
    steps = place.ledger.steps(after=max(0, last - schedule.exclude_rounds))
    found = {int(name.removeprefix(FOUND)) for step in steps for name in step.measures if name.startswith(FOUND)}
    wanted = max(needs, schedule.min_clients if phase == "train" else 1)
    return frozenset(found) if len(set(presence.ready) - found) >= wanted else frozenset()
