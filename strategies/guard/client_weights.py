"""How many samples a client counts for in a round: what it says, held to what is known and to a share of the round.

Federated averaging weighs a model by the number of samples that its sender says it has (McMahan et al. 2017, arXiv
1602.05629). Whoever says a billion is the mean. So a number is believed up to what the client counted for before and up
to what the others have, and no one client has more of a round's weights than a share.
"""

import math
from collections.abc import Mapping
from statistics import median

GROWTH = 2
"""Largest allowed ratio of a client's weight to its weight last time."""
BEYOND = 10
"""Largest allowed ratio of a client's weight to the median of the others' reported numbers of samples."""
HALF = 0.5
"""No client moves a mean by more than all the others together."""


def believed(said: Mapping[int, int], before: Mapping[int, int]) -> dict[int, int]:
    """Return how many samples each client is believed to have.

    Args:
        said: client -> samples, as it says, of the replies of one round.
        before: client -> samples that it last counted for, or that it was enrolled with; not all are known.

    >>> believed({0: 40, 1: 50, 2: 10**9, 3: 10**9}, {0: 40, 2: 60})
    {0: 40, 1: 50, 2: 120, 3: 500}
    """
    found = {}
    for client, count in said.items():
        others = [number for other, number in said.items() if other != client]
        bounds = [BEYOND * math.ceil(median(others))] if others else []
        bounds += [GROWTH * before[client]] if before.get(client) else []
        found[client] = min([count, *bounds])
    return found


def capped(counts: Mapping[int, int], factor: float) -> dict[int, int]:
    """Return the weights of a round's n clients, none with more than the share min(1/2, factor / n) of their sum.

    Those who would have more all get the same weight c, and the others keep theirs: with m of them, and R the sum of
    the others' counts, c = share R / (1 - share m), rounded down, at least 1. One client alone keeps its count.

    Args:
        counts: client -> samples, all at least 1.
        factor: at least 1; 0: no cap.

    >>> capped({0: 40, 1: 50, 2: 1000}, 2)
    {0: 40, 1: 50, 2: 90}
    >>> capped({0: 10, 1: 10, 2: 10, 3: 10, 4: 1000}, 2)  # a share of 2/5
    {0: 10, 1: 10, 2: 10, 3: 10, 4: 26}
    """
    if not factor or len(counts) < 2:
        return dict(counts)
    share, largest_first = min(HALF, factor / len(counts)), sorted(counts.values(), reverse=True)
    most = float(largest_first[0])
    if most <= share * sum(largest_first):
        return dict(counts)
    for number in range(1, len(counts)):
        rest = largest_first[number:]
        most = share * sum(rest) / (1 - share * number)
        if rest[0] <= most:
            break
    return {client: max(1, min(count, int(most))) for client, count in counts.items()}
