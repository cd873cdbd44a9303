import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import nn

from fedquit.errors import InputError
from fedquit.unlearning import Samples
from fedquit.unlearning.evaluation.measures import (
    accuracy,
    activation_distance,
    group_accuracy,
    js_divergence,
    loss,
    losses,
    per_class_accuracy,
    predict,
    predict_log,
    tow,
    worst_group,
)


def distributions(seed: int, rows: int = 6, classes: int = 4) -> torch.Tensor:
    return (torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)).double() * 4).softmax(dim=1)


def test_predict_asks_in_inference_mode_and_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 4))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    samples = Samples(torch.randn(11, 3), torch.arange(11) % 4)
    p = predict(model, samples, batch_size=4)
    torch.testing.assert_close(p, predict(model, samples, batch_size=11))
    assert p.shape == (11, 4)
    assert not p.requires_grad
    torch.testing.assert_close(p.sum(1), torch.ones(11).double())
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_predict_log_is_exact_where_probabilities_underflow() -> None:
    samples = Samples(torch.tensor([[0.0, 2000.0]]), torch.tensor([0]))
    log_p = predict_log(nn.Identity(), samples)
    assert losses(log_p, samples.labels).tolist() == [2000.0]
    assert loss(log_p.exp(), samples.labels) == pytest.approx(708.396, abs=1e-3)


def test_accuracy_and_loss_hand_computed() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]])
    y = torch.tensor([0, 1, 1])
    assert accuracy(p, y) == pytest.approx(2 / 3)
    assert loss(p, y) == pytest.approx(-(math.log(0.7) + math.log(0.1) + math.log(0.4)) / 3)
    assert accuracy(p.numpy(), y.numpy()) == accuracy(p, y)
    per_class = per_class_accuracy(p, y)
    assert per_class[:2].tolist() == [1.0, 0.5]
    assert per_class[2].isnan()


def test_group_accuracy_hand_computed() -> None:
    log_p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]]).log()
    got = group_accuracy(log_p, torch.tensor([0, 1, 1, 0]), torch.tensor([4, 2, 2, 4]))
    assert got == {2: 0.5, 4: 1.0}
    assert worst_group(got) == (2, 0.5)


def test_groups_weighted_by_size_give_the_whole() -> None:
    p, labels, groups = distributions(0, rows=50), torch.arange(50) % 4, torch.arange(50) % 7
    sizes = groups.bincount()
    parts = group_accuracy(p.log(), labels, groups)
    assert sum(share * int(sizes[group]) for group, share in parts.items()) / 50 == pytest.approx(accuracy(p, labels))


def test_groups_refuse_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="no groups"):
        worst_group({})
    with pytest.raises(InputError, match=r"\[N, C\], \[N\] and \[N\]"):
        group_accuracy(torch.zeros(3, 2), torch.zeros(3), torch.zeros(2))


def test_js_is_the_true_one() -> None:
    p, q = distributions(0), distributions(1)
    expected = np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)])
    assert js_divergence(p, q) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=30)
def test_js_is_symmetric_and_bounded_by_ln_2(a: int, b: int) -> None:
    p, q = distributions(a), distributions(b)
    assert js_divergence(p, q) == pytest.approx(js_divergence(q, p), abs=1e-15)
    assert 0 <= js_divergence(p, q) <= math.log(2) + 1e-12
    assert js_divergence(p, p) == 0


def test_js_of_disjoint_rows_is_ln_2() -> None:
    p = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    q = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    assert js_divergence(p, q) == pytest.approx(math.log(2) / 2)


def test_activation_distance_hand_computed() -> None:
    p, q = torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([[0.6, 0.4], [0.5, 0.5]])
    assert activation_distance(p, q) == pytest.approx(math.sqrt(0.18) / 2)


def test_tow_is_one_at_no_gap_and_falls_with_each() -> None:
    assert tow(0.0, 0.0, 0.0) == 1.0
    assert tow(0.5, -0.2, 0.1) == pytest.approx(0.5 * 0.8 * 0.9)
    with pytest.raises(InputError, match="the gap is 12"):
        tow(12.0)


def test_measures_refuse_values_that_are_not_probabilities() -> None:
    good, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    with pytest.raises(InputError, match=r"outside 0\.\.1"):
        accuracy(good * 5, y)
    with pytest.raises(InputError, match="or are NaN"):
        accuracy(good * math.nan, y)
    with pytest.raises(InputError, match=r"labels reach 2\.\.2; valid: 0\.\.1"):
        accuracy(good, torch.tensor([2]))
    with pytest.raises(InputError, match="integers"):
        loss(good, torch.tensor([0, 1]))
    with pytest.raises(InputError, match="N >= 1"):
        accuracy(good[:0], y[:0])
    with pytest.raises(InputError, match="the same"):
        js_divergence(good, distributions(0))
    with pytest.raises(InputError, match="no samples"):
        predict(nn.Identity(), Samples(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)))
