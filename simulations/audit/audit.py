"""`fedquit audit`: compare any model with models retrained without the samples, on the data of a run.

What is evaluated is a file; how it was made does not matter. Attacks on the population overstate privacy: where a claim
of forgetting is made, give shadow models too and report the attack on single samples (arXiv 2403.01218).
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch

from fedquit.client.data.evaluation_sets import Sets, sets_of
from fedquit.client.training.build_objective import check_global_model
from fedquit.client.training.evaluate_model import PARTS
from fedquit.client.training.sgd import deterministic
from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.simulations.audit.audited_model import AuditedModel, read_audited
from fedquit.simulations.audit.further_tests import further_tests
from fedquit.simulations.audit.single_samples import by_retrained, by_shadows, read_shadow_outputs, u_lira
from fedquit.simulations.simulate.verdict_of_run import judge, memorised, sample_counts
from fedquit.unlearning.evaluation.measures import activation_distance, js_divergence, relearn, tow
from fedquit.unlearning.evaluation.verdict import REFERENCES
from fedquit.unlearning.seeds import derive_seed

SCHEMA_VERSION = 2
CHECK_EVERY = {"forget": 1, "retain": 5}  # steps of relearning between two measurements: D_f comes back at once
MEMORISED_NEEDS = f"needs --original FILE and {REFERENCES} models that were retrained: give --reference FILE for each"
DISTANCES = {"js_divergence": js_divergence, "activation_distance": activation_distance}


def audit(
    model_file: Path,
    *,
    reference_files: Sequence[Path],
    original_file: Path | None = None,
    control_file: Path | None = None,
    shadows_file: Path | None = None,
    settings: Settings,
    relearn_steps: int = 200,
) -> Document:
    """Evaluate a model that should have forgotten.

    Args:
        model_file: the candidate: safetensors, or npz as docs/report.md says.
        reference_files: models retrained without the samples; at least one, five for a verdict.
        original_file: the model before forgetting; without it, no relearning and no completeness.
        control_file: a model that forgot nothing, which takes the same test; the original if None.
        shadows_file: lists shadow models (see `shadow_models.py`); without it, no attack on single samples, and
            completeness by the retrained models only.
        settings: which data, split and model, and who was forgotten.
        relearn_steps: give up relearning after this number of steps.

    Returns:
        What `fedquit audit --json` prints; what could not be measured is null, and `not_measured` says why.

    Raises:
        InputError: a file cannot be used, or two references are the same model.
    """
    check_global_model(settings, "fedquit audit")
    if not reference_files:
        raise InputError("an audit compares with a retrained model: give at least one --reference FILE")
    sets = sets_of(settings)
    candidate, *references = (read_audited(path, settings, sets) for path in (model_file, *reference_files))
    original = read_audited(original_file, settings, sets) if original_file else None
    control = read_audited(control_file, settings, sets) if control_file else None
    _check_distinct(references)
    found, missing = _with_original(candidate, references, original, sets, settings, relearn_steps)
    audited = [candidate, *references, *filter(None, (original, control))]
    shadow_outputs = read_shadow_outputs(shadows_file, audited, settings, sets) if shadows_file else None
    found["u_lira"], missing["u_lira"] = u_lira(shadow_outputs, candidate, references)
    if original:
        name = "completeness.from_shadows"
        found["completeness"]["from_shadows"], missing[name] = by_shadows(
            shadow_outputs, original, candidate, references
        )
    stages = {"recovered": candidate.evidence(), **_stages(original, control)}
    evidence = [reference.evidence() for reference in references]
    remembered = memorised(stages, evidence)
    missing |= {} if remembered else {"memorised": MEMORISED_NEEDS}
    means = {f"{part}_accuracy": fmean(r.measures[f"{part}_accuracy"] for r in references) for part in PARTS}
    gaps = {name: candidate.measures[name] - mean for name, mean in means.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "config": {**settings.run_config(), "partition": Path(settings.partition).name},
        "samples": sample_counts(sets),
        "model": candidate.document(),
        "references": [reference.document() for reference in references],
        "original": original.document() if original else None,
        "gaps": gaps,
        "tow": tow(*gaps.values()),
        "distances": _distances(candidate, references),
        **found,
        "not_measured": {name: reason for name, reason in missing.items() if reason},
        "control": control.document() if control else None,
        "further_tests": further_tests(found, relearn_steps),
        "memorised": remembered,
        "verdict": judge(stages, evidence, sample_counts(sets), way_out="give more --reference FILE"),
    }


def _stages(original: AuditedModel | None, control: AuditedModel | None) -> dict[str, Document | None]:
    """Return the models that the verdict needs besides candidate and references."""
    return {
        "original": original.evidence() if original else None,
        "control": control.evidence() if control else None,
    }


def _check_distinct(references: Sequence[AuditedModel]) -> None:
    for a, b in combinations(references, 2):
        if a.sha256 == b.sha256:
            raise InputError(
                f"{a.file} and {b.file} are the same model; references of different seeds give the noise floor"
            )


def _distances(candidate: AuditedModel, references: Sequence[AuditedModel]) -> Document:
    """Return the mean distance of the answers to each reference's, and of the references' to each other's."""

    def mean(name: str, part: str, pairs: Sequence[tuple[AuditedModel, AuditedModel]]) -> float | None:
        found = [DISTANCES[name](a.outputs.pair(part)[0], b.outputs.pair(part)[0]) for a, b in pairs]
        return fmean(found) if found else None

    to_references = [(candidate, reference) for reference in references]
    among = list(combinations(references, 2))
    return {
        name: {
            part: {"model": mean(name, part, to_references), "references": mean(name, part, among)} for part in PARTS
        }
        for name in DISTANCES
    }


def _with_original(
    candidate: AuditedModel,
    references: Sequence[AuditedModel],
    original: AuditedModel | None,
    sets: Sets,
    settings: Settings,
    max_steps: int,
) -> tuple[Document, dict[str, str]]:
    """Return what needs the model before forgetting, and what could not be measured."""
    if original is None:
        reason = "needs the model before forgetting: give --original FILE"
        return {"relearn": None, "completeness": None}, {"relearn": reason, "completeness": reason}
    target = original.measures["forget_accuracy"]
    steps = [_steps(audited.model, sets, settings, target, max_steps) for audited in (candidate, *references)]
    return {
        "relearn": {
            "target_accuracy": target,
            "max_steps": max_steps,
            "check_every": {f"on_{part}": steps for part, steps in CHECK_EVERY.items()},
            "model": steps[0],
            "references": steps[1:],
        },
        "completeness": by_retrained(original, candidate, references),
    }, {}


def _steps(model: torch.nn.Module, sets: Sets, settings: Settings, target: float, max_steps: int) -> Document:
    """Return the steps until the old accuracy on D_f is back: trained on D_f, and on D_r alone; None: not reached."""
    seed = derive_seed(settings.seed, "relearn")
    with deterministic(seed):
        return {
            f"on_{part}": relearn(
                model,
                getattr(sets, part),
                forgotten=sets.forget,
                lr=settings.lr,
                batch_size=settings.batch_size,
                target_accuracy=target,
                max_steps=max_steps,
                check_every=check_every,
                seed=seed,
            )
            for part, check_every in CHECK_EVERY.items()
        }
