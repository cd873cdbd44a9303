"""Every method where forgetting can be seen, with several seeds, beside models retrained for as many rounds.

    python -m tests.benchmarks.visible.visible_methods --work DIR    # resumes; minutes of one core
    python -m tests.benchmarks.visible.visible_methods --page        # only the page, from the JSON that is there

The settings, rows and seeds are those of the configs `visible-*` that ship, which `fedquit compare` runs on the real
engine. It writes docs/results/visible.json and, from it, docs/results/visible.md and a figure.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

from fedquit.client.training.build_method import method_of
from fedquit.documents import Document
from fedquit.files import write_json
from fedquit.settings import Settings
from fedquit.simulations.compare.cells.plan_cells import row_run
from fedquit.simulations.compare.config.comparison_config import Comparison
from fedquit.simulations.compare.config.read_config import read_comparison
from fedquit.unlearning.evaluation.prediction_interval import Prediction
from fedquit.unlearning.evaluation.verdict import UNDER_FORGETTING_SIDE, Evidence, decide, hold, shares_of, verdict_of
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.convert import StateDict
from tests.benchmarks.measured_page import write_results
from tests.benchmarks.visible.hypotheses import DEVELOPMENT, HYPOTHESES, NOTHING, SETTING
from tests.benchmarks.visible.memory_federation import TARGET, Federation, Kept, MemorySession, copied
from tests.benchmarks.visible.visible_page import draw_curves, make_page

CONFIGS = (
    "visible-wrong-labels",
    "visible-inverted",
    "visible-own-classes",
    "visible-backdoor",
    "visible-memorised",
)
JSON, PAGE, FIGURE = (Path("docs/results") / f"visible.{kind}" for kind in ("json", "md", "png"))
HORIZON = (0, 1, 2, 5, 10, 20, 50, 100)
"""Rounds of recovery after which the long curves are measured."""
HORIZON_SEEDS = (0, 1)
CONTROL = "continue"


@dataclass(frozen=True, slots=True)
class Trained:
    """What all methods of one setting and seed share.

    Attributes:
        seed: of training.
        original: the trained model.
        kept: its training.
        references: retrained models, trained as many rounds as the recovered ones.
    """

    seed: int
    original: StateDict
    kept: Kept
    references: list[StateDict]


def train_all(federation: Federation, seed: int, references: int, recovery: int) -> Trained:
    """Train a model with client 0, and several without."""
    rounds, kept, untrained = federation.settings.rounds, Kept(), copied(federation.model(0))
    original = federation.train(untrained, federation.clients, range(1, rounds + 1), seed, keep=kept)
    without = [
        federation.train(
            untrained, federation.remaining, range(1, rounds + recovery + 1), derive_seed(seed, "reference", number)
        )
        for number in range(references)
    ]
    return Trained(seed, original, kept, without)


def carry_out(federation: Federation, trained: Trained, method: Method, recovery: int) -> tuple[StateDict, Document]:
    """Return the model that a method and some rounds of recovery make, and what came of the method alone.

    Every method recovers with the same shuffles.
    """
    unlearned, session = serve(federation, trained, method)
    recovered = recover(federation, trained, method, unlearned, range(1, recovery + 1))
    retraining = 2 * len(federation.remaining) * (federation.settings.rounds + recovery)
    return recovered, {
        "unlearned": dict(federation.evidence(unlearned).values),
        "bytes_share": (session.models + 2 * len(federation.remaining) * recovery) / retraining,
    }


def serve(federation: Federation, trained: Trained, method: Method) -> tuple[StateDict, MemorySession]:
    """Return what a method makes of the trained model, and the session in which it did."""
    seed = derive_seed(trained.seed, "request")
    initial = trained.kept.models[1]
    session = MemorySession(federation, method, trained.original, initial, trained.kept, seed)
    return session.serve(), session


def recover(federation: Federation, trained: Trained, method: Method, state: StateDict, rounds: range) -> StateDict:
    """Return the model after these rounds of recovery; `rounds` count from 1."""
    rest, seed = federation.remaining, derive_seed(trained.seed, "recovery")
    numbers = range(federation.settings.rounds + rounds.start, federation.settings.rounds + rounds.stop)
    return federation.train(state, rest, numbers, seed, corrected=method, before=trained.original)


def evaluate(federation: Federation, trained: Trained, candidate: Evidence) -> Document:
    """Return a model's values, what one more retrained model's would be, and their distance in units of its noise."""
    size = {"forget_accuracy": len(federation.sets.forget), "test_accuracy": len(federation.sets.test)}
    verdict = verdict_of(
        candidate,
        [federation.evidence(state) for state in trained.references],
        original=federation.evidence(trained.original),
        control=None,
        floors={name: 1 / count for name, count in size.items()},
    )
    return {
        "measures": {
            name: {
                "value": held["value"],
                "expected": held["expected"],
                "distance": (held["value"] - held["expected"]) / held["noise"] if held["noise"] else None,
            }
            for name, held in verdict.measures.items()
        },
    }


def judged(measured: Document, references: int) -> Document:
    """Return what was measured with, for each row, the verdict's outcome and whether each measure is inside.

    The rule is the present one, whenever the models were measured. The control is the row that removes nothing.

    Args:
        measured: the rows of one setting and seed.
        references: how many retrained models there were.
    """
    held = {name: _held(row["measures"], references) for name, row in measured["rows"].items()}
    control = next(held[name] for name in (CONTROL, NOTHING) if name in held)
    return {
        **measured,
        "rows": {
            name: {
                **row,
                "outcome": decide(held[name], control)[0],
                "measures": {
                    measure: {**found, "inside": held[name][measure]["inside"]}
                    for measure, found in row["measures"].items()
                },
            }
            for name, row in measured["rows"].items()
        },
    }


def _held(measures: Mapping[str, Document], references: int) -> dict[str, Document]:
    """Return each measure held against its interval, in units of the noise; without noise any difference is outside."""
    shares, unit = shares_of(list(measures)), Prediction(mean=0.0, noise=1.0, count=references)
    off = {name: found["distance"] for name, found in measures.items()}
    off |= {
        name: 0.0 if found["value"] == found["expected"] else inf
        for name, found in measures.items()
        if off[name] is None
    }
    return {name: hold(off[name], unit, shares[name], UNDER_FORGETTING_SIDE.get(name)) for name in measures}


def measure(name: str, seed: int, methods: Mapping[str, Method], settings: Settings, references: int) -> Document:
    """Return what every method comes to in one setting with one seed."""
    federation, recovery = Federation(settings), settings.recover_rounds
    trained = train_all(federation, seed, references, recovery)
    rows = {}
    for row, method in methods.items():
        recovered, found = carry_out(federation, trained, method, recovery)
        rows[row] = {**found, **evaluate(federation, trained, federation.evidence(recovered))}
        print(f"{name}, seed {seed}: {row}", flush=True)
    original = dict(federation.evidence(trained.original).values)
    return {"setting": name, "seed": seed, "original": original, "rows": rows}


def curves(name: str, seed: int, methods: Mapping[str, Method], settings: Settings, references: int) -> Document:
    """Return forget and test accuracy after many rounds of recovery, of every method and of retrained models."""
    federation, longest = Federation(settings), max(HORIZON)
    trained = train_all(federation, seed, 0, 0)
    found = {}
    for row, method in methods.items():
        state, _ = serve(federation, trained, method)
        found[row] = _course(federation, trained, method, state)
        print(f"{name}, seed {seed}: {max(HORIZON)} rounds after {row}", flush=True)
    rounds, untrained = settings.rounds, copied(federation.model(0))
    for number in range(references):
        own = derive_seed(seed, "reference", number)
        state = federation.train(untrained, federation.remaining, range(1, rounds + 1), own)
        found[f"retrained {number}"] = _course(federation, trained, method_named(CONTROL), state)
    return {"setting": name, "seed": seed, "rounds": [count for count in HORIZON if count <= longest], "curves": found}


def _course(federation: Federation, trained: Trained, method: Method, state: StateDict) -> list[Document]:
    values, done = [], 0
    for count in HORIZON:
        state = recover(federation, trained, method, state, range(done + 1, count + 1)) if count > done else state
        done = count
        values.append(dict(federation.evidence(state).values))
    return values


def method_named(name: str) -> Method:
    """Return a method with its defaults.

    >>> method_named("continue").name
    'continue'
    """
    return method_of(Settings(method=name))


def rows_of(comparison: Comparison) -> dict[str, Method]:
    """Return the methods of a comparison by row."""
    return {row.name: method_of(row_run(comparison, 0, (TARGET,), row)) for row in comparison.rows}


def settings_of(comparison: Comparison) -> Settings:
    """Return the settings that all rows of a comparison share."""
    return row_run(comparison, comparison.seeds[0], (TARGET,), comparison.rows[0])


def jobs(comparisons: Mapping[str, Comparison]) -> Iterator[tuple[str, str, Callable[[], Document]]]:
    """Yield all that is measured: the part of the results that it is, its name, and what measures it."""
    chosen = comparisons[SETTING]
    settings, references = settings_of(chosen), chosen.references
    for seed in chosen.seeds:
        for name, one in comparisons.items():
            call = partial(measure, name, seed, rows_of(one), settings_of(one), one.references)
            yield "measured", f"{name}-{seed}", call
    for seed in DEVELOPMENT:
        yield "hypotheses", f"hypotheses-{seed}", partial(measure, SETTING, seed, HYPOTHESES, settings, references)
    for name, one in comparisons.items():
        for seed in HORIZON_SEEDS:
            call = partial(curves, name, seed, rows_of(one), settings_of(one), one.references)
            yield "curves", f"curves-{name}-{seed}", call


def make_results(work: Path, *, only_measured: bool = False) -> Document:
    """Measure all that is not measured yet, and return it.

    Args:
        work: folder for what is measured.
        only_measured: leave out what is not measured yet.
    """
    work.mkdir(parents=True, exist_ok=True)
    comparisons = {name: read_comparison(Path(name)) for name in CONFIGS}
    parts: dict[str, list[Document]] = {"measured": [], "hypotheses": [], "curves": []}
    missing = []
    for part, name, call in jobs(comparisons):
        path = work / f"{name}.json"
        if not path.is_file() and not only_measured:
            write_json(path, call())
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            parts[part].append(found if part == "curves" else judged(found, comparisons[found["setting"]].references))
        else:
            missing.append(name)
    about = {name: {"title": one.title, "settings": one.file()["settings"]} for name, one in comparisons.items()}
    return {"schema_version": 2, "missing": missing, "settings": about, **parts}


def main() -> None:
    """Measure, or make the page from what was."""
    document = write_results(__doc__, json_file=JSON, page=PAGE, make_results=make_results, make_page=make_page)
    if document["curves"]:
        draw_curves(document, FIGURE)


if __name__ == "__main__":
    main()
