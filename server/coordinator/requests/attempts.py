"""Failed attempts at a request, and the pauses of requests and devices; lost when the coordinator restarts.

Times are those of `place.steady`, a monotonic clock: setting the system clock changes no wait.
"""

import math
from collections import Counter

from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request

ATTEMPTS = 3
"""Failed replies of a connected device after which another method is tried."""
PAUSE = 60.0
"""Seconds at most between two attempts."""
REST = 9.0
"""A device that did not reply is left alone for this many times as long as that took: all others need a tenth."""


class Attempts:
    """The attempts at the requests of one workplace."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._timeout = place.federation.forgetting.device_timeout
        self._failures = Counter[str]()
        self._not_before: dict[str, float] = {}
        self._failed_at: dict[int, float] = {}  # member -> when it last did not reply
        self._rests_until: dict[int, float] = {}  # member -> until when it is left alone
        self._stuck: dict[str, float] = {}  # request -> since when no round of recovery succeeded

    def may_begin(self, request: Request) -> bool:
        """Say whether the pause of a request is over."""
        return self._place.steady() >= self._not_before.get(request.id, -math.inf)

    def pause(self, request: Request) -> None:
        """Leave a request alone for a while."""
        self._not_before[request.id] = self._place.steady() + min(PAUSE, self._timeout / (2 * ATTEMPTS))

    def fail(self, request: Request) -> None:
        """Count an attempt at which the device failed."""
        self._failures[request.id] += 1

    def are_over(self, request: Request) -> bool:
        """Say whether the present method of a request has failed often enough."""
        return self._failures[request.id] >= ATTEMPTS

    def begin_method(self, request: Request) -> None:
        """Forget the failures of a request: another method begins."""
        self._failures.pop(request.id, None)

    def rest(self, member: int, since: float, *, late: bool) -> None:
        """Leave a device that did not reply alone for a while; one failure in a long time is forgiven.

        Args:
            member: which.
            since: when it was last sent a forget message, by `place.steady`.
            late: whether its time was up.
        """
        now = self._place.steady()
        again = member in self._failed_at and now < self._failed_at[member] + (1 + REST) * self._timeout
        self._failed_at[member] = now
        if late or again:
            self._rests_until[member] = now + REST * (now - since)

    def is_resting(self, member: int) -> bool:
        """Say whether a device has kept others waiting and is left alone."""
        return self._place.steady() < self._rests_until.get(member, -math.inf)

    def get_stuck(self, request: Request) -> None:
        """Note that no round of recovery could be carried out now."""
        self._stuck.setdefault(request.id, self._place.steady())

    def get_unstuck(self, request: Request) -> None:
        """Note that a round of recovery was carried out, or that recovery is over."""
        self._stuck.pop(request.id, None)

    def is_stuck(self, request: Request) -> bool:
        """Say whether no round of recovery could be carried out for a whole `device-timeout`."""
        now = self._place.steady()
        return now - self._stuck.get(request.id, now) >= self._timeout
