"""What one run of a comparison comes to: how far its model is from retrained ones, what it cost, what came back.

The target is never 0 but what models retrained without the samples give; how far those are from each other says what
no method can be asked to beat.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedquit.documents import Document
from fedquit.server.run.phases import reference_name, trained_on
from fedquit.simulations.simulate.verdict_of_run import judge, memorised
from fedquit.unlearning.evaluation.measures import tow
from fedquit.unlearning.evaluation.verdict import REFERENCES

PARTS = ("forget", "retain", "test")
STAGES = ("original", "unlearned", "recovered", "later")
MEMBER_RATE = ("attacks", "modified_entropy", "member_rate")
OWN = ("test_accuracy", "worst_class_accuracy", "worst_client_accuracy")

Stage = Mapping[str, Any]


def measure_row(report: Document, references: Document) -> Document:
    """Measure a row's run on one request.

    Args:
        report: of the run.
        references: of the run that retrained without the samples.
    """
    stages, models = report["stages"], references["references"]
    recovered, later = stages["recovered"], stages["later"]
    verdict, remembered = _verdict(report, references)
    return {
        **gaps(recovered, models),
        "later_forget_gap": None if later is None else gap(later, models, _accuracy("forget")),
        "reference_spread": spread(models),
        **{name: recovered[name] for name in OWN},
        "forget_accuracy": {name: stages[name] and stages[name]["forget_accuracy"] for name in STAGES},
        "resurfaced": None if later is None else later["forget_accuracy"] - recovered["forget_accuracy"],
        "recovery_rounds": report["phases"]["recover"]["rounds"],
        "goal_reached": report["ended"]["recover"]["goal_reached"],
        "budget_used": _budget_used(report["phases"], report["config"]["budget"]),
        **_costs(report["phases"], references["phases"]["retrain"]),
        **distances(verdict),
        "memorised": remembered,
        "memorised_left": remembered["left"]["value"] if remembered and remembered["left"] else None,
        "verdict": verdict,
        "models": {name: stage["model_sha256"] for name, stage in stages.items() if stage},
    }


def _verdict(report: Document, references: Document) -> tuple[Document, Document | None]:
    """Judge a row's model by references and a control of as many rounds, which the references' run trained on.

    Returns:
        The verdict, and apart from it what is left of what the original memorised.
    """
    further = references.get("trained_on", {})  # an earlier version's has none
    rounds = report.get("rounds_since_training", report["phases"]["recover"]["rounds"])
    names = [reference_name(number) for number in range(len(references["references"]))] if rounds else []
    matched = [further[trained_on(name, rounds)] for name in names if trained_on(name, rounds) in further]
    stages = {
        "recovered": report["stages"]["recovered"],
        "original": report["stages"]["original"],
        "control": further.get(trained_on("original", rounds)),
    }
    way_out = "references = 5" if len(names) < REFERENCES else f"they were trained on for fewer than {rounds} rounds"
    equal = matched if rounds else references["references"]
    return judge(stages, equal, report["samples"], way_out=way_out), memorised(stages, equal)


def distances(verdict: Document) -> dict[str, float | None]:
    """Return the position, and how far measures are from one more retrained model's, in units of retraining's noise."""
    measures = verdict["measures"]
    return {
        "position": measures["position"]["value"] if "position" in measures else None,
        **{
            f"{name}_distance": (held["value"] - held["expected"]) / held["noise"]
            for name, held in measures.items()
            if held["noise"] > 0
        },
    }


def measure_references(references: Document) -> Document:
    """Measure the retrained models as if they were a method: each against the others, then the mean of the sizes.

    Signed, the gaps of the one and the other would cancel. A single model has nothing to be held against: None.
    """
    models = references["references"]
    found = [gaps(model, [*models[:number], *models[number + 1 :]]) for number, model in enumerate(models)]
    return {
        **{name: _mean_size([each[name] for each in found]) for name in found[0]},
        "reference_spread": spread(models),
        **{name: fmean(model[name] for model in models) for name in OWN},
        "forget_accuracy": {"retrained": fmean(model["forget_accuracy"] for model in models)},
        "bytes_share": 1.0,
        "seconds_share": 1.0,
        "models": {f"retrained-{number}": model["model_sha256"] for number, model in enumerate(models)},
    }


def gaps(candidate: Stage, references: Sequence[Stage]) -> Document:
    """Return the gaps of accuracies and member rate to the mean of the references, signed, and ToW; None without any.

    >>> model = {"forget_accuracy": 0.5, "retain_accuracy": 1.0, "test_accuracy": 1.0,
    ...          "attacks": {"modified_entropy": {"member_rate": 0.6}}}
    >>> gaps({**model, "forget_accuracy": 0.75}, [model])["forget_gap"]
    0.25
    """
    by_part = {part: gap(candidate, references, _accuracy(part)) for part in PARTS}
    known = [found for found in by_part.values() if found is not None]
    return {
        **{f"{part}_gap": found for part, found in by_part.items()},
        "tow": tow(*known) if len(known) == len(PARTS) else None,
        "membership_gap": gap(candidate, references, MEMBER_RATE),
    }


def gap(candidate: Stage, references: Sequence[Stage], path: Sequence[str]) -> float | None:
    """Return how far a value of the candidate is above the mean of the references'; None without references.

    >>> gap({"a": {"b": 0.75}}, [{"a": {"b": 0.25}}, {"a": {"b": 0.75}}], ["a", "b"])
    0.25
    """
    if not references:
        return None
    return at(candidate, path) - fmean(at(reference, path) for reference in references)


def spread(references: Sequence[Stage]) -> float | None:
    """Return the largest difference of forget accuracy between two references; None with fewer than two.

    >>> spread([{"forget_accuracy": 0.5}, {"forget_accuracy": 0.75}])
    0.25
    """
    values = [reference["forget_accuracy"] for reference in references]
    return max(values) - min(values) if len(values) > 1 else None


def at(document: Mapping[str, Any], path: Sequence[str]) -> float:
    """Return the number at a path of keys.

    >>> at({"a": {"b": 2.0}}, ["a", "b"])
    2.0
    """
    value: Any = document
    for key in path:
        value = value[key]
    return float(value)


def _accuracy(part: str) -> tuple[str]:
    return (f"{part}_accuracy",)


def _mean_size(values: Sequence[float | None]) -> float | None:
    known = [abs(value) for value in values if value is not None]
    return fmean(known) if known else None


def _budget_used(phases: Document, budget: int) -> float | None:
    """Return what the whole request cost as a share of its budget, going by the bytes of a round of recovery."""
    recover = phases["recover"]
    if not budget:
        return None
    spent = sum(_traffic(phases[name]) for name in ("forget", "recover", "later") if phases[name])
    return float(spent * recover["rounds"] / (budget * _traffic(recover)))


def _costs(phases: Document, retrain: Document) -> dict[str, float]:
    """Return what forgetting and recovery cost together, and as shares of one retraining."""
    spent = [phases[name] for name in ("forget", "recover") if phases[name]]
    num_bytes, seconds = sum(map(_traffic, spent)), sum(cost["device_seconds"] for cost in spent)
    return {
        "bytes": num_bytes,
        "device_seconds": seconds,
        "bytes_share": num_bytes / _traffic(retrain),
        "seconds_share": seconds / retrain["device_seconds"],
    }


def _traffic(cost: Document) -> int:
    return int(cost["bytes_down"] + cost["bytes_up"])
