"""How often the verdict is wrong: retrained models, and models that forgot nothing, judged in many federations.

    python -m tests.benchmarks.calibration.verdict_calibration --work DIR    # about an hour of one core; resumes
    python -m tests.benchmarks.calibration.verdict_calibration --page        # only the page, from the counts

It writes docs/results/verdict.json and, from it, docs/results/verdict.md.

In each federation many models are retrained without one client. Each of them is a model that should pass: it is judged
by references drawn from the others. The original and the control (the original, trained on without the data) should
not pass.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median

import torch
from torch import Tensor

from fedquit.documents import Document
from fedquit.files import write_json
from fedquit.simulations.simulate.verdict_of_run import evidence_of
from fedquit.unlearning.evaluation.memorisation import grouped, left, predict_left
from fedquit.unlearning.evaluation.verdict import (
    CONSISTENT,
    LEVEL,
    NO_EVIDENCE,
    NOT_CONSISTENT,
    Evidence,
    Verdict,
    verdict_of,
)
from fedquit.unlearning.evaluation.verdict import REFERENCES as AT_LEAST
from tests.benchmarks.calibration.earlier_verdict import was_consistent
from tests.benchmarks.calibration.verdict_federations import FEDERATIONS, measure
from tests.benchmarks.calibration.verdict_page import make_page

REFERENCES = (2, 3, 5, 7, 10, 15)
OUTCOMES = (CONSISTENT, NO_EVIDENCE, NOT_CONSISTENT)
SHOWN = ("forget_accuracy", "forget_loss")
RETRAINED = "retrained"
JSON, PAGE = Path("docs/results/verdict.json"), Path("docs/results/verdict.md")


def judge_federation(measured: Document, references: int) -> Document:
    """Judge each retrained model by others drawn at random, and by the same references each stage's model.

    Args:
        measured: a federation.
        references: how many are drawn; fewer than a verdict asks for show what it would be.

    Returns:
        For each kind of model how often each outcome came (`now`), and how often the earlier verdict was consistent
        (`before`); `smallest_gaps`: the median over the draws, for each measure.
    """
    retrained = [evidence_of(model) for model in measured[RETRAINED]]
    stages = {name: evidence_of(model) for name, model in measured["stages"].items()}
    kinds = (RETRAINED, *stages)
    now = {kind: dict.fromkeys(OUTCOMES, 0) for kind in kinds}
    before, gaps = dict.fromkeys(kinds, 0), dict[str, list[float]]()
    for number, own in enumerate(retrained):
        drawn = Random(f"{measured['name']} {number}").sample(_others(len(retrained), number), references)
        others = [retrained[n] for n in drawn]
        for kind, model in {RETRAINED: own, **stages}.items():
            verdict = _judge(model, others, stages, measured["samples"])
            plain = measured[RETRAINED][number] if kind == RETRAINED else measured["stages"][kind]
            now[kind][verdict.outcome] += 1
            before[kind] += was_consistent(plain, [measured[RETRAINED][n] for n in drawn], measured["samples"])
        for name, held in verdict.measures.items():  # depends on the references only, not on the model
            gaps.setdefault(name, []).append(held["smallest_gap"])
    return {"now": now, "before": before, "smallest_gaps": {name: median(found) for name, found in gaps.items()}}


def judge_memorised(measured: Document, references: int = AT_LEAST) -> Document:
    """Judge the same models by what is left of what the original memorised, with the same draws of references.

    Returns:
        `samples` memorised, by all retrained models; `trials` in which some were; and how often each kind of model was
        `refused`.
    """
    retrained = [_scores(model) for model in measured[RETRAINED]]
    stages = {name: _scores(model) for name, model in measured["stages"].items()}
    original, refused, trials = stages["original"], dict.fromkeys((RETRAINED, *stages), 0), 0
    for number, own in enumerate(retrained):
        drawn = Random(f"{measured['name']} {number}").sample(_others(len(retrained), number), references)
        without = torch.stack([retrained[n] for n in drawn])
        predicted = predict_left(original, without)
        if predicted is None:
            continue
        values = {kind: left(original, without, model) for kind, model in {RETRAINED: own, **stages}.items()}
        low, high = predicted.interval(LEVEL)
        trials += 1
        for kind, value in values.items():
            refused[kind] += value is not None and not low <= value <= high
    group = grouped(original, torch.stack(retrained), original)["memorised"]
    return {"samples": group["samples"], "trials": trials, "refused": refused}


def _scores(model: Document) -> Tensor:
    scores = evidence_of(model).scores
    assert scores is not None
    return scores


def _others(count: int, number: int) -> list[int]:
    return [n for n in range(count) if n != number]


def _judge(
    model: Evidence, others: Sequence[Evidence], stages: Mapping[str, Evidence], samples: Mapping[str, int]
) -> Verdict:
    """Return the verdict; files are not known by their hash here, so the original is judged as any other model."""
    return verdict_of(
        model,
        others,
        original=stages["original"],
        control=stages["control"],
        floors={f"{part}_accuracy": 1 / samples[part] for part in ("forget", "test")},
        at_least=2,
    )


def make_results(work: Path, *, only_measured: bool = False) -> Document:
    """Measure every federation, judge its models by each number of references, and return all counts.

    Args:
        work: folder for what is measured.
        only_measured: leave out what is not measured yet.
    """
    rows = []
    for one in FEDERATIONS:
        if only_measured and not (work / f"{one.name}.json").is_file():
            continue
        measured = measure(one, work)
        print(one.name, flush=True)
        rows.append(
            {
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
        )
    return {"schema_version": 1, "planned": len(FEDERATIONS), "federations": rows}


def _range(models: Sequence[Document], name: str) -> dict[str, float]:
    values = [model[name] for model in models]
    return {"lowest": min(values), "median": median(values), "highest": max(values)}


def main() -> None:
    """Measure and judge, or make the page from what was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for what is measured so far")
    parser.add_argument("--measured", action="store_true", help="measure nothing more: judge what is in --work")
    parser.add_argument("--page", action="store_true", help="only make the page from the JSON that is there")
    given = parser.parse_args()
    if not given.page:
        if not given.work:
            parser.error("give --work DIR, or --page")
        write_json(JSON, make_results(given.work, only_measured=given.measured))
    PAGE.write_text(make_page(json.loads(JSON.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
