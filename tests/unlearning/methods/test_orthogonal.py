import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from fedquit.unlearning.methods.orthogonal import orthonormal, recovery_step, steepest, unlearning_loss


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 2))
def test_the_direction_is_orthogonal_to_every_other_and_keeps_its_length(seed: int, count: int, copies: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(count, 20, generator=draw, dtype=torch.float64)
    others = torch.cat([matrix, 3 * matrix[:copies]])  # linearly dependent ones must not matter
    gradient = torch.randn(20, generator=draw, dtype=torch.float64)
    direction = steepest(gradient, others)
    assert (others @ direction).abs().max() < 1e-9
    assert direction.norm().item() == pytest.approx(gradient.norm().item())
    oracle = gradient - torch.linalg.pinv(others) @ (others @ gradient)  # the paper's projection, by pseudo-inverse
    torch.testing.assert_close(direction, oracle * (gradient.norm() / oracle.norm()))


def test_a_gradient_inside_the_span_of_the_others_moves_nothing() -> None:
    others = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])]
    assert torch.equal(steepest(torch.tensor([2.0, 3.0]), others), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(steepest(torch.zeros(2), []), torch.zeros(2, dtype=torch.float64))
    assert orthonormal([torch.zeros(3)]) == []


def test_the_loss_is_that_of_the_paper_and_exact_at_its_ends() -> None:
    logits, labels = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 4
    p = logits.softmax(dim=1).gather(1, labels[:, None])
    torch.testing.assert_close(unlearning_loss(logits, labels), -(1 - p / 2).log().mean())
    for gap, expected in ((1e4, math.log(2)), (-1e4, 0.0)):
        row = torch.tensor([[gap, 0.0]], requires_grad=True)
        loss = unlearning_loss(row, torch.tensor([0]))
        torch.autograd.backward(loss)
        assert loss.item() == pytest.approx(expected, abs=1e-7)
        assert row.grad is not None
        assert row.grad.isfinite().all()


def test_a_sure_sample_still_has_the_right_gradient() -> None:
    row = torch.tensor([[20.0, 0.0]], requires_grad=True)
    torch.autograd.backward(unlearning_loss(row, torch.tensor([0])))
    p, q = 1 / (1 + math.exp(-20)), math.exp(-20) / (1 + math.exp(-20))
    assert row.grad is not None
    assert row.grad[0, 0].item() == pytest.approx(p * q / (2 - p), rel=1e-4)


def test_a_recovery_update_does_not_lead_back() -> None:
    draw = torch.Generator().manual_seed(0)
    update, current, anchor = (
        {"w": torch.randn(3, 4, generator=draw), "b": torch.randn(3, generator=draw)} for _ in "abc"
    )
    step = recovery_step(update, current, anchor)
    along = sum(float((step[n].double() * (current[n] - anchor[n]).double()).sum()) for n in update)
    assert along == pytest.approx(0, abs=1e-5)
    assert sum(float(v.square().sum()) for v in step.values()) == pytest.approx(
        sum(float(v.square().sum()) for v in update.values()), rel=1e-5
    )
    assert {n: v.shape for n, v in step.items()} == {n: v.shape for n, v in update.items()}
    unmoved = recovery_step(update, anchor, anchor)
    assert all(torch.equal(unmoved[n], update[n]) for n in update)
    assert F.cosine_similarity(step["w"].flatten(), update["w"].flatten(), dim=0) > 0


@pytest.mark.parametrize("seed", range(5))
def test_no_other_direction_that_spares_the_others_descends_faster(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    gradient, *others = torch.randn(4, 8, generator=draw, dtype=torch.float64)
    best = steepest(gradient, others)
    free = torch.linalg.svd(torch.stack(others))[2][3:]  # spans what is orthogonal to the others, found another way
    feasible = torch.randn(2000, 5, generator=draw, dtype=torch.float64) @ free
    feasible *= gradient.norm() / feasible.norm(dim=1, keepdim=True)
    assert (feasible @ gradient).max() <= best @ gradient + 1e-9
    assert best @ gradient == pytest.approx(float(gradient.norm() * (free @ gradient).norm()))
