import math

import pytest
import torch

from fedquit.errors import InputError
from fedquit.unlearning import virtual_teacher
from fedquit.unlearning.distillation.distances import DISTANCES, distance


def draw(rows: int = 8, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=source, dtype=torch.float64) * 3
    return logits, torch.randint(classes, (rows,), generator=source)


@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("name", ["kl", "ce"])
def test_the_first_step_gradient_is_the_difference_of_the_distributions(name: str, tau: float) -> None:
    logits, labels = draw()
    target = virtual_teacher(logits, labels, temperature=tau)
    student = logits.clone().requires_grad_()
    distance(name, target, student, tau, tau_squared=True).backward()  # type: ignore[no-untyped-call]
    expected = tau * ((logits / tau).softmax(dim=1) - target.exp()) / len(logits)
    torch.testing.assert_close(student.grad, expected)


def test_kl_and_ce_agree_with_torch() -> None:
    logits, labels = draw()
    target, student = virtual_teacher(logits, labels), draw(seed=1)[0]
    kl = torch.nn.functional.kl_div(student.log_softmax(1), target, reduction="batchmean", log_target=True)
    torch.testing.assert_close(distance("kl", target, student, 1.0), kl)
    ce = torch.nn.functional.cross_entropy(student, target.exp())
    torch.testing.assert_close(distance("ce", target, student, 1.0), ce)


def test_mse_and_cosine_hand_computed() -> None:
    target = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log()
    student = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    assert distance("mse", target, student, 1.0).item() == pytest.approx((0.25 + 0.0) / 2)
    assert distance("cosine", target, student, 1.0).item() == pytest.approx((1 - math.sqrt(0.5)) / 2)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_distance_falls_when_the_student_moves_to_the_target(name: str) -> None:
    logits, labels = draw()
    target = virtual_teacher(logits, labels)
    far = distance(name, target, logits, 1.0)
    near = distance(name, target, (logits + target) / 2, 1.0)
    same = distance(name, target, target, 1.0)
    assert same < near < far
    if name != "ce":  # its least value is the target's entropy
        assert same.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("clip", [None, 1e-7])
@pytest.mark.parametrize("name", DISTANCES)
def test_a_class_of_probability_zero_gives_no_nan(name: str, clip: float | None) -> None:
    logits, labels = draw()
    target = virtual_teacher(logits, labels, "softmax-zero")
    assert target.isinf().any()
    student = logits.clone().requires_grad_()
    loss = distance(name, target, student, 1.0, clip=clip if name == "kl" else None)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


def test_zero_times_log_zero_is_zero() -> None:
    target = torch.tensor([[0.0, 0.25, 0.75]]).log()
    student = torch.tensor([[0.5, 0.25, 0.25]]).log()
    assert distance("kl", target, student, 1.0).item() == pytest.approx(0.75 * math.log(3))


def test_kl_is_exact_where_probabilities_underflow() -> None:
    student = torch.tensor([[2000.0, 0.0]], requires_grad=True)
    loss = distance("kl", torch.tensor([[0.5, 0.5]]).log(), student, 1.0)
    assert loss.item() == pytest.approx(1000 - math.log(2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.tolist() == [[0.5, -0.5]]


def test_tau_squared_multiplies_by_the_square_of_the_temperature() -> None:
    logits, labels = draw()
    target = virtual_teacher(logits, labels, temperature=3.0)
    plain = distance("kl", target, logits, 3.0)
    torch.testing.assert_close(distance("kl", target, logits, 3.0, tau_squared=True), 9 * plain)


def test_clip_raises_both_distributions_as_the_paper_code_does() -> None:
    target, student = draw(seed=2)[0] * 5, draw(seed=3)[0] * 5
    p, q = target.softmax(1).clamp(1e-3, 1), student.softmax(1).clamp(1e-3, 1)
    expected = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distance("kl", target.log_softmax(1), student, 1.0, clip=1e-3), expected)


def test_no_gradient_flows_through_a_clipped_student_probability() -> None:
    """The cost that the paper's clip has: a sample saturated by 25 logits is not forgotten."""
    logits, label = torch.tensor([[25.0, 0.0, -1.0]]), torch.tensor([0])
    target = virtual_teacher(logits, label)
    gradients = []
    for clip in (1e-7, None):
        student = logits.clone().requires_grad_()
        distance("kl", target, student, 1.0, clip=clip).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        gradients.append(student.grad.abs().max().item())
    assert gradients[0] < 1e-9
    assert gradients[1] > 0.1


def test_only_the_clipped_entries_lose_their_gradient() -> None:
    log_student = torch.tensor([[0.9, 0.099, 0.001]]).log().requires_grad_()
    target = torch.tensor([[0.2, 0.3, 0.5]]).log()
    DISTANCES["kl"](target, log_student, 0.01).backward()  # type: ignore[call-arg, no-untyped-call]
    assert log_student.grad is not None
    torch.testing.assert_close(log_student.grad, torch.tensor([[-0.2, -0.3, 0.0]]))


@pytest.mark.parametrize(
    ("name", "shape", "temperature", "clip", "message"),
    [
        ("kll", (1, 2), 1.0, None, "unknown loss 'kll'.*known: kl, ce, mse, cosine"),
        ("kl", (1, 3), 1.0, None, "shapes"),
        ("kl", (0, 2), 1.0, None, "shapes"),
        ("kl", (1, 2), 0.0, None, "temperature is 0.0"),
        ("kl", (1, 2), 1.0, 1.0, "above 0 and below 1"),
        ("mse", (1, 2), 1.0, 1e-7, "only 'kl'"),
    ],
)
def test_bad_input_is_refused(
    name: str, shape: tuple[int, int], temperature: float, clip: float | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        distance(name, torch.zeros(1, 2), torch.zeros(shape), temperature, clip=clip)
