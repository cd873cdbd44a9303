"""How many samples a device is believed to have: what it has shown, never what one reply claims.

A bound that grows with the number of samples, such as `Method.reach`, would be no bound if a device could name that
number at will. Nobody can count another's samples. But a device that trains says in every round how many they are, and
so do the others: it is believed what it said twice, up to `TIMES` the median of what the others are believed.
"""

from collections.abc import Mapping, Sequence
from statistics import median

TIMES = 20
"""A device may have this many times as many samples as the others' median."""


def believed_size(said: Mapping[int, Sequence[int]], device: int) -> int:
    """Return how many samples a device is believed to have, at least 1.

    Args:
        said: of each device that ever trained, the numbers of samples that it said it trained on, or the two largest.
        device: which one; one that never trained is believed no more than the bound.

    >>> said = {0: [40, 10**9, 41], 1: [50, 50], 2: [10**9, 10**9], 3: [30]}
    >>> [believed_size(said, device) for device in (0, 1, 2, 3, 4)]
    [41, 50, 820, 30, 910]
    """
    twice = {other: sorted(sizes)[-2:][0] for other, sizes in said.items() if sizes}
    others = [size for other, size in twice.items() if other != device]
    most = [TIMES * median(others)] if others else []
    own = [twice[device]] if device in twice else []
    return max(1, int(min([*own, *most], default=1)))
