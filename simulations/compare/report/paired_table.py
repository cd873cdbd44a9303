"""The differences of each row from the first, as text for a table; results of earlier versions have none."""

from collections.abc import Callable

from fedquit.documents import Document

PAIRED = ("method", "forget gap, points", "position", "test gap, points")
SCALES = {"forget_gap": (100, 1), "position": (1, 2), "test_gap": (100, 1)}


def paired_caption(document: Document, mark: Callable[[str], str]) -> str:
    """Return what the table holds, as Markdown.

    Args:
        document: results, or their summary.
        mark: makes a name one that Markdown shows as it is.
    """
    found = document["paired"]
    return (
        f"How much further from retraining than **{mark(found['first'])}** each row ends on the same requests and "
        f"seeds (below 0: nearer), and the p-value of a {found['test']}"
    )


def paired_rows(document: Document) -> list[list[str]]:
    """Return for each row but the first its name and the differences; nothing where none is known."""
    found = document.get("paired")
    if not found or not any(any(row.values()) for row in found["rows"].values()):
        return []
    return [
        [name, *(difference(row[measure], *scale) for measure, scale in SCALES.items())]
        for name, row in found["rows"].items()
    ]


def difference(found: Document | None, scale: float, digits: int) -> str:
    """Return a paired difference for people.

    >>> difference({"mean": 0.123, "p": 0.0004, "n": 5}, 100, 1), difference(None, 1, 2)
    ('+12.3 (p < 0.001)', '')
    """
    if found is None:
        return ""
    p = found["p"]
    sure = "" if p is None else " (p < 0.001)" if p < 0.001 else f" (p = {p:.3f})"
    return f"{scale * found['mean']:+.{digits}f}{sure}"
