import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn
from torch.nn import functional as F

from fedquit.errors import InputError
from fedquit.unlearning import Samples
from fedquit.unlearning.evaluation.likelihood import (
    VARIANCE_FLOOR,
    auc,
    likelihood_ratios,
    logit_confidence,
    tpr_at_fpr,
)
from fedquit.unlearning.evaluation.measures import predict_log


def normal(seed: int, *shape: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def test_the_logit_is_exact_where_the_probability_rounds_to_one() -> None:
    log_p = normal(0, 8, 5).log_softmax(dim=1)
    labels = torch.arange(8) % 5
    p = log_p.exp().gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(logit_confidence(log_p, labels), p.log() - (1 - p).log())
    sure = torch.tensor([[900.0, 0.0, 0.0]], dtype=torch.float64).log_softmax(dim=1)
    assert logit_confidence(sure, torch.tensor([0])).item() == pytest.approx(900 - math.log(2))
    assert logit_confidence(sure, torch.tensor([1])).item() == pytest.approx(-900)


def test_ratios_hand_computed() -> None:
    """Means 3 and 0, both variances 2: at 1 it is -(4 - 1) / 4; at 1.5, halfway, nothing can be told."""
    inside, outside = torch.tensor([[2.0, 2.0], [4.0, 4.0]]), torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    assert likelihood_ratios(inside, outside, torch.tensor([1.0, 1.5])).tolist() == pytest.approx([-0.75, 0.0])


@pytest.mark.parametrize("pooled", [True, False])
def test_ratios_agree_with_scipy(pooled: bool) -> None:
    inside, outside, x = normal(1, 7, 20, mean=2.0), 3 * normal(2, 5, 20), normal(3, 20)
    sides = []
    for side in (inside.numpy(), outside.numpy()):
        deviation = side.std(axis=0, ddof=1)
        if pooled:
            deviation = np.sqrt((deviation**2).mean())
        sides.append(norm.logpdf(x.numpy(), side.mean(axis=0), deviation))
    got = likelihood_ratios(inside, outside, x, pooled=pooled)
    np.testing.assert_allclose(got.numpy(), sides[0] - sides[1], rtol=1e-10)


def test_few_shadow_models_share_one_variance_and_many_do_not() -> None:
    few, many, x = (normal(4, 63, 3), normal(5, 64, 3), normal(6, 3))
    assert torch.equal(likelihood_ratios(few, many, x), likelihood_ratios(few, many, x, pooled=True))
    assert torch.equal(likelihood_ratios(many, many + 1, x), likelihood_ratios(many, many + 1, x, pooled=False))


def test_the_pooled_variance_does_not_count_that_samples_differ() -> None:
    inside = torch.tensor([[0.0, 100.0], [2.0, 102.0]])
    assert torch.equal(
        likelihood_ratios(inside, inside - 1, torch.tensor([1.0, 101.0]), pooled=True),
        likelihood_ratios(inside, inside - 1, torch.tensor([1.0, 101.0]), pooled=False),
    )


def test_a_model_that_says_nothing_of_a_sample_is_left_out_of_its_fit() -> None:
    inside, outside, x = normal(7, 4, 6, mean=1.0), normal(8, 4, 6), normal(9, 6)
    holes = torch.cat([inside, torch.full((3, 6), math.nan)])
    for pooled in (True, False):
        expected = likelihood_ratios(inside, outside, x, pooled=pooled)
        torch.testing.assert_close(likelihood_ratios(holes, outside, x, pooled=pooled), expected)


def test_shadows_that_agree_to_the_bit_give_a_finite_ratio() -> None:
    got = likelihood_ratios(torch.ones(3, 1), torch.zeros(3, 1), torch.tensor([0.75]))
    assert got.item() == pytest.approx((0.75**2 - 0.25**2) / (2 * VARIANCE_FLOOR))


def test_ratios_refuse_what_has_no_variance_or_does_not_fit() -> None:
    two, x = torch.zeros(2, 3), torch.zeros(3)
    with pytest.raises(InputError, match=r"1 shadow model\(s\) out; at least 2"):
        likelihood_ratios(two, two[:1], x)
    with pytest.raises(InputError, match=r"shapes \[2, 3\] and \[2\]"):
        likelihood_ratios(two, two, x[:2])
    with pytest.raises(InputError, match="not finite"):
        likelihood_ratios(two, two, x / 0)
    with pytest.raises(InputError, match="C >= 2"):
        logit_confidence(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))


@given(st.integers(0, 10**6), st.sampled_from([0.001, 0.01, 0.07, 0.29, 0.5]), st.booleans())
@settings(max_examples=60)
def test_tpr_and_auc_agree_with_sklearn_ties_and_all(seed: int, fpr: float, ties: bool) -> None:
    members, others = normal(2 * seed, 57, mean=0.5), normal(2 * seed + 1, 100 if fpr > 0.001 else 1000)
    if ties:
        members, others = (members * 2).round(), (others * 2).round()
    truth, scores = [1] * len(members) + [0] * len(others), torch.cat([members, others]).numpy()
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert tpr_at_fpr(members, others, fpr).value == pytest.approx(true[false <= fpr].max(), abs=1e-12)
    assert auc(members, others) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_tpr_hand_computed() -> None:
    others = torch.arange(10.0)  # 0..9; at 20 % the two highest may be called members: above 7
    assert tpr_at_fpr(torch.tensor([7.0, 7.5, 9.5]), others, 0.2).value == pytest.approx(2 / 3)
    assert tpr_at_fpr(torch.tensor([7.0, 7.5, 9.5]), others, 0.1).value == pytest.approx(1 / 3)
    assert tpr_at_fpr(torch.ones(3), torch.ones(10), 0.2).value == 0.0


@pytest.mark.parametrize(("fpr", "needed"), [(0.001, 1000), (0.01, 100), (0.1, 10), (0.3, 4)])
def test_too_few_nonmembers_give_a_reason_and_no_number(fpr: float, needed: int) -> None:
    got = tpr_at_fpr(torch.ones(5), torch.zeros(needed - 1), fpr)
    assert got.value is None
    assert f"at least {needed} are needed" in got.reason
    assert tpr_at_fpr(torch.ones(5), torch.zeros(needed), fpr).value == 1.0


def test_scores_refuse_nan_and_nothing() -> None:
    with pytest.raises(InputError, match="NaN"):
        auc(torch.tensor([math.nan]), torch.ones(2))
    with pytest.raises(InputError, match="N >= 1"):
        tpr_at_fpr(torch.ones(0), torch.ones(2), 0.5)
    with pytest.raises(InputError, match="fpr is 1"):
        tpr_at_fpr(torch.ones(2), torch.ones(2), 1)


def overfitted(samples: Samples, seed: int) -> nn.Module:
    """Learn random labels by heart, the whole set at once."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(samples.inputs), samples.labels))
        optimizer.step()
    return model


def test_a_model_trained_on_the_samples_is_detected_and_a_retrained_one_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    everything = Samples(torch.randn(200, 20, generator=draw), torch.randint(3, (200,), generator=draw))
    forget, rest = everything.subset(torch.arange(100)), everything.subset(torch.arange(100, 200))

    def told(samples: Samples, seed: int) -> torch.Tensor:
        return logit_confidence(predict_log(overfitted(samples, seed), forget), forget.labels)

    inside = torch.stack([told(everything, seed) for seed in range(10, 16)])
    outside = torch.stack([told(rest, seed) for seed in range(20, 26)])
    nonmembers = torch.cat([likelihood_ratios(inside, outside, told(rest, seed)) for seed in (0, 1, 2)])
    trained, retrained = (likelihood_ratios(inside, outside, told(s, 7)) for s in (everything, rest))
    assert auc(trained, nonmembers) > 0.9
    assert (tpr_at_fpr(trained, nonmembers, 0.01).value or 0) > 0.3
    assert abs(auc(retrained, nonmembers) - 0.5) < 0.1
