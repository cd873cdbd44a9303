"""How many samples a client is believed to have, and what weight they give it in a round.

Federated averaging weighs a model by the number of samples that its sender reports (McMahan et al. 2017, arXiv
1602.05629). A client that reports a billion would be the mean; and a bound that grows with the number of samples,
such as `Method.reach`, would bound nothing. Nobody can count another's samples. But a client reports a number in
every round, and so do the others: a number is believed up to a multiple of what the client has counted for before and
of what the others have, and no client has more than a share of a round's weights.
"""

import math
from collections.abc import Mapping
from statistics import median

GROWTH = 2
"""Largest allowed ratio of a client's number of samples to what it counted for before."""
BEYOND = 10
"""Largest allowed ratio of a client's number of samples to the median of the others' numbers."""
HALF = 0.5
"""No client moves a mean by more than all the others together."""


def believed(reported: Mapping[int, int], before: Mapping[int, int]) -> dict[int, int]:
    """Return how many samples each client is believed to have.

    Args:
        reported: client -> samples, as it reports, in the replies of one round; or as it has counted for.
        before: client -> samples that it counted for before, or that it was enrolled with; not all are known.

    >>> believed({0: 40, 1: 50, 2: 10**9, 3: 10**9}, {0: 40, 2: 60})
    {0: 40, 1: 50, 2: 120, 3: 500}
    """
    found = {}
    for client, count in reported.items():
        others = [number for other, number in reported.items() if other != client]
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
