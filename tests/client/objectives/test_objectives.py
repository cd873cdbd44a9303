"""Objectives: the identities between them, gradients by hand, teachers that never change, and the plug-in interface."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.objectives import (
    FedGKD,
    make_objective,
)
from fedquit.client.objectives.base.frozen_teacher import Teacher, logits_and_features, logits_of
from fedquit.client.objectives.base.gates import agreement_weights, learnable_weights
from fedquit.client.objectives.fedgkd import mean_of
from fedquit.client.objectives.fedlmd import label_masked_kl, majority
from fedquit.client.objectives.fedntd import not_true_kl
from fedquit.client.objectives.fedprox import proximal
from fedquit.client.objectives.kd import soft_kl
from fedquit.client.objectives.moon import contrast
from fedquit.client.training.sgd import Batch, deterministic
from fedquit.errors import InputError
from fedquit.unlearning.samples import shuffled_batches
from tests.client.objectives.local_rounds import (
    CLASSES,
    ROUND,
    drawn,
    local_round,
    net,
    pairs,
    same,
    samples,
    state,
    trained,
)

IMITATING = ["fedgkd", "fedlmd", "fedntd", "kd"]


@settings(max_examples=8)
@given(
    size=st.integers(2, 25),
    batch_size=st.integers(2, 30),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 0.05]),
)
def test_fedavg_is_the_plain_loop_bit_for_bit(size: int, batch_size: int, momentum: float, decay: float) -> None:
    ours, theirs, data = net(), net(), samples(size)
    now = local_round(batch_size=batch_size, momentum=momentum, weight_decay=decay)
    with deterministic(7):
        done = make_objective("fedavg").train(ours, data, now)
    with deterministic(7):
        generator = torch.Generator().manual_seed(now.seed)
        optimizer = torch.optim.SGD(theirs.parameters(), lr=now.lr, momentum=momentum, weight_decay=decay)
        theirs.train()
        for _ in range(now.epochs):
            total = torch.zeros((), dtype=torch.float64)
            for index in shuffled_batches(len(data), batch_size, generator):
                inputs, labels = data.batch(index)
                optimizer.zero_grad(set_to_none=True)
                loss = F.cross_entropy(theirs(inputs), labels)
                torch.autograd.backward(loss)
                optimizer.step()
                total += loss.detach() * len(index)
    assert same(state(ours), state(theirs))
    assert done.loss == float(total) / len(data)
    assert same(done.send, state(theirs))
    assert done.keep is None


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("fedprox", {"mu": 0.0}),
        ("kd", {"weight": 0.0}),
        ("fedntd", {"weight": 0.0}),
        ("fedlmd", {"weight": 0}),
        ("fedgkd", {}),  # nothing came beside the model: a phase's first round
        ("moon", {"mu": 0.0}),
    ],
)
def test_without_its_term_an_objective_is_fedavg_bit_for_bit(name: str, own: dict[str, Any]) -> None:
    plain, done = trained("fedavg")
    ours, other = trained(name, **own)
    assert same(ours, plain)
    assert other.loss == done.loss


def test_moons_first_round_has_a_loss_of_ln_2_and_no_gradient() -> None:
    plain, done = trained("fedavg")
    ours, first = trained("moon")
    assert same(ours, plain)
    assert first.loss == pytest.approx(done.loss + math.log(2), rel=1e-6)
    h = torch.randn(3, 6, requires_grad=True)
    near = torch.randn(3, 6)
    each = contrast(h, near, near)
    (gradient,) = torch.autograd.grad(each.sum(), h)
    assert each.tolist() == pytest.approx([math.log(2)] * 3)
    assert gradient.abs().max() < 1e-7, "the two parts cancel but for rounding"


@settings(max_examples=60)
@given(pairs)
def test_not_true_is_the_non_target_part_of_decoupled_distillation(case: tuple[int, float, int, int]) -> None:
    """KL(p||q) = KL of the two-way split (true, not true) + (1 - p_true) times that part (arXiv 2203.08679, eq. 7)."""
    student, teacher, labels = drawn(*case)
    rows = torch.arange(len(labels))
    log_p, log_q = torch.log_softmax(teacher, 1), torch.log_softmax(student, 1)
    others = [F.one_hot(labels, case[2]).bool()]
    rest_p, rest_q = (x.masked_fill(others[0], -math.inf).logsumexp(1) for x in (log_p, log_q))
    true_p, true_q = log_p[rows, labels], log_q[rows, labels]
    target = true_p.exp() * (true_p - true_q) + rest_p.exp() * (rest_p - rest_q)
    whole = target + rest_p.exp() * not_true_kl(student, teacher, labels)
    torch.testing.assert_close(whole, soft_kl(student, teacher), rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(pairs, st.sampled_from([0.5, 1.0, 4.0]))
def test_not_true_distillation_is_label_masking_without_majority(case: tuple[int, float, int, int], tau: float) -> None:
    student, teacher, labels = drawn(*case)
    ours = not_true_kl(student, teacher, labels, tau)
    for row, label in enumerate(labels.tolist()):
        kept = [c for c in range(case[2]) if c != label]
        p, q = (torch.softmax(z[row, kept] / tau, 0) for z in (teacher, student))
        slow = sum((a * (a.log() - b.log()) for a, b in zip(p, q, strict=True) if a > 0), torch.tensor(0.0))
        assert float(ours[row]) == pytest.approx(float(slow), rel=1e-6, abs=1e-9)
    nobody = torch.zeros(case[2], dtype=torch.bool)
    assert torch.equal(label_masked_kl(student, teacher, labels, nobody, tau), ours)


def test_label_masking_silences_the_teacher_on_the_majority_alone() -> None:
    student, teacher, labels = drawn(1, 1.0, 5, 3)
    plenty = torch.tensor([True, False, True, False, False])
    ours = label_masked_kl(student, teacher, labels, plenty)
    for row, label in enumerate(labels.tolist()):
        left = [c for c in range(5) if c != label]
        heard = [c for c in left if not plenty[c]]
        p = dict(zip(heard, torch.softmax(teacher[row, heard], 0).tolist(), strict=True))
        q = dict(zip(left, torch.softmax(student[row, left], 0).tolist(), strict=True))
        assert float(ours[row]) == pytest.approx(sum(p[c] * math.log(p[c] / q[c]) for c in heard))


def test_an_empty_distillation_mask_gives_no_term_and_no_gradient() -> None:
    student, teacher, labels = drawn(2, 1.0, 3, 4)
    student.requires_grad_()
    each = label_masked_kl(student, teacher, labels, torch.ones(3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(each.sum(), student)
    assert not each.any()
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_majority_class_has_more_samples_than_the_mean_over_all_classes() -> None:
    assert majority(torch.tensor([0, 0, 1, 1]), 2).tolist() == [False, False]
    assert majority(torch.tensor([0, 0, 1]), 4).tolist() == [True, True, False, False]


@pytest.mark.parametrize("name", IMITATING)
def test_mean_is_batchmean_divided_by_the_classes_and_tau_squared_a_factor(name: str) -> None:
    data, now = samples(), local_round(extra=state(net(2)) if name == "fedgkd" else None)
    batch = Batch(torch.arange(len(data)), *data.batch(slice(None)))
    student = net(1).eval()

    def term(**own: Any) -> float:
        value = make_objective(name, weight=1, temperature=2.0, **own).loss(net(), data, now)(student, batch)
        ce = 0.0 if name == "kd" else float(F.cross_entropy(student(batch.inputs), batch.labels))
        return float(value) - ce

    whole = term(tau_squared=False)
    assert whole > 0.005
    assert term(tau_squared=False, reduction="mean") == pytest.approx(whole / CLASSES, abs=1e-6)
    assert term(tau_squared=True) == pytest.approx(whole * 4, abs=1e-6)


@settings(max_examples=40)
@given(pairs, st.sampled_from([0.5, 1.0, 3.0]))
def test_the_gradient_of_kl_is_student_minus_teacher_over_tau(case: tuple[int, float, int, int], tau: float) -> None:
    student, teacher, _ = drawn(*case)
    student.requires_grad_()
    teacher.requires_grad_()
    each = soft_kl(student, teacher, tau)
    mine, none = torch.autograd.grad(each.sum(), [student, teacher], allow_unused=True)
    torch.testing.assert_close(
        mine,
        (torch.softmax(student, 1) if tau == 1 else torch.softmax(student / tau, 1))
        .sub(torch.softmax(teacher / tau, 1))
        .div(tau)
        .detach(),
        rtol=1e-9,
        atol=1e-12,
    )
    assert none is None, "no gradient flows into the teacher"
    oracle = F.kl_div(torch.log_softmax(student / tau, 1), torch.softmax(teacher / tau, 1), reduction="none").sum(1)
    torch.testing.assert_close(each, oracle, rtol=1e-9, atol=1e-9)


def test_the_gradient_of_the_true_class_is_nothing_in_not_true_distillation() -> None:
    student, teacher, labels = drawn(4, 2.0, 5, 3)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(not_true_kl(student, teacher, labels).sum(), student)
    assert not gradient[torch.arange(3), labels].any()
    assert gradient.any()


def test_the_pull_of_fedprox_is_mu_times_the_way_back() -> None:
    w, anchor = torch.randn(4, requires_grad=True), torch.randn(4)
    (gradient,) = torch.autograd.grad(proximal([w], [anchor], mu=0.3), w)
    torch.testing.assert_close(gradient, 0.3 * (w.detach() - anchor))
    gentle, hard = trained("fedprox", mu=0.1)[0], trained("fedprox", mu=5.0)[0]
    start = state(net())
    away = [sum(float((s[n] - start[n]).square().sum()) for n in s if "weight" in n) for s in (gentle, hard)]
    assert away[1] < away[0]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 2.0]))
def test_the_contrast_is_a_cross_entropy_of_two_cosines(seed: int, tau: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    h, near, far = (torch.randn(3, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    h.requires_grad_()
    cosines = [(h * x).sum(1) / (h.norm(dim=1) * x.norm(dim=1)) for x in (near, far)]
    oracle = F.cross_entropy(torch.stack(cosines, 1) / tau, torch.zeros(3, dtype=torch.long), reduction="none")
    ours = contrast(h, near, far, tau)
    torch.testing.assert_close(ours, oracle)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), h)[0] for x in (ours, oracle)))


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "kd": lambda z, g, y: soft_kl(z, g),
    "fedntd": not_true_kl,
    "fedlmd": lambda z, g, y: label_masked_kl(z, g, y, torch.tensor([True, False, False, False])),
    "moon": lambda z, g, y: contrast(z, g, -g),
    "speculative": lambda z, g, y: soft_kl(z, g) * agreement_weights(z.detach(), g, 2, 0.0),
    "adaptive": lambda z, g, y: soft_kl(z, g) * learnable_weights(z.detach(), g, -g, 0.4),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4])
def test_losses_and_gradients_are_finite_at_logits_of_ten_thousand(name: str, size: float) -> None:
    signs = torch.tensor([[1.0, -1, 0.5, -0.5], [-1, 1, 1, -1], [0, 0, 0, 1]])
    student = (signs * size).requires_grad_()
    each = LOSSES[name](student, signs.flip(1) * size, torch.tensor([0, 1, 3]))
    (gradient,) = torch.autograd.grad(each.sum(), student)
    assert each.isfinite().all()
    assert (each >= -1e-6).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("how", ["eval", "train"])
@pytest.mark.parametrize("view", [logits_of, logits_and_features])
def test_a_teacher_is_bit_for_bit_what_it_was_buffers_too(how: str, view: Any) -> None:
    model, data = net(), samples()
    model(data.inputs)  # so that its running statistics are not the fresh ones
    before, modes = state(model), [module.training for module in model.modules()]
    teacher = Teacher(model, data, how, view)
    for index in torch.split(torch.arange(len(data)), 7):
        said = teacher(Batch(index, *data.batch(index)))
        assert not any(part.requires_grad for part in said)
    assert same(state(model), before)
    assert [module.training for module in model.modules()] == modes
    if teacher._copy is not None:
        assert same(state(teacher._copy), before)


def test_teacher_outputs_computed_once_equal_those_of_a_frozen_copy() -> None:
    model, data = net(), samples()
    frozen, teacher = copy.deepcopy(model).eval(), Teacher(model, data)
    make_objective("fedavg").train(model, data, ROUND)  # the student moves on
    for index in (torch.tensor([3, 0, 11]), torch.tensor([19])):
        with torch.no_grad():
            torch.testing.assert_close(teacher(Batch(index, *data.batch(index)))[0], frozen(data.inputs[index]))


def test_in_training_mode_a_teacher_normalises_by_the_batch() -> None:
    model, data = net(), samples()
    model[3] = nn.Identity()
    index = torch.arange(6)
    by_hand = copy.deepcopy(model).train()(data.inputs[index])
    torch.testing.assert_close(Teacher(model, data, "train")(Batch(index, *data.batch(index)))[0], by_hand)


@pytest.mark.parametrize("how", ["eval", "train"])
@pytest.mark.parametrize("name", ["fedgkd", "kd", "fedntd", "fedlmd", "moon"])
def test_a_round_changes_neither_the_received_model_nor_the_saved_state(name: str, how: str) -> None:
    extra, kept = state(net(1)), state(net(2))
    before = copy.deepcopy((extra, kept))
    trained(name, local_round(extra=extra, state=kept), teacher_mode=how)
    assert same(extra, before[0])
    assert same(kept, before[1])


def test_features_are_what_the_last_linear_layer_takes() -> None:
    model = net().eval()
    logits, features = logits_and_features(model, samples().inputs)
    assert torch.equal(logits, model(samples().inputs))
    torch.testing.assert_close(model[4](features), logits)
    assert not model[4]._forward_pre_hooks


def test_moon_refuses_a_model_without_a_linear_layer_before_anything_runs() -> None:
    with pytest.raises(InputError, match="no linear layer"):
        make_objective("moon").check(nn.Conv2d(1, 1, 1))


def test_moon_keeps_its_model_and_moves_away_from_it() -> None:
    first, done = trained("moon")
    assert done.keep is not None
    assert same(done.keep, first)
    assert not same(trained("moon", local_round(state=state(net(4))))[0], first)


def test_the_server_sends_the_mean_of_the_last_models_of_the_phase() -> None:
    gkd, kept, sent = FedGKD(models=3), None, []
    models = [{"w": torch.tensor([float(number), 2.0 * number])} for number in range(6)]
    for model in models:  # model 0 is the untrained one
        extra, kept = gkd.broadcast(model, kept)
        assert kept is not None
        assert len(kept) <= 2
        sent.append(extra)
    assert sent[0] is None
    assert sent[1] is not None
    assert "w" not in sent[1], "the mean of one model travels anyway"
    expected = {2: [1, 2], 3: [1, 2, 3], 4: [2, 3, 4], 5: [3, 4, 5]}
    for number, those in expected.items():
        extra = sent[number]
        assert extra is not None
        assert same(extra, mean_of([models[i] for i in those]))


def test_fedgkd_of_one_model_is_distillation_from_the_global_one() -> None:
    extra, _ = FedGKD(models=1).broadcast(state(net()), {})
    assert extra is not None
    ours = trained("fedgkd", local_round(extra=extra), weight=0.5)
    theirs = trained("fedgkd", local_round(extra=state(net())), weight=0.5)
    assert same(ours[0], theirs[0])
    assert not same(ours[0], trained("fedavg")[0])


@pytest.mark.parametrize("how", ["eval", "train"])
@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedgkd", "kd", "fedntd", "fedlmd", "moon"])
def test_a_device_with_one_sample_trains_by_every_objective(name: str, how: str) -> None:
    own = {} if name in ("fedavg", "fedprox") else {"teacher_mode": how}
    model, start, one = net(), net(), samples(1)
    with deterministic(7):
        make_objective(name, **own).train(model, one, local_round(extra=state(net(1)), state=state(net(2))))
    assert any(not torch.equal(*pair) for pair in zip(model.parameters(), start.parameters(), strict=True))
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
