"""What was memorised is found apart from what any model knows, and what is left of it is a number with an interval."""

import pytest
import torch

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.memorisation import (
    MEMORISED,
    grouped,
    memorisation,
    predict_remaining,
    remaining_share,
)

KNOWN, MEMORISED_ONES = torch.full((40,), 4.0), torch.full((10,), 4.0)


def retrained(seed: int, count: int = 5) -> torch.Tensor:
    """Models that know the first 40 samples and guess at the last ten."""
    draw = torch.Generator().manual_seed(seed)
    noise = 0.3 * torch.randn(count, 50, generator=draw)
    return torch.cat([torch.full((count, 40), 4.0), torch.full((count, 10), -3.0)], dim=1) + noise


BEFORE = torch.cat([KNOWN, MEMORISED_ONES])


def test_the_score_is_what_a_loop_over_samples_and_models_gives() -> None:
    without = retrained(0)
    for sample, score in enumerate(memorisation(BEFORE, without).tolist()):
        chances = [1 / (1 + torch.exp(-model[sample].double())) for model in without]
        wanted = 1 / (1 + torch.exp(-BEFORE[sample].double())) - sum(chances) / len(chances)
        assert score == pytest.approx(float(wanted), abs=1e-12)


def test_a_model_that_only_forgot_what_all_know_has_all_it_memorised_left() -> None:
    without = retrained(0)
    worse = torch.cat([KNOWN - 6, MEMORISED_ONES])
    found = grouped(BEFORE, without, worse)
    assert (found["memorised"]["samples"], found["others"]["samples"]) == (10, 40)
    assert remaining_share(BEFORE, without, worse) == 1.0
    assert remaining_share(BEFORE, without, BEFORE) == 1.0


def test_a_new_retrained_model_is_inside_and_one_that_half_forgot_outside() -> None:
    inside = 0
    for seed in range(200):
        six = retrained(seed, 6)
        predicted = predict_remaining(BEFORE, six[:5])
        assert predicted is not None
        low, high = predicted.interval(0.025, 0.025)
        half_way = torch.cat([KNOWN, torch.zeros(10)])
        value, half = (remaining_share(BEFORE, six[:5], model) for model in (six[5], half_way))
        assert value is not None
        assert half is not None
        inside += low <= value <= high
        assert not low <= half <= high
    assert 180 <= inside <= 198, "about 190 of 200"


def test_where_nothing_is_memorised_nothing_is_said() -> None:
    without = retrained(0)
    assert remaining_share(without[0], without, without[1]) is None
    assert predict_remaining(without[0], without) is None
    assert grouped(without[0], without, without[1])["memorised"] == {
        "samples": 0, "before": None, "retrained": None, "candidate": None
    }  # fmt: skip
    assert MEMORISED == 0.25


def test_scores_of_other_samples_or_of_none_are_refused() -> None:
    with pytest.raises(InputError, match="about 3 samples and trained_without about 50"):
        memorisation(torch.zeros(3), retrained(0))
    with pytest.raises(InputError, match="k > 2"):
        predict_remaining(BEFORE, retrained(0, 2))
    with pytest.raises(InputError, match="not all finite"):
        remaining_share(BEFORE, retrained(0), torch.full((50,), float("nan")))
