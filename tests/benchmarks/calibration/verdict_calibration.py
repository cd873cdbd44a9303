"""How often the verdict is wrong: retrained models, and models that forgot nothing, judged in many federations.

    python -m tests.benchmarks.calibration.verdict_calibration --work DIR    # two hours of one core; resumes
    python -m tests.benchmarks.calibration.verdict_calibration --page        # only the page, from the counts

It writes docs/results/verdict.json and, from it, docs/results/verdict.md.

In each federation many models are retrained without one client. Each of them is a model that should pass: it is judged
by references drawn from the others, several times. The original and the control (the original, trained on without the
data) should not pass. One set of federations was used to choose the verdict's rule, the other to measure it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median

import torch
from torch import Tensor

from fedquit.documents import Document
from fedquit.simulations.simulate.verdict_of_run import evidence_of
from fedquit.unlearning.evaluation.memorisation import grouped, predict_remaining, remaining_share
from fedquit.unlearning.evaluation.verdict import (
    CONSISTENT,
    HIGH,
    NO_EVIDENCE,
    NOT_CONSISTENT,
    UNDER_FORGETTING,
    Evidence,
    Verdict,
    hold,
    verdict_of,
)
from fedquit.unlearning.evaluation.verdict import REFERENCES as AT_LEAST
from tests.benchmarks.calibration.earlier_verdict import was_consistent
from tests.benchmarks.calibration.even_verdict import EVEN, LOWER, outside_even
from tests.benchmarks.calibration.verdict_federations import CHOSEN, FRESH, Federation, measure
from tests.benchmarks.calibration.verdict_page import make_page
from tests.benchmarks.measured_page import write_results

REFERENCES = (5, 7, 10, 15)
DRAWS = 5
"""How often each retrained model is judged, by other references each time."""
OUTCOMES = (CONSISTENT, NO_EVIDENCE, NOT_CONSISTENT)
SHOWN = ("forget_accuracy", "forget_loss", "test_accuracy")
RETRAINED = "retrained"
SETS: Mapping[str, Sequence[Federation]] = {"chosen": CHOSEN, "fresh": FRESH}
JSON, PAGE = Path("docs/results/verdict.json"), Path("docs/results/verdict.md")


def judge_federation(measured: Document, references: int) -> Document:
    """Judge each retrained model by others drawn at random, and by the same references each stage's model.

    Args:
        measured: a federation.
        references: how many are drawn.

    Returns:
        `trials`; for each kind of model how often each outcome came (`now`), how often the rule with even intervals
        refused it (`even`, and `lower` at a lower level), and how often the first verdict called it consistent
        (`before`); `sides`: for each measure how often a retrained model was outside of its even interval, below and
        above; `smallest_gaps`: the median over the draws, for each measure.
    """
    models = {RETRAINED: None, **{name: evidence_of(model) for name, model in measured["stages"].items()}}
    retrained = [evidence_of(model) for model in measured[RETRAINED]]
    now = {kind: dict.fromkeys(OUTCOMES, 0) for kind in models}
    even, lower, before, sides = (Counter[str]() for _ in range(4))
    gaps, trials = dict[str, list[float]](), 0
    for number, drawn in _draws(measured, references):
        trials += 1
        others, plain = [retrained[n] for n in drawn], [measured[RETRAINED][n] for n in drawn]
        for kind, model in models.items():
            verdict = _judge(model or retrained[number], others, models, measured["samples"])
            found, own = outside_even(verdict.measures, references), measured["stages"].get(kind)
            now[kind][verdict.outcome] += 1
            even[kind] += bool(found)
            lower[kind] += bool(outside_even(verdict.measures, references, LOWER))
            before[kind] += was_consistent(own or measured[RETRAINED][number], plain, measured["samples"])
            sides.update(f"{name} {side}" for name, side in found.items() if kind == RETRAINED)
        for name, held in verdict.measures.items():  # depends on the references only, not on the model
            gaps.setdefault(name, []).append(held["smallest_gap"])
    return {
        "trials": trials,
        "now": now,
        "even": {kind: even[kind] for kind in models},
        "lower": {kind: lower[kind] for kind in models},
        "before": {kind: before[kind] for kind in models},
        "sides": dict(sorted(sides.items())),
        "smallest_gaps": {name: median(found) for name, found in gaps.items()},
    }


def judge_memorised(measured: Document, references: int = AT_LEAST) -> Document:
    """Judge the same models by what is left of what the original memorised, with the same draws of references.

    Returns:
        `samples` memorised, by all retrained models; `trials` in which some were; and how often each kind of model was
        refused `now`, and by an `even` interval.
    """
    models = {RETRAINED: None, **{name: _scores(model) for name, model in measured["stages"].items()}}
    retrained = torch.stack([_scores(model) for model in measured[RETRAINED]])
    original = _scores(measured["stages"]["original"])
    now, even, trials = dict.fromkeys(models, 0), dict.fromkeys(models, 0), 0
    for number, drawn in _draws(measured, references):
        without = retrained[drawn]
        predicted = predict_remaining(original, without)
        values = {
            kind: remaining_share(original, without, retrained[number] if scores is None else scores)
            for kind, scores in models.items()
        }
        if predicted is None or None in values.values():  # nothing is memorised
            continue
        trials += 1
        low, high = predicted.interval(EVEN / 2, EVEN / 2)
        for kind, value in values.items():
            assert value is not None
            now[kind] += not hold(value, predicted, UNDER_FORGETTING, HIGH)["inside"]
            even[kind] += not low <= value <= high
    group = grouped(original, retrained, original)["memorised"]
    return {"samples": group["samples"], "trials": trials, "now": now, "even": even}


def _draws(measured: Document, references: int) -> Iterator[tuple[int, list[int]]]:
    """Yield the number of each retrained model, several times, with those of the others that judge it."""
    count = len(measured[RETRAINED])
    for number in range(count):
        for draw in range(DRAWS):
            random = Random(f"{measured['name']} {number} {draw}")
            yield number, random.sample([n for n in range(count) if n != number], references)


def _scores(model: Document) -> Tensor:
    scores = evidence_of(model).scores
    assert scores is not None
    return scores


def _judge(
    model: Evidence, others: Sequence[Evidence], models: Mapping[str, Evidence | None], samples: Mapping[str, int]
) -> Verdict:
    """Return the verdict; files are not known by their hash here, so the original is judged as any other model."""
    return verdict_of(
        model,
        others,
        original=models["original"],
        control=models["control"],
        floors={f"{part}_accuracy": 1 / samples[part] for part in ("forget", "test")},
    )


def make_results(work: Path, *, only_measured: bool = False) -> Document:
    """Measure every federation, judge its models by each number of references, and return all counts.

    Args:
        work: folder for what is measured.
        only_measured: leave out what is not measured yet.
    """
    work.mkdir(parents=True, exist_ok=True)
    sets = dict[str, list[Document]]()
    for name, federations in SETS.items():
        done = [one for one in federations if not only_measured or (work / f"{one.name}.json").is_file()]
        sets[name] = [_federation(measure(one, work)) for one in done]
    return {"schema_version": 2, "draws": DRAWS, "planned": {name: len(each) for name, each in SETS.items()}, **sets}


def _federation(measured: Document) -> Document:
    print(measured["name"], flush=True)
    return {
        **{key: measured[key] for key in ("name", "settings", "samples")},
        "retrains": len(measured[RETRAINED]),
        "stages": {
            name: {key: model[key] for key in ("forget_accuracy", "test_accuracy", "forget_loss")}
            for name, model in measured["stages"].items()
        },
        "retrained_range": {name: _range(measured[RETRAINED], name) for name in SHOWN},
        "memorised": judge_memorised(measured),
        "by_references": {str(count): judge_federation(measured, count) for count in REFERENCES},
    }


def _range(models: Sequence[Document], name: str) -> dict[str, float]:
    values = [model[name] for model in models]
    return {"lowest": min(values), "median": median(values), "highest": max(values)}


def main() -> None:
    """Measure and judge, or make the page from what was."""
    write_results(__doc__, json_file=JSON, page=PAGE, make_results=make_results, make_page=make_page)


if __name__ == "__main__":
    main()
