"""The audit of single samples: how complete forgetting is, and whether each is distinguished from an unseen one.

By models retrained without the samples and by shadow models (see `shadow_models.py`), which are asked about D_f once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fedquit.client.data.evaluation_sets import Sets
from fedquit.client.data.forget_sets import to_forget
from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.simulations.audit.audited_model import AuditedModel, read_model
from fedquit.simulations.audit.shadow_models import Shadow, attack_samples, kind_of, outputs_without, read_shadows
from fedquit.unlearning.evaluation.measures import logit_confidence, position, predict_log

NO_SHADOWS = "needs shadow models: give --shadows FILE"


@dataclass(frozen=True, slots=True)
class ShadowOutputs:
    """Shadow models, what each says of D_f (logit confidences [N], by its file), and how D_f's samples are numbered."""

    shadows: list[Shadow]
    confidences: Callable[[Path], Tensor]
    index: list[int]


def read_shadow_outputs(path: Path, audited: Sequence[AuditedModel], settings: Settings, sets: Sets) -> ShadowOutputs:
    """Return what the shadow models in a list say.

    Raises:
        InputError: the list cannot be used; or, once it is asked, a model cannot, or it is one that is `audited`.
    """
    known = {each.sha256: each.file for each in audited}
    requests = [to_forget(settings.key(), request) for request in range(settings.num_requests)]

    @cache
    def confidences(file: Path) -> Tensor:
        model, sha256 = read_model(file, settings)
        if sha256 in known:
            raise InputError(
                f"shadow model {file} is {known[sha256]} itself; the evaluated model cannot be its own shadow"
            )
        return logit_confidence(predict_log(model, sets.forget), sets.forget.labels)

    return ShadowOutputs(
        read_shadows(path), confidences, [int(sample) for parts in requests for part in parts for sample in part]
    )


def u_lira(
    shadow_outputs: ShadowOutputs | None, candidate: AuditedModel, references: Sequence[AuditedModel]
) -> tuple[Document | None, str]:
    """Return how well the candidate's D_f is distinguished from the retrained models'; or None and why not."""
    if shadow_outputs is None:
        return None, NO_SHADOWS
    others = [reference.logit_confidence() for reference in references]
    return attack_samples(
        shadow_outputs.shadows, shadow_outputs.confidences, shadow_outputs.index, candidate.logit_confidence(), others
    )


def by_retrained(original: AuditedModel, candidate: AuditedModel, references: Sequence[AuditedModel]) -> Document:
    """Return completeness by the retrained models; each of those is placed by the others, never by itself."""
    return {
        "model": _completeness(original, _logits(references), candidate),
        "original": _completeness(original, _logits(references), original),
        "references": [
            _completeness(original, _logits([other for other in references if other is not reference]), reference)
            for reference in references
            if len(references) > 1
        ],
    }


def by_shadows(
    shadow_outputs: ShadowOutputs | None,
    original: AuditedModel,
    candidate: AuditedModel,
    references: Sequence[AuditedModel],
) -> tuple[Document | None, str]:
    """Return completeness by the shadow models that never had the sample, for each its own; or None and why not."""
    if shadow_outputs is None:
        return None, NO_SHADOWS
    without, known = outputs_without(shadow_outputs.shadows, shadow_outputs.confidences, shadow_outputs.index)
    if not len(without):
        return None, "no sample to forget is 'out' of a shadow model"
    return {
        "samples": int(known.sum()),
        "models_per_sample": len(without),
        "kind": kind_of(shadow_outputs.shadows),
        "model": _completeness(original, without, candidate, known),
        "original": _completeness(original, without, original, known),
        "references": [_completeness(original, without, reference, known) for reference in references],
    }, ""


def _logits(audited: Sequence[AuditedModel]) -> Tensor:
    return torch.stack([each.logit_confidence() for each in audited])


def _completeness(
    original: AuditedModel, without: Tensor, audited: AuditedModel, known: Tensor | slice = slice(None)
) -> Document:
    """Return completeness by models that never had the samples: what they say, logit confidences [S, M]."""
    before, now = (each.logit_confidence()[known] for each in (original, audited))
    return {"position": position(before, without.mean(dim=0), now)}
