"""What keeps one caller from using up the service: a rate for each caller, seats for those who stay, proofs used once.

All are bounded in memory, whoever calls and however often: by connections, or by members.
"""

import contextlib
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator

from fedquit.server.service.refusal import slow_down

MOST_REMEMBERED = 20_000


class Rate:
    """A bucket of tokens for each caller: `burst` at once, then `each_second`.

    >>> rate = Rate(burst=2, each_second=1.0)
    >>> [rate.allows("me", now=now) for now in (0.0, 0.0, 0.0, 1.0, 1.0)]
    [True, True, False, True, False]
    """

    def __init__(self, *, burst: int, each_second: float) -> None:
        self._burst, self._each_second = burst, each_second
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # number of tokens, and when

    def allows(self, caller: str, *, now: float) -> bool:
        """Take one token of `caller`, if it has one at `now` (seconds of any steady clock)."""
        with self._lock:
            tokens, then = self._buckets.pop(caller, (float(self._burst), now))
            tokens = min(self._burst, tokens + max(0.0, now - then) * self._each_second)
            allowed = tokens >= 1
            self._buckets[caller] = (tokens - allowed, now)
            if len(self._buckets) > MOST_REMEMBERED:
                self._buckets.popitem(last=False)
            return allowed


class Seats:
    """A limit on the number of callers that stay, in all and of each.

    >>> from fedquit.errors import RefusalError
    >>> seats = Seats(in_all=2, of_each=1)
    >>> with seats.taken("me"):
    ...     try:
    ...         with seats.taken("me"):
    ...             pass
    ...     except RefusalError as refusal:
    ...         print(refusal.code)
    slow-down
    """

    def __init__(self, *, in_all: int, of_each: int) -> None:
        self._in_all, self._of_each = in_all, of_each
        self._lock = threading.Lock()
        self._sitting: Counter[str] = Counter()

    @contextlib.contextmanager
    def taken(self, caller: str) -> Iterator[None]:
        """Sit while the context lasts.

        Raises:
            RefusalError: there is no seat left.
        """
        with self._lock:
            if self._sitting.total() >= self._in_all or self._sitting[caller] >= self._of_each:
                raise slow_down("too many watch already; ask for the status instead")
            self._sitting[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._sitting[caller] -= 1
                if not self._sitting[caller]:
                    del self._sitting[caller]


class Once:
    """What each caller used within the last `seconds`, so that it does not serve again.

    >>> once = Once(seconds=60)
    >>> [once.first_time("me", b"n", now=now) for now in (0.0, 59.0, 120.0)]
    [True, False, True]
    """

    def __init__(self, *, seconds: float, of_each: int = 3_000) -> None:
        self._seconds, self._of_each = seconds, of_each
        self._lock = threading.Lock()
        self._used: defaultdict[str, OrderedDict[bytes, float]] = defaultdict(OrderedDict)

    def first_time(self, caller: str, token: bytes, *, now: float) -> bool:
        """Use a token of a caller; False if it was used already.

        Raises:
            RefusalError: the caller used so many lately that no more can be remembered; none is forgotten too early.
        """
        with self._lock:
            used = self._used[caller]
            while used and next(iter(used.values())) < now - self._seconds:
                used.popitem(last=False)
            if token in used:
                return False
            if len(used) >= self._of_each:
                raise slow_down("too many calls")
            used[token] = now
            return True
