"""Is one row nearer to retraining than another? Differences on the same requests and seeds, and how sure they are.

Two rows that start from the same trained models share most of what varies from seed to seed. So they are compared
request by request: the mean of the differences, and the p-value of a two-sided paired t-test (Student 1908), which
takes the differences for about normal. With five differences no exact sign test could get below p = 0.06.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from fedquit.documents import Document

COMPARED = {"forget_gap": 0.0, "position": 1.0, "test_gap": 0.0}
"""What is compared, and its value for a model that was retrained: the nearer to that, the better."""


def paired_differences(names: Sequence[str], cells: Sequence[Mapping[str, Any]]) -> Document:
    """Return how much further from retraining each row is than the first, by measure.

    Args:
        names: of the rows; all others are compared with the first.
        cells: the entries of a comparison's runs.

    >>> measured = [("a", 0, 0.1), ("a", 1, 0.2), ("b", 0, 0.4), ("b", 1, 0.6)]
    >>> cells = [{"row": row, "target": [0], "seed": seed, "measures": {"forget_gap": gap}}
    ...          for row, seed, gap in measured]
    >>> found = paired_differences(["a", "b"], cells)["rows"]["b"]["forget_gap"]
    >>> round(found["mean"], 2), round(found["p"], 2), found["n"]
    (0.35, 0.09, 2)
    """
    distances = {name: {measure: _distances(name, measure, cells) for measure in COMPARED} for name in names}
    first = distances[names[0]]
    rows = {
        name: {measure: paired(mine[measure], first[measure]) for measure in COMPARED}
        for name, mine in distances.items()
        if name != names[0]
    }
    return {"first": names[0], "test": "two-sided paired t-test", "rows": rows}


def paired(one: Mapping[Any, float], other: Mapping[Any, float]) -> Document | None:
    """Return the mean of `one - other` over the keys that both have, its p-value (None: unknown) and their number.

    >>> paired({"x": 1.0}, {"x": 0.5, "y": 2.0}), paired({}, {"x": 1.0})
    ({'mean': 0.5, 'p': None, 'n': 1}, None)
    """
    found = [one[key] - other[key] for key in one if key in other]
    return {"mean": fmean(found), "p": p_value(found), "n": len(found)} if found else None


def p_value(differences: Sequence[float]) -> float | None:
    """Return how likely a mean at least this far from 0 is if the true one is 0; None for fewer than two.

    >>> round(p_value([1.0, 2.0, 3.0]), 3), p_value([0.0, 0.0]), p_value([1.0])
    (0.074, 1.0, None)
    """
    from scipy.stats import t  # slow to import, and only wanted here

    if len(differences) < 2:
        return None
    mean, noise = fmean(differences), stdev(differences) / len(differences) ** 0.5
    if not noise:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / noise, len(differences) - 1))


def _distances(name: str, measure: str, cells: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Return how far a row's models are from retraining, by request and seed."""
    mine = [cell for cell in cells if cell["row"] == name and cell["measures"] is not None]
    return {
        (*cell["target"], cell["seed"]): abs(cell["measures"][measure] - COMPARED[measure])
        for cell in mine
        if cell["measures"].get(measure) is not None
    }
