import numpy as np
import pytest
import torch
from scipy.stats import gumbel_r  # type: ignore[import-untyped]

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.completeness import fitting_signal, iam, position


def confidences(seed: int, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_signal(p: float) -> float:
    value, low, high = (-np.log(1e-2 - np.log(1e-5 + x)) for x in (p, 0.0, 1.0))
    return float((value - low) / (high - low))


def plain_iam(original: list[float], shadows: list[list[float]], candidate: list[float], steps: int) -> list[float]:
    """The published score as one would write it on paper: one step and one sample at a time."""
    found, weights = np.zeros(len(candidate)), 0.0
    for k in range(steps - 1):
        models = [[s + k / (steps - 1) * (o - s) for s, o in zip(shadow, original, strict=True)] for shadow in shadows]
        scale = np.sqrt(6) * np.std(models) / np.pi
        places = np.mean(models, axis=0) - np.euler_gamma * scale
        found += (k + 1) / (steps - 1) * gumbel_r.cdf(candidate, places, scale)
        weights += (k + 1) / (steps - 1)
    return list(1 - found / weights)


@pytest.mark.parametrize("shadows", [1, 4])
@pytest.mark.parametrize("steps", [2, 3, 100])
def test_iam_agrees_with_the_published_score_written_with_scipy(shadows: int, steps: int) -> None:
    original, without, candidate = confidences(0, 9, low=0.9), confidences(1, shadows, 9), confidences(2, 9)
    expected = plain_iam(
        [plain_signal(p) for p in original.tolist()],
        [[plain_signal(p) for p in row] for row in without.tolist()],
        [plain_signal(p) for p in candidate.tolist()],
        steps,
    )
    assert iam(original, without, candidate, steps=steps).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_signal_runs_from_0_to_1_and_rises() -> None:
    signal = fitting_signal(torch.linspace(0, 1, 101))
    assert (signal[0].item(), signal[-1].item()) == pytest.approx((0.0, 1.0))
    assert bool((signal.diff() > 0).all())


def test_iam_rises_from_the_original_over_the_retrained_to_the_pushed_too_far() -> None:
    original, shadow = confidences(0, 50, low=0.95), confidences(1, 50, low=0.2, high=0.7)
    scores = [iam(original, shadow, x).mean().item() for x in (original, (original + shadow) / 2, shadow, shadow / 9)]
    assert scores == sorted(scores)
    assert scores[0] < 0.4
    assert scores[2] > 0.8
    assert 0 <= min(scores) <= max(scores) <= 1


def test_iam_is_finite_for_one_sample_and_takes_one_shadow_as_a_row() -> None:
    one = torch.tensor([0.5])
    assert bool(iam(one, one, one).isfinite().all())
    many, shadow = confidences(0, 5), confidences(1, 5)
    assert torch.equal(iam(many, shadow, many), iam(many, shadow[None], many))


def test_position_runs_linearly_from_0_at_the_original_to_1_at_the_retrained() -> None:
    original, retrained = torch.tensor([5.0, 3.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])
    for share in (-0.5, 0.0, 0.25, 1.0, 1.5):
        assert position(original, retrained, original + share * (retrained - original)) == pytest.approx(share)


def test_position_hand_computed() -> None:
    # gaps 4 1 0: (4 * 2 + 1 * 1 + 0) / (16 + 1)
    got = position(torch.tensor([5.0, 3.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]), torch.tensor([3.0, 2.0, 9.0]))
    assert got == pytest.approx(9 / 17)


def test_position_is_none_where_retraining_changes_nothing() -> None:
    same = torch.tensor([1.0, 2.0])
    assert position(same, same, same + 1) is None


def test_completeness_refuses_what_does_not_fit() -> None:
    p = confidences(0, 4)
    with pytest.raises(InputError, match=r"shapes \[4\], \[1, 3\], \[4\]"):
        iam(p, p[:3], p)
    with pytest.raises(InputError, match="steps is 1"):
        iam(p, p, p, steps=1)
    with pytest.raises(InputError, match=r"outside 0\.\.1"):
        iam(p, p, p * 9 + 1)
    with pytest.raises(InputError, match="all be"):
        position(p, p, p[:3])
    with pytest.raises(InputError, match="not all finite"):
        position(p, p, p / 0)
