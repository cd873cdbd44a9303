"""Devices that were away when something was forgotten drop it before they take part again, whatever else happens.

A device that is connected and does not drop what it must takes no part, and delays the others little: all such
devices together are waited for during at most a tenth of the time.
"""

import math

from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.requests.drop_samples import drop_samples
from fedquit.server.coordinator.training_rounds import Training

SHORTEST, LONGEST = 60.0, 3600.0
"""Seconds between two tries with a device that fails at once: doubled each time, up to the longest."""
REST = 9.0
"""After a try with a device that failed before, the others continue for this many times as long as the try took."""


class CatchingUp:
    """Has the devices of one workplace drop what they must."""

    def __init__(self, training: Training) -> None:
        self.place, self.training = training.place, training
        self._failed: set[int] = set()
        self._again, self._pause = -math.inf, SHORTEST

    def turn(self, presence: Presence) -> bool:
        """Have the connected devices that have not failed lately drop what they must; False: there are none."""
        began = self.place.steady()
        due = [
            m for m in sorted(presence.owing) if m in presence.here and (m not in self._failed or began >= self._again)
        ]
        if not due:
            return False
        request = presence.owing[due[0]][0]
        tried = [member for member in due if request in presence.owing[member]]
        dropped = drop_samples(self.training, request, tried)
        for member in dropped:
            self.place.note("dropped", request=request.id, member=member)
        self._remember(set(tried), set(dropped), self.place.steady() - began)
        return True

    def _remember(self, tried: set[int], dropped: set[int], took: float) -> None:
        """Remember which devices failed, and when they are tried again; the log has their reasons."""
        self._failed = (self._failed | tried) - dropped
        if tried <= dropped:
            self._pause = SHORTEST
        else:
            self._again = self.place.steady() + max(self._pause, REST * took)
            self._pause = min(2 * self._pause, LONGEST)
