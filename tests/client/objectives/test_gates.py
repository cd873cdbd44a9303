"""Gates: which samples a teacher is imitated on."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquit.client.objectives import (
    Adaptive,
    Speculative,
    make_objective,
)
from fedquit.client.objectives.base.gates import agreement_weights, learnable_weights
from fedquit.client.objectives.base.imitation import mean_over
from fedquit.client.objectives.kd import soft_kl
from tests.client.objectives.local_rounds import CLASSES, drawn, local_round, net, pairs, same, state, trained


def test_a_gate_that_lets_all_through_changes_nothing() -> None:
    for name in ["kd", "fedntd", "moon"]:
        now = local_round(state=state(net(2)))
        plain = trained(name, now)
        for gate in (Speculative(top_k=CLASSES), Speculative(top_k=1, beta=1.0), Adaptive(share=1.0)):
            gated = trained(name, now, gate=gate)
            assert all(torch.allclose(gated[0][key], plain[0][key], atol=1e-6) for key in plain[0])


def test_samples_that_a_gate_leaves_out_have_no_gradient_in_the_term() -> None:
    student, teacher, _ = drawn(3, 2.0, 4, 12)
    student.requires_grad_()
    weights = agreement_weights(student.detach(), teacher, 2, 0.0)
    assert 0 < weights.sum() < 12
    (gradient,) = torch.autograd.grad(mean_over(soft_kl(student, teacher), weights), student)
    assert not gradient[weights == 0].any()
    (alone,) = torch.autograd.grad(soft_kl(student, teacher)[weights == 1].mean(), student)
    torch.testing.assert_close(gradient, alone)


@settings(max_examples=40)
@given(pairs, st.integers(1, 8))
def test_speculative_is_one_where_the_students_first_is_among_the_teachers(
    case: tuple[int, float, int, int], k: int
) -> None:
    student, teacher, _ = drawn(*case)
    for row, weight in enumerate(agreement_weights(student, teacher, k, 0.25).tolist()):
        among = sorted(range(case[2]), key=lambda c: -float(teacher[row, c]))[:k]
        assert weight == (1.0 if int(student[row].argmax()) in among else 0.25)


@settings(max_examples=40)
@given(pairs, st.floats(0.05, 1.0))
def test_adaptive_keeps_the_largest_gains(case: tuple[int, float, int, int], share: float) -> None:
    student, teacher, _ = drawn(*case)
    reference = teacher.roll(1, dims=1)
    weights = learnable_weights(student, teacher, reference, share)
    gain = soft_kl(student, teacher) - soft_kl(reference, teacher)
    assert int(weights.sum()) == max(1, round(share * len(gain)))
    assert gain[weights == 1].min() >= (gain[weights == 0].max() if (weights == 0).any() else -math.inf)


def test_where_a_gate_lets_nobody_through_cross_entropy_is_left() -> None:
    student, teacher = torch.eye(3)[:2].requires_grad_(), torch.eye(3)[1:]
    weights = Speculative(top_k=1)(student, teacher)
    term = mean_over(soft_kl(student, teacher), weights)
    (gradient,) = torch.autograd.grad(term, student)
    assert not weights.any()
    assert term == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_gate_that_compares_has_the_device_keep_its_previous_model() -> None:
    assert make_objective("kd").needs().keeps == "nothing"
    assert make_objective("kd", gate=Adaptive()).needs().keeps == "previous model"
    done = trained("kd", gate=Adaptive())[1]
    assert done.keep is not None
    with_other = trained("kd", local_round(state=state(net(3))), gate=Adaptive())[0]
    assert not same(with_other, trained("kd", gate=Adaptive())[0])
