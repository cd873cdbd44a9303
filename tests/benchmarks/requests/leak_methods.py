"""What each method reveals, beside the others: one table for each question, from the same cells as the pages."""

from collections.abc import Callable, Iterator, Mapping
from textwrap import fill

from fedquit.documents import Document
from fedquit.unlearning.methods.base import METHODS

WHO = ("server", "device, direct", "device, deferred")
WHY_NOT = {
    "retrain": "returns to the untrained model, so no step shows the request",
    "mode": "each request has all clients train for several rounds, and each trial takes six requests",
    "orthogonal": "each request has all clients train for several rounds, and each trial takes six requests",
    "federaser": "each request has all clients train again from the first round, and each trial takes six requests",
}
"""Why a cell may be missing: the last three take minutes for one trial of a larger model."""
HEAD = """## Every method

In each cell: what the server reads, what another device reads with direct adoption, and with deferred adoption; - where
there is no such model (the asking device takes no part, or the method's model is far from g). *Nothing*: the highest of
the three where nothing was forgotten. An AUC far below 0.5 is as informative: invert the answer. The pages have the
number of requests, the intervals, and the sizes between.
"""
NO_GAME = "no game"
GAMELESS = """*No game* ({names}): the asking device takes no part, and the method gives the same model whichever
candidate is to be forgotten. So the AUC of the attacker who unlearns each candidate is 0.50 by construction; what other
attacks reach (by gradients, in [leak.json](leak/leak.json)), and how often the class was named, differs from guessing
by chance only. These attacks do not apply. That does not show that nothing is revealed: models trained with and without
the candidates were not compared.
"""
Runs = Mapping[str, Mapping[str, Document]]
Question = Callable[[Document], float]


def by_method(runs: Runs, table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str]) -> Iterator[str]:
    """Yield the tables: rows are methods, columns data sets with their models.

    Args:
        runs: "data/model" -> "method/size" -> its cell.
        table: makes Markdown of titles and rows.
    """
    yield HEAD.rstrip()
    cells = [(name.split("/")[0], cell) for mine in runs.values() for name, cell in mine.items()]
    gameless = [each for each in METHODS if any(name == each and not has_game(cell) for name, cell in cells)]
    if gameless:
        names = ", ".join(f"`{name}`" for name in gameless)
        yield fill(GAMELESS.format(names=names), 120, break_long_words=False, break_on_hyphens=False)
    for title, size, question in QUESTIONS:
        rows = [(name, *(_answers(mine.get(f"{name}/{size}"), question) for mine in runs.values())) for name in METHODS]
        found = [row for row in rows if any(each != "not measured" for each in row[1:])]
        if found:
            yield title
            yield table(("method", *(run.replace("/", ", ") for run in runs)), found)


def _answers(cell: Document | None, question: Question) -> str:
    if cell is None:
        return "not measured"
    if question is _told_apart and not has_game(cell):
        return NO_GAME
    seen = [f"{question(cell[who]):.2f}" if who in cell else "-" for who in WHO]
    nothing = max(question(cell[f"{who}, control"]) for who in WHO if who in cell)
    return f"{', '.join(seen)}; nothing {nothing:.2f}"


def has_game(cell: Document) -> bool:
    """Say whether what a method does depends on the candidate: it does only where the asking device replies."""
    return "server" in cell


def _guessed(seen: Document) -> float:
    return float(seen["classes"]["naive"]["guessed"])


def _told_apart(seen: Document) -> float:
    return float(seen["games"]["same_class"]["replay"]["auc"])


QUESTIONS: tuple[tuple[str, int, Question], ...] = (
    ("How often the class of one sample was named, by the last layer's bias alone:", 1, _guessed),
    ("Which of two candidates of one class was forgotten, AUC:", 1, _told_apart),
    ("Which of two sets of 120 samples of the same classes was forgotten, AUC:", 120, _told_apart),
)


def missing(mine: Mapping[str, Document]) -> str:
    """Say which methods and sizes a page does not have, and why: a reason once, after all that have it.

    >>> found = {f"{name}/{size}": {} for name in METHODS for size in (1, 8) if name != "retrain"}
    >>> del found["mode/8"]
    >>> print(missing(found)[:94])
    ; without `mode` of 8 samples (each request has all clients train for several rounds, and each
    """
    cells = {tuple(name.split("/")) for name in mine if name.split("/")[0] in METHODS}
    sizes = sorted({int(size) for _, size in cells})
    reasons: dict[str, list[str]] = {}
    for name in METHODS:
        left = [size for size in sizes if (name, str(size)) not in cells]
        if left:
            which = "" if left == sizes else f" of {', '.join(map(str, left))} samples"
            reasons.setdefault(WHY_NOT.get(name, "not run"), []).append(f"`{name}`{which}")
    why = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    return f"; without {'; '.join(why)}" if why else ""
