"""May the noise of retraining be pooled over the requests of a federation? Measured before it is done.

    python -m tests.benchmarks.calibration.pooled_noise --work DIR    # a few minutes of one core; resumes
    python -m tests.benchmarks.calibration.pooled_noise --page        # only the page, from the counts

It writes docs/results/verdict_pooled.json and docs/results/verdict_pooled.md.

A comparison with several requests has a few retrained models for each. If retraining were as noisy for one request as
for another, the pooled variance `mean_r s_r^2` over R requests of k models would have R (k - 1) degrees of freedom
instead of k - 1, and the intervals would be narrower. If it is not, the noisy requests get too many false alarms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, stdev

import torch

from fedquit.documents import Document
from fedquit.simulations.simulate.verdict_of_run import evidence_of
from fedquit.unlearning.evaluation.position import position, predict_position
from fedquit.unlearning.evaluation.prediction_interval import predict_one_more, quantile
from fedquit.unlearning.evaluation.verdict import LOW, OTHER_SIDE, POSITION, UNDER_FORGETTING_SIDE, Evidence, shares_of
from tests.benchmarks.calibration.verdict_federations import Federation, federation, measure
from tests.benchmarks.calibration.verdict_page import table, wilson
from tests.benchmarks.measured_page import write_results

JSON, PAGE = Path("docs/results/verdict_pooled.json"), Path("docs/results/verdict_pooled.md")
REFERENCES = 5
RETRAINS = 16
CLIENTS = 5
KINDS = ((301, 0.3),)
MEASURES = (POSITION, "forget_loss", "forget_accuracy", "test_accuracy")
PLACED = "position, noise of the references"

ABOUT = """# Noise pooled over requests

Made by `python -m tests.benchmarks.calibration.pooled_noise --work DIR` (a few minutes of one core; resumes after a
kill), which writes [verdict_pooled.json](verdict_pooled.json), and this page from it.

A comparison with several requests has a few retrained models for each of them. Pooled over the requests, the variance
between them would be known better (R requests of k models: R (k - 1) degrees of freedom instead of k - 1), and the
verdict's intervals would be narrower, if retraining were as noisy for one request as for another. Here each of the five
clients of a federation (digits, mlp, Dirichlet 0.3; split 301) is forgotten in turn, with 16 retrained models each.
Each retrained model is judged by five of the others, once with the noise of its own request and once with the noise
pooled over the five requests, five references each, at the verdict's levels.
"""


def requests() -> list[list[Federation]]:
    """Return the federations, each as its requests: every client in turn."""
    found = []
    for number, alpha in KINDS:
        one = federation(number, RETRAINS, "digits", "mlp", alpha)
        found.append(
            [replace(one, name=f"{one.name}-{c}", settings={**one.settings, "forget": c}) for c in range(CLIENTS)]
        )
    return found


def judge_requests(measured: Sequence[Document]) -> list[Document]:
    """Judge each retrained model of each request by both kinds of noise; return the counts of each request.

    Args:
        measured: the requests of one federation.
    """
    models = [[evidence_of(each) for each in request["retrained"]] for request in measured]
    before = [evidence_of(request["stages"]["original"]) for request in measured]
    controls = [evidence_of(request["stages"]["control"]) for request in measured]
    counts = [_counts(request) for request in measured]
    for number in range(len(models[0])):
        drawn = [_drawn(request["name"], number, own) for request, own in zip(measured, models, strict=True)]
        values = [_values(refs, original) for refs, original in zip(drawn, before, strict=True)]
        for place, count in enumerate(counts):
            floors = {f"{part}_accuracy": 1 / measured[place]["samples"][part] for part in ("forget", "test")}
            kinds = {"retrained": models[place][number], "control": controls[place]}
            for kind, model in kinds.items():
                own = _measures(model, drawn[place], before[place])
                for noise, outside in _outside(own, values, place, floors).items():
                    count[kind][noise] += bool(outside)
                    if kind == "retrained":
                        count["by_measure"][noise] = [*count["by_measure"][noise], *outside]
    return counts


def _counts(request: Document) -> Document:
    each = [evidence_of(model) for model in request["retrained"]]
    noise = {name: stdev(_known(model, name) for model in each) for name in MEASURES[1:]}
    return {
        "name": request["name"],
        "samples": request["samples"]["forget"],
        "trials": len(each),
        "noise": {POSITION: _position_noise(each, evidence_of(request["stages"]["original"])), **noise},
        "retrained": {"own": 0, "pooled": 0},
        "control": {"own": 0, "pooled": 0},
        "by_measure": {"own": [], "pooled": []},
    }


def _known(model: Evidence, name: str) -> float:
    return float(model.values[name])


def _position_noise(models: Sequence[Evidence], original: Evidence) -> float:
    values = _values(models, original)[POSITION]
    return stdev(values)


def _drawn(name: str, number: int, models: Sequence[Evidence]) -> list[Evidence]:
    others = [n for n in range(len(models)) if n != number]
    return [models[n] for n in Random(f"{name} {number}").sample(others, REFERENCES)]


def _values(references: Sequence[Evidence], original: Evidence) -> dict[str, list[float]]:
    """Return each measure of the references; of position, values with its mean and the spread of a single model."""
    scores = torch.stack([each.scores for each in references if each.scores is not None])
    assert original.scores is not None
    predicted = predict_position(original.scores, scores)
    assert predicted is not None
    spread = predicted.noise / (1 + 1 / predicted.count) ** 0.5
    return {
        **{name: [_known(each, name) for each in references] for name in MEASURES[1:]},
        POSITION: _with(predicted.mean, spread, predicted.count),
    }


def _with(mean: float, spread: float, count: int) -> list[float]:
    """Return so many values of this mean and standard deviation: two that differ, the others at the mean."""
    off = spread * ((count - 1) / 2) ** 0.5
    return [mean - off, mean + off, *[mean] * (count - 2)]


def _measures(model: Evidence, references: Sequence[Evidence], original: Evidence) -> dict[str, float]:
    scores = torch.stack([each.scores for each in references if each.scores is not None])
    assert original.scores is not None
    assert model.scores is not None
    place = position(original.scores, scores.mean(dim=0), model.scores)
    assert place is not None
    return {POSITION: place, **{name: _known(model, name) for name in MEASURES[1:]}}


def _outside(
    own: dict[str, float], values: Sequence[dict[str, list[float]]], place: int, floors: dict[str, float]
) -> dict[str, list[str]]:
    """Return by each kind of noise the measures that are outside of their interval."""
    shares = shares_of(MEASURES)
    found: dict[str, list[str]] = {"own": [], "pooled": []}
    for name in MEASURES:
        floor, side = floors.get(name, 0.0), UNDER_FORGETTING_SIDE.get(name)
        here = predict_one_more(values[place][name], floor)
        shared = max(fmean(stdev(each[name]) ** 2 for each in values) ** 0.5, floor) * (1 + 1 / REFERENCES) ** 0.5
        off = own[name] - here.mean
        share = shares[name] if side is None or (off < 0) == (side == LOW) else OTHER_SIDE
        if abs(off) > quantile(1 - share, REFERENCES - 1) * here.noise:
            found["own"].append(name)
        if abs(off) > quantile(1 - share, len(values) * (REFERENCES - 1)) * shared:
            found["pooled"].append(name)
    return found


def make_page(results: Document) -> str:
    """Return the page."""
    rows = results["requests"]
    trials = sum(row["trials"] for row in rows)
    total = {
        kind: {noise: sum(row[kind][noise] for row in rows) for noise in ("own", "pooled")}
        for kind in ("retrained", "control")
    }
    lines = [["noise of", "retrained: refused (95 % interval)", "largest share in a request", "control: missed"]]
    for noise, called in (("own", "its own request"), ("pooled", "all five requests, pooled")):
        low, high = wilson(total["retrained"][noise], trials)
        worst = max(row["retrained"][noise] / row["trials"] for row in rows)
        share = f"{total['retrained'][noise] / trials:.1%} ({low:.1%} to {high:.1%})"
        lines.append([called, share, f"{worst:.0%}", f"{1 - total['control'][noise] / trials:.0%}"])
    each = [["request", "samples", *(f"noise: {name.replace('_', ' ')}" for name in MEASURES), "refused: own, pooled"]]
    for row in rows:
        refused = f"{row['retrained']['own']}, {row['retrained']['pooled']} of {row['trials']}"
        each.append([row["name"], str(row["samples"]), *(f"{row['noise'][name]:.3f}" for name in MEASURES), refused])
    return "\n".join(
        [
            ABOUT,
            table(lines),
            "",
            _finding(rows, total, trials),
            "",
            "## Each request",
            "",
            "Noise is the standard deviation between the 16 retrained models. A name is split seed, data, model, "
            "Dirichlet alpha\nand client.\n",
            table(each),
            "",
        ]
    )


def _finding(rows: Sequence[Document], total: Document, trials: int) -> str:
    """Say what the counts say, and what follows."""
    ratios = []
    for number, _ in KINDS:
        mine = [row["noise"] for row in rows if row["name"].startswith(f"{number}-")]
        ratios.append({name: max(n[name] for n in mine) / min(n[name] for n in mine) for name in MEASURES})
    shown = ", ".join(f"{name.replace('_', ' ')} {max(ratio[name] for ratio in ratios):.1f}" for name in MEASURES)
    worst = max(rows, key=lambda row: row["retrained"]["pooled"] / row["trials"])
    return (
        f"The largest noise of a request is this multiple of the smallest: {shown}.\nWith pooled noise request "
        f"{worst['name']} gets {worst['retrained']['pooled']} false alarms of {worst['trials']}; with its own noise, "
        f"{worst['retrained']['own']}.\n{_shown(total['retrained'], trials)}"
    )


def _shown(refused: Mapping[str, int], trials: int) -> str:
    """Say what one federation shows, by whether the intervals of the two shares refused overlap."""
    pooled, own = wilson(refused["pooled"], trials), wilson(refused["own"], trials)
    if pooled[0] > own[1]:
        return "This is one federation: it shows that pooling can refuse more, not how often."
    return (
        "This is one federation, and the intervals overlap: it does not show that pooling refuses more. It shows that "
        "the\nnoise differs between requests, which pooling assumes it does not."
    )


def make_results(work: Path) -> Document:
    """Measure what is not in `work` yet, and judge the requests."""
    counted = [judge_requests([measure(one, work) for one in group]) for group in requests()]
    return {"schema_version": 1, "requests": [row for group in counted for row in group]}


def main() -> None:
    """Measure and judge, or make the page from what was."""
    write_results(__doc__, json_file=JSON, page=PAGE, make_results=make_results, make_page=make_page, resumable=False)


if __name__ == "__main__":
    main()
