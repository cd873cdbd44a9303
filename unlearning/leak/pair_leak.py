"""All attacks on one pair of models: what an observer of both learns about the samples forgotten between them."""

from dataclasses import asdict

import torch
from torch import Tensor, nn

from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.unlearning.leak.candidate_game import distinguished
from fedquit.unlearning.leak.class_read_off import class_evidence, read_off
from fedquit.unlearning.leak.image_quality import nearest, psnr, ssim
from fedquit.unlearning.leak.observation import Observation, cosine, gradient
from fedquit.unlearning.leak.reconstruct_inputs import Attack, reconstruct
from fedquit.unlearning.samples import Samples, normalised

MOST_GAMES = 100
"""Samples of each kind that the game is played with; each takes a gradient."""
MOST_PICTURES = 8
"""Of more samples together no reconstruction is tried: it takes minutes, and what it gives is a mixture."""
MOST_CANDIDATES = 100


def leak_of_pair(
    empty: nn.Module,
    seen: Observation,
    forgotten: Samples,
    others: Samples,
    num_classes: int,
    *,
    seed: int,
    attack: Attack | None = None,
) -> Document:
    """Attack what an observer saw, and compare the results with the truth.

    Args:
        empty: a model of the right kind.
        seen: the two models.
        forgotten: the truth.
        others: samples that could equally have been forgotten but were not.
        num_classes: C.
        seed: of all random choices.
        attack: settings of the reconstruction.

    Returns:
        `classes`, `game` and `reconstruction`; what could not be measured is null, and `not_measured` says why.
    """
    missing: dict[str, str] = {}

    def measured(name: str, found: Document | str) -> Document | None:
        if isinstance(found, str):
            missing[name] = found
            return None
        return found

    model = seen.model(empty)
    step = seen.step(model)
    return {
        "classes": measured("classes", _classes(step, forgotten, num_classes)),
        "game": {
            kind: measured(f"game.{kind}", _game(model, step, forgotten, others, alike=alike, seed=seed))
            for kind, alike in (("same_class", True), ("different_class", False))
        },
        "reconstruction": measured(
            "reconstruction", _reconstruction(model, step, forgotten, others, attack or Attack(), seed)
        ),
        "not_measured": missing,
    }


def _classes(step: dict[str, Tensor], forgotten: Samples, num_classes: int) -> Document | str:
    try:
        evidence = class_evidence(step, num_classes)
    except InputError as error:
        return str(error)
    counts = forgotten.labels.bincount(minlength=num_classes)
    return {**asdict(read_off(evidence, counts)), "evidence": evidence.tolist(), "counts": counts.tolist()}


def partners(forgotten: Samples, others: Samples, *, alike: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Return forgotten samples and others to tell them from, of the same classes (`alike`) or of different ones.

    Each forgotten sample gets as many of the others as there are places for, none twice, so one whose class is used up
    goes without. At most `MOST_GAMES` of either: two indices [N] and [M].

    >>> these = Samples(torch.zeros(2, 1), torch.tensor([0, 1]))
    >>> [found.tolist() for found in partners(these, these, alike=True, seed=0)]
    [[0, 1], [0, 1]]
    """
    draw = torch.Generator().manual_seed(seed)
    left = torch.randperm(len(others), generator=draw).tolist()
    labels = others.labels.tolist()
    mine, theirs = list[int](), list[int]()
    drawn = torch.randperm(len(forgotten), generator=draw)[:MOST_GAMES].sort().values.tolist()
    for number in drawn * (MOST_GAMES // len(drawn)):
        label = int(forgotten.labels[number])
        fit = next((other for other in left if (labels[other] == label) is alike), None)
        if fit is not None:
            left.remove(fit)
            theirs.append(fit)
            mine += [] if number in mine else [number]
    return torch.tensor(mine, dtype=torch.int64), torch.tensor(theirs, dtype=torch.int64)


def _game(
    model: nn.Module, step: dict[str, Tensor], forgotten: Samples, others: Samples, *, alike: bool, seed: int
) -> Document | str:
    """Tell forgotten samples from others by how well their gradients explain the step."""
    mine, theirs = partners(forgotten, others, alike=alike, seed=seed)
    if not len(mine):
        return "no sample that was not forgotten is left to tell them from"

    def scores(samples: Samples, chosen: Tensor) -> list[float]:
        return [cosine(step, gradient(model, samples.subset(chosen[i : i + 1]))) for i in range(len(chosen))]

    found = distinguished(scores(forgotten, mine), scores(others, theirs))
    return {**asdict(found), "is_chance": found.is_chance}


def _reconstruction(
    model: nn.Module, step: dict[str, Tensor], forgotten: Samples, others: Samples, attack: Attack, seed: int
) -> Document | str:
    """Rebuild what was forgotten, and say how near that is to the truth and whether it tells it from candidates."""
    if len(forgotten) > MOST_PICTURES:
        return f"{len(forgotten)} samples were forgotten at once; a reconstruction is tried of at most {MOST_PICTURES}"
    truth = normalised(forgotten.inputs)
    found = reconstruct(model, step, forgotten.labels, tuple(truth.shape[1:]), attack, seed=seed)
    candidates = torch.cat([truth, normalised(others.inputs[: MOST_CANDIDATES - len(truth)])])
    quality = [max((ssim(made, true), psnr(made, true)) for made in found.inputs) for true in truth]
    hits = [nearest(made, candidates) < len(truth) for made in found.inputs]
    return {
        "ssim": [each[0] for each in quality],
        "psnr": [each[1] for each in quality],
        "nearest_was_forgotten": sum(hits) / len(hits),
        "by_chance": len(truth) / len(candidates),
        "candidates": len(candidates),
        "mismatch": found.mismatch,
        "inputs": found.inputs.tolist(),
    }
