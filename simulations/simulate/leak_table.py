"""What a request told, as lines for people."""

from collections.abc import Iterator
from typing import Any

WHO = {
    "server": "The server (model before, and the asking device's)",
    "device": "Another device (model before, and the next it is sent)",
    "control": "Control, a round in which nothing was forgotten",
}


def leak_lines(document: dict[str, Any]) -> list[str]:
    """Return a few lines for each that may look.

    >>> leak_lines({"control": {"classes": None, "game": {"same_class": None, "different_class": None},
    ...     "reconstruction": None, "not_measured": {"classes": "no layer has 10 outputs"}}})
    ['Leak. Control, a round in which nothing was forgotten: nothing measured']
    """
    return [f"Leak. {said}: {', '.join(_found(document[who])) or 'nothing measured'}" for who, said in WHO.items()
            if who in document]  # fmt: skip


def _found(seen: dict[str, Any]) -> Iterator[str]:
    classes, pictures = seen["classes"], seen["reconstruction"]
    if classes:
        correlation = classes["correlation"]
        yield "classes " + ("read off exactly" if classes["exact"] else "not read off exactly")
        yield "class counts correlate " + ("-" if correlation is None else f"{correlation:.2f}")
    for kind, game in seen["game"].items():
        if game:
            interval = f"{game['low']:.2f} to {game['high']:.2f}"
            yield f"game, {kind.replace('_', ' ')}: AUC {game['auc']:.2f} ({interval}; 0.5 is chance)"
    if pictures:
        best = max(pictures["ssim"])
        share, chance = pictures["nearest_was_forgotten"], pictures["by_chance"]
        yield f"reconstruction: SSIM up to {best:.2f}, nearest candidate right {share:.0%} (chance {chance:.0%})"
