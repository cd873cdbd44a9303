"""Refusals for the audit log: each of the first, then counts, so that a flood of bad requests cannot fill the disk.

In a window of time the first refusals are logged one by one. Further ones are counted by reason and member, and the
counts are logged when there are more uncounted ones than have been counted so far, when the window is over, and at the
end. So n refusals in a window are at most `MOST` + log2(n) + 1 events, their counts add up to n, and a crash loses at
most half of what was to be counted.
"""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fedquit.server.ledger.audit_log.hash_chain import canonical

WINDOW = 600.0  # seconds
FIRST = 5  # of one reason and member, logged one by one
MOST = 50  # logged one by one, of all
KINDS = 40  # counted apart; the rest together
UNCOUNTED = 64  # counted without being logged, at least
LONGEST_REASON = 200
LARGEST_FACTS = 2_048  # bytes

Entry = tuple[str, int | None, dict[str, Any]]  # kind, member, facts


@dataclass
class _Window:
    """What happened since `begin`."""

    begin: float
    singly: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    waiting: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    counted: int = 0


class Refusals:
    """Decides what is logged of each refusal; many threads may ask at once.

    >>> refusals = Refusals()
    >>> [len(refusals.add("forged", None, {}, now=0.0)) for _ in range(7)]
    [1, 1, 1, 1, 1, 0, 0]
    >>> refusals.overdue(now=700.0)[0][2]["counts"]
    [{'reason': 'forged', 'member': None, 'count': 2}]
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window: _Window | None = None

    def add(self, reason: str, member: int | None, facts: dict[str, Any], *, now: float) -> list[Entry]:
        """Return what is to be logged now that one more was refused.

        Raises:
            InputError: the facts are no JSON.
        """
        reason = reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 1] + "…"
        size = len(canonical(facts))
        logged = facts if size <= LARGEST_FACTS else {"left_out_bytes": size}
        with self._lock:
            entries = self._end_window(now)
            window = self._window = self._window or _Window(now)
            kind = (reason, member)
            if window.singly[kind] < FIRST and window.singly.total() < MOST:
                window.singly[kind] += 1
                return [*entries, ("turned-away", member, {**logged, "reason": reason})]
            if kind not in window.waiting and len(window.waiting) >= KINDS:
                kind = ("other reasons", None)
            window.waiting[kind] += 1
            if window.waiting.total() >= max(UNCOUNTED, window.counted):
                entries += self._count(window, now)
            return entries

    def overdue(self, *, now: float) -> list[Entry]:
        """Return the counts of a window that is over."""
        with self._lock:
            return self._end_window(now)

    def rest(self, *, now: float) -> list[Entry]:
        """Return what has not been logged, at the end."""
        with self._lock:
            return self._count(self._window, now) if self._window else []

    def _end_window(self, now: float) -> list[Entry]:
        """Close the window if it is over."""
        window = self._window
        if window is None or 0 <= now - window.begin < WINDOW:
            return []
        self._window = None
        return self._count(window, now)

    @staticmethod
    def _count(window: _Window, now: float) -> list[Entry]:
        """Return the counts that wait as one entry."""
        if not window.waiting:
            return []
        counts = [
            {"reason": reason, "member": member, "count": count}
            for (reason, member), count in window.waiting.most_common()
        ]
        window.counted += window.waiting.total()
        window.waiting.clear()
        return [("turned-away-more", None, {"since": window.begin, "until": now, "counts": counts})]
