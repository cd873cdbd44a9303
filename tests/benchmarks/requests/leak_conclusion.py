"""What the summary of leaks concludes of deferred adoption with FedQUIT, in words, from the numbers."""

from collections.abc import Mapping, Sequence

from fedquit.documents import Document

ALONE = 1
"""The size of a request about a single sample."""
WHO = "device, deferred"


def conclusion(fedquit: Mapping[str, Mapping[int, Document]], pictures: Mapping[str, Document]) -> str:
    """Return the paragraph.

    Args:
        fedquit: "data/model" -> size of the request -> its cell.
        pictures: "data/model" -> its reconstructions of single samples; empty where none were made.
    """
    hits = {run: [row["hit"] for row in found["who"][WHO]] for run, found in pictures.items() if found}
    games = {
        run: {size: cell[WHO]["games"]["same_class"]["replay"] for size, cell in cells.items()}
        for run, cells in fedquit.items()
    }
    return (
        "So direct adoption gives other devices all that the server has. Deferred adoption hides the class from a "
        f"device that only looks.{rebuilt(hits)} It does **not** bring the game of *which of two* to chance: a device "
        f"that has the candidates, knows the method and unlearns each itself tells them apart with {apart(games)}. "
        "With FedQUIT, only noise hides anything from the server."
    )


def rebuilt(hits: Mapping[str, Sequence[float]]) -> str:
    """Say in how many attempts the image of a single sample was rebuilt; "" without any attempt.

    >>> rebuilt({"a/mlp": [0.0, 0.0], "a/cnn": [1.0, 0.0, 0.0]})
    ' In 2 to 3 attempts each, no image was rebuilt from what it sees, except 1 of 3 on a, cnn.'
    """
    if not hits:
        return ""
    some = [f"{sum(each):.0f} of {len(each)} on {_named(run)}" for run, each in hits.items() if sum(each)]
    numbers = [len(each) for each in hits.values()]
    said = str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"
    but = f", except {' and '.join(some)}" if some else ""
    return f" In {said} attempt{'s' * (max(numbers) > 1)} each, no image was rebuilt from what it sees{but}."


def apart(games: Mapping[str, Mapping[int, Document]]) -> str:
    """Return the areas of the game for one sample and for the most, and where that of one is least, its interval.

    >>> low, high = {"auc": 0.7, "low": 0.5, "high": 0.85}, {"auc": 1.0, "low": 0.9, "high": 1.0}
    >>> apart({"a/mlp": {1: high, 8: high}, "a/cnn": {1: low, 8: high}})
    'an AUC of 0.70 to 1.00 for one sample (a, cnn: 0.70, interval 0.50 to 0.85) and 1.00 for 8'
    """
    run = min(games, key=lambda each: float(games[each][ALONE]["auc"]))
    least, most = games[run][ALONE], max(max(sizes) for sizes in games.values())
    said = f"an AUC of {_range([sizes[ALONE]['auc'] for sizes in games.values()])} for one sample ({_named(run)}: "
    said += f"{least['auc']:.2f}, interval {least['low']:.2f} to {least['high']:.2f})"
    many = [sizes[most]["auc"] for sizes in games.values() if most in sizes]
    return said if most == ALONE else f"{said} and {_range(many)} for {most}"


def _range(values: Sequence[float]) -> str:
    ends = list(dict.fromkeys(f"{value:.2f}" for value in (min(values), max(values))))
    return " to ".join(ends)


def _named(run: str) -> str:
    return run.replace("/", ", ")
