"""The position between the original and retrained models, and its noise, by hand and by simulation."""

import numpy as np
import pytest
import torch

from fedquit.errors import InputError
from fedquit.unlearning.evaluation.position import position, predict_position


def test_position_is_linear_from_0_at_the_original_to_1_at_the_retrained() -> None:
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


def test_position_refuses_what_does_not_fit() -> None:
    scores = torch.rand(4)
    with pytest.raises(InputError, match="all be"):
        position(scores, scores, scores[:3])
    with pytest.raises(InputError, match="not all finite"):
        position(scores, scores, scores / 0)
    with pytest.raises(InputError, match="k > 2"):
        predict_position(scores, torch.rand(2, 4))


def test_where_retraining_changes_nothing_no_position_is_predicted() -> None:
    assert predict_position(torch.ones(3), torch.ones(4, 3)) is None


def plain_prediction(original: list[float], retrained: list[list[float]]) -> list[float]:
    """Each retrained model's position by the others, one model and one sample at a time."""
    count, samples = len(retrained), range(len(original))
    mean = [sum(model[i] for model in retrained) / count for i in samples]
    whole = sum((original[i] - mean[i]) ** 2 for i in samples)
    found = []
    for j, model in enumerate(retrained):
        others = [sum(m[i] for n, m in enumerate(retrained) if n != j) / (count - 1) for i in samples]
        along = sum((original[i] - others[i]) * (model[i] - others[i]) for i in samples)
        found.append(1 - (count - 1) / count * along / whole)
    return found


def test_the_noise_of_a_position_is_that_of_models_placed_by_the_others() -> None:
    draw = np.random.default_rng(0)
    original, retrained = draw.normal(3, 1, 20), draw.normal(0, 1, (5, 20))
    places = plain_prediction(original.tolist(), retrained.tolist())
    found = predict_position(original, retrained)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(places))
    assert found.noise == pytest.approx(np.std(places, ddof=1) * (1 + 1 / 5) ** 0.5)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_one_more_model_of_the_same_kind_is_outside_in_about_five_percent(count: int) -> None:
    draw, outside, trials = np.random.default_rng(count), 0, 2000
    for _ in range(trials):
        original = draw.normal(2, 1, 50)
        models = draw.normal(0, 1, (count + 1, 50)) + draw.normal(
            0, 0.5, (count + 1, 1)
        )  # a seed moves all its samples
        found = predict_position(original, models[:count])
        assert found is not None
        place = position(original, models[:count].mean(axis=0), models[count])
        low, high = found.interval(0.025, 0.025)
        outside += not low <= (place or 0.0) <= high
    assert 0.03 < outside / trials < 0.07
