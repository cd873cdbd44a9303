"""Shadow models for tests of single samples (U-LiRA): where they are, and which samples each one had.

A JSON file lists them; files are looked for next to it, and samples are numbered as in a run's partition.json:

    {"kind": "u-lira", "models": [{"file": "shadow-0.safetensors", "in": [0, 7], "out": [1, 2]}, ...]}

For U-LiRA ("u-lira") a model's "in" samples are those it was trained on and then unlearned by the method under test;
for plain LiRA ("plain"), those it was trained on. "out": those it never saw. A sample in neither list is not scored by
this model. Keys not named here are not read; `kind` is repeated in the results and may be left out.
`fedquit shadows` makes such files.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.unlearning.evaluation.measures import auc, likelihood_ratios, tpr_at_fpr

RATES = (0.001, 0.01)


@dataclass(frozen=True, slots=True)
class Shadow:
    """A shadow model's file, the samples it had and never had, and its kind if that was said."""

    file: Path
    inside: frozenset[int]
    outside: frozenset[int]
    kind: str | None = None


def read_shadows(path: Path) -> list[Shadow]:
    """Return the shadow models that a file lists.

    Raises:
        InputError: the file cannot be read, or a model's lists cannot be used.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        kind = None if document.get("kind") is None else str(document["kind"])
        shadows = [_shadow(path, number, entry, kind) for number, entry in enumerate(document["models"])]
    except OSError as error:
        raise InputError(f"cannot read the shadow models {path} ({error.strerror or error})") from None
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        form = '{"models": [{"file": "…", "in": […], "out": […]}, …]}'
        raise InputError(f"{path} does not list shadow models ({error!r}); write {form}") from None
    return shadows


def _shadow(path: Path, number: int, entry: Document, kind: str | None) -> Shadow:
    lists = [entry["in"], entry["out"]]
    if not all(type(index) is int and index >= 0 for indices in lists for index in indices):
        raise InputError(f"{path}: model {number}: 'in' and 'out' are lists of whole numbers from 0")
    inside, outside = (frozenset(indices) for indices in lists)
    if inside & outside:
        raise InputError(f"{path}: model {number}: sample {min(inside & outside)} is in 'in' and in 'out'")
    return Shadow(path.parent / str(entry["file"]), inside, outside, kind)


def attack_samples(
    shadows: Sequence[Shadow],
    confidences: Callable[[Path], Tensor],
    index: Sequence[int],
    candidate: Tensor,
    references: Sequence[Tensor],
) -> tuple[Document | None, str]:
    """Return how well forgotten samples are distinguished from unseen ones, sample by sample; or None and why not.

    Members are the candidate's answers on D_f, non-members the retrained models' answers on the same samples: a
    candidate that is as if retrained gives an area of 0.5 and a rate equal to the false-positive rate. A sample is
    judged if at least two shadow models had it and two never did.

    Args:
        shadows: the shadow models.
        confidences: a model's file to its logit confidences on D_f [N].
        index: what D_f's samples are numbered in the training set, N.
        candidate: the candidate's logit confidences [N].
        references: those of the retrained models, at least one.
    """
    scores = _scores(shadows, confidences, index)
    known = ((~scores.isnan()).sum(dim=1) >= 2).all(dim=0)
    if not bool(known.any()):
        return None, "no sample to forget is 'in' two shadow models and 'out' of two others"
    inside, outside = scores[0][:, known], scores[1][:, known]
    members, *others = (
        likelihood_ratios(inside, outside, known_values[known]) for known_values in (candidate, *references)
    )
    nonmembers = torch.cat(others)
    return {
        "samples": int(known.sum()),
        "shadow_models": len(shadows),
        "kind": kind_of(shadows),
        "mean_ratio": {"model": float(members.mean()), "references": [float(other.mean()) for other in others]},
        "auc": auc(members, nonmembers),
        "tpr_at_fpr": {f"{rate:g}": asdict(tpr_at_fpr(members, nonmembers, rate)) for rate in RATES},
        "auc_of_references": [
            auc(other, torch.cat([*others[:number], *others[number + 1 :]]))
            for number, other in enumerate(others)
            if len(others) > 1
        ],
    }, ""


def outputs_without(
    shadows: Sequence[Shadow], confidences: Callable[[Path], Tensor], index: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return what models say that never had the sample: logit confidences [S, M], and which samples M of N those are.

    Which S models they are differs from sample to sample; S is how many the sample with the fewest has. A column holds
    one sample's, in no order that means anything: what is taken of it is the mean over models.

    Args:
        shadows: the shadow models.
        confidences: a model's file to its logit confidences on D_f [N].
        index: what D_f's samples are numbered in the training set, N.

    >>> shadows = [Shadow(Path("a"), frozenset(), frozenset({7, 8})), Shadow(Path("b"), frozenset({7}), frozenset({8}))]
    >>> known_values = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0, 5.0, 6.0])}
    >>> outputs_without(shadows, lambda file: known_values[file.name], [7, 8, 9])
    (tensor([[1., 2.]], dtype=torch.float64), tensor([ True,  True, False]))
    """
    without = _scores(shadows, confidences, index)[1]
    counts = (~without.isnan()).sum(dim=0)
    known = counts > 0
    first = without.isnan().int().argsort(dim=0, stable=True)
    fewest = int(counts[known].min()) if bool(known.any()) else 0
    return without.gather(0, first)[:fewest, known], known


def kind_of(shadows: Sequence[Shadow]) -> str | None:
    """Return what kind of shadow models these are, if it was said.

    >>> kind_of([Shadow(Path("a"), frozenset(), frozenset(), "plain")])
    'plain'
    """
    return shadows[0].kind if shadows else None


def _scores(shadows: Sequence[Shadow], confidences: Callable[[Path], Tensor], index: Sequence[int]) -> Tensor:
    """Return the logit confidences of models that had the sample, and that never did [2, S, N]; NaN elsewhere."""
    scores = torch.full((2, len(shadows), len(index)), float("nan"), dtype=torch.float64)
    for row, shadow in enumerate(shadows):
        known_values = confidences(shadow.file)
        for side, those in enumerate((shadow.inside, shadow.outside)):
            had = torch.tensor([sample in those for sample in index])
            scores[side, row, had] = known_values[had].double()
    return scores
