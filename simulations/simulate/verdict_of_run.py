"""The verdict on a measured model, by measured models that were retrained without the samples.

Shared by the report of a run, by `fedquit compare` and by `fedquit audit`, so that all mean the same by the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from fedquit.client.data.evaluation_sets import Sets
from fedquit.client.training.evaluate_model import PARTS, Outputs
from fedquit.documents import Document
from fedquit.unlearning.evaluation.measures import logit_confidence
from fedquit.unlearning.evaluation.memorisation import MEMORISED, grouped, predict_remaining, remaining_share
from fedquit.unlearning.evaluation.verdict import (
    HIGH,
    REFERENCES,
    UNDER_FORGETTING,
    UNDETERMINED,
    Evidence,
    hold,
    verdict_of,
)

JUDGED = ("forget_accuracy", "forget_loss", "test_accuracy")
CONTINUED = "the original, trained on without the data for as many rounds"
ORIGINAL = "the original"


def sample_counts(sets: Sets) -> dict[str, int]:
    """Return how many samples each of `PARTS` has."""
    return {part: len(getattr(sets, part)) for part in PARTS}


def score_text(outputs: Outputs) -> str:
    """Return the logit confidence of each sample to forget, as a report holds it: short, and exact enough to judge by.

    >>> score_text(Outputs({"forget": torch.tensor([[0.5, 0.5]]).log()}, {"forget": torch.tensor([0])}))
    '0'
    """
    scores = logit_confidence(outputs.log_p["forget"], outputs.labels["forget"])
    return " ".join(f"{score:.5g}" for score in scores.tolist())


def evidence_of(measured: Document) -> Evidence:
    """Return what a measured model is judged by; personalised models, of which there are several, have no scores.

    >>> evidence_of({"forget_accuracy": 0.5, "scores": "1.5 -2"}).scores
    tensor([ 1.5000, -2.0000], dtype=torch.float64)
    """
    text = measured.get("scores")
    return Evidence(
        sha256=measured.get("model_sha256", ""),
        values={name: measured[name] for name in JUDGED if name in measured},
        scores=None if text is None else torch.tensor([float(score) for score in text.split()], dtype=torch.float64),
    )


def judge(
    stages: Mapping[str, Document | None], references: Sequence[Document], samples: Mapping[str, int], *, way_out: str
) -> Document:
    """Judge the recovered model of a run.

    Args:
        stages: its measured models: "recovered", "original", and "control" if there is one.
        references: measured retrained models, of as many rounds as the recovered one.
        samples: how many "forget" and "test" samples there are.
        way_out: how to give more references.
    """
    recovered, original, control = (stages.get(name) for name in ("recovered", "original", "control"))
    control = control or original
    verdict = asdict(
        verdict_of(
            evidence_of(recovered or {}),
            [evidence_of(reference) for reference in references],
            original=None if original is None else evidence_of(original),
            control=None if control is None else evidence_of(control),
            control_is=_named(control, original),
            floors={f"{part}_accuracy": 1 / samples[part] for part in ("forget", "test")},
        )
    )
    if verdict["outcome"] == UNDETERMINED and len(references) < REFERENCES:
        verdict["reason"] += f"; {way_out}"
    return verdict


def memorised(stages: Mapping[str, Document | None], references: Sequence[Document]) -> Document | None:
    """Return how much is left of what the original memorised; None where that cannot be said.

    Args:
        stages: measured models: "recovered" and "original".
        references: measured retrained models, of as many rounds as the recovered one.
    """
    given = [stages.get("original"), stages.get("recovered"), *references]
    scores = [evidence_of(model).scores for model in given if model]
    if len(scores) < len(given) or len(references) < REFERENCES:
        return None
    known = [each for each in scores if each is not None]
    if len(known) < len(given):
        return None
    original, recovered, without = known[0], known[1], torch.stack(known[2:])
    value = remaining_share(original, without, recovered)
    predicted = None if value is None else predict_remaining(original, without)
    return {
        "threshold": MEMORISED,
        **grouped(original, without, recovered),
        "left": None if value is None or predicted is None else hold(value, predicted, UNDER_FORGETTING, HIGH),
    }


def _named(control: Document | None, original: Document | None) -> str:
    """Say what the control is; after no further round it is the original."""
    if control is None or original is None:
        return "" if control is None else CONTINUED
    return ORIGINAL if control.get("model_sha256") == original.get("model_sha256") else CONTINUED
