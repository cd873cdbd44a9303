import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedquit.errors import InputError
from fedquit.unlearning import TEACHERS, virtual_teacher

ALL = ["min", "fixed", "entropy", "incompetent", "softmax-shift", "softmax-zero"]
KEEP_MASS = ["flatten", "topk", "logit-ladder", "probability-ladder"]
ALL += KEEP_MASS
TAUS = st.sampled_from([0.5, 1.0, 3.0])


@st.composite
def rows(draw: st.DrawFn, size: float = 20.0, least: int = 2) -> tuple[list[float], int]:
    """Logits of one sample, often tied, and its true class."""
    value = st.one_of(st.floats(-size, size), st.sampled_from([-size, 0.0, 1.0, size]))
    logits = draw(st.lists(value, min_size=least, max_size=12))
    return logits, draw(st.integers(0, len(logits) - 1))


def ask(row: list[float], label: int, variant: str, **options: float) -> list[float]:
    logits = torch.tensor([row], dtype=torch.float64)
    answer: list[float] = virtual_teacher(logits, torch.tensor([label]), variant, **options)[0].tolist()  # type: ignore[arg-type]
    return answer


def log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def soften(row: list[float], tau: float) -> list[float]:
    tempered = [v / tau for v in row]
    return [v - log_sum_exp(tempered) for v in tempered]


def without(row: list[float], label: int) -> list[float]:
    return row[:label] + row[label + 1 :]


def by_rank(row: list[float], label: int) -> list[int]:
    """The other classes, the worst first; of equal ones the higher index first."""
    return sorted((c for c in range(len(row)) if c != label), key=lambda c: (row[c], -c))


def plain_topk(row: list[float], label: int, k: int) -> list[float]:
    ranked = by_rank(row, label)
    rest = ranked[: max(len(ranked) - k, 0)]
    changed = list(row)
    for c in rest:
        changed[c] = log_sum_exp([row[c] for c in rest]) - math.log(len(rest))
    changed[label] = min(row)
    return changed


def plain_logit_ladder(row: list[float], label: int) -> list[float]:
    low, ranked = min(row), by_rank(row, label)
    log_total = log_sum_exp(without(row, label)) - low
    below, above = 0.0, max(log_total, 0.0) + 1.0
    for _ in range(200):
        middle = (below + above) / 2
        if log_sum_exp([middle * r for r in range(len(ranked))]) < log_total:
            below = middle
        else:
            above = middle
    changed = list(row)
    for r, c in enumerate(ranked):
        changed[c] = low + below * r
    changed[label] = low
    return changed


def plain_probability_ladder(row: list[float], label: int) -> list[float]:
    ranked = by_rank(row, label)
    m = len(ranked)
    p_true = 1 / (1 + math.exp(log_sum_exp(without(row, label)) - min(row)))
    delta = max(2 * (1 - (m + 1) * p_true) / (m * (m - 1)), 0.0)
    p = [p_true] * len(row)
    for r, c in enumerate(ranked):
        p[c] = p_true + r * delta
    return p


def test_all_ten_are_there() -> None:
    assert sorted(TEACHERS) == sorted(ALL)


@pytest.mark.parametrize("variant", ALL)
@given(rows(), TAUS)
@settings(max_examples=25)
def test_every_target_is_a_distribution(variant: str, row: tuple[list[float], int], tau: float) -> None:
    log_p = ask(*row, variant, temperature=tau)
    assert math.fsum(math.exp(v) for v in log_p) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("variant", ["min", "fixed", "entropy"])
@given(rows(least=3), TAUS)
@settings(max_examples=40)
def test_the_ratios_of_the_other_classes_are_kept(variant: str, row: tuple[list[float], int], tau: float) -> None:
    logits, label = row
    others = without(ask(logits, label, variant, temperature=tau), label)
    differences = [v - others[0] for v in others]
    expected = [(v - without(logits, label)[0]) / tau for v in without(logits, label)]
    assert differences == pytest.approx(expected, abs=1e-9)


@given(rows())
@settings(max_examples=40)
def test_min_gives_the_true_class_the_probability_of_the_lowest_class(row: tuple[list[float], int]) -> None:
    logits, label = row
    log_p = ask(logits, label, "min")
    assert log_p[label] == min(log_p)
    changed = list(logits)
    changed[label] = min(logits)
    assert log_p == pytest.approx([v - log_sum_exp(changed) for v in changed], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_true_class_already_lowest_changes_nothing_under_min(dtype: torch.dtype) -> None:
    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).to(dtype) * 5
    lowest = logits.argmin(dim=1)
    assert torch.equal(virtual_teacher(logits, lowest), logits.log_softmax(dim=1))
    assert not torch.equal(virtual_teacher(logits, (lowest + 1) % 10), logits.log_softmax(dim=1))


def test_fixed_puts_its_value_in_the_true_class() -> None:
    logits, label = torch.tensor([[5.0, 1.0, 2.0]]), torch.tensor([0])
    for value, given_value in ((0.0, None), (-3.0, -3.0), (0.0, 0.0)):
        expected = torch.tensor([[value, 1.0, 2.0]]).log_softmax(dim=1)
        torch.testing.assert_close(virtual_teacher(logits, label, "fixed", value=given_value), expected)


@given(rows(size=8.0), st.sampled_from([1.0, 2.0]))
@settings(max_examples=40)
def test_entropy_is_the_most_uncertain_of_all_true_class_logits(row: tuple[list[float], int], tau: float) -> None:
    logits, label = row

    def uncertainty(log_p: Tensor) -> Tensor:
        return -(log_p.exp() * log_p).sum(dim=1)

    grid = torch.linspace(-40, 40, 20001, dtype=torch.float64)
    candidates = torch.tensor([logits], dtype=torch.float64).repeat(len(grid), 1)
    candidates[:, label] = grid
    best = uncertainty((candidates / tau).log_softmax(dim=1)).max().item()
    reached = uncertainty(torch.tensor([ask(logits, label, "entropy", temperature=tau)], dtype=torch.float64)).item()
    assert best - 1e-12 <= reached <= best + 1e-5  # no grid point beats it; the grid comes close


def test_softmax_shift_hand_computed() -> None:
    p = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.02, 0.0001, 0.9799]], dtype=torch.float64)
    got = virtual_teacher(p.log(), torch.tensor([0, 0, 0]), "softmax-shift").exp()
    third = 1 / 3
    excess = [(0.6 - third) / 2, (0.1 - third) / 2]
    torch.testing.assert_close(got[0], torch.tensor([third, 0.3 + excess[0], 0.1 + excess[0]], dtype=torch.float64))
    torch.testing.assert_close(got[1], torch.tensor([third, 0.6 + excess[1], 0.3 + excess[1]], dtype=torch.float64))
    # the second class cannot pay its share: it goes to 0 and the third has the rest
    torch.testing.assert_close(got[2], torch.tensor([third, 0.0, 2 * third], dtype=torch.float64))


def test_softmax_zero_hand_computed_and_minus_infinite_only_there() -> None:
    p = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)
    log_p = virtual_teacher(p.log(), torch.tensor([0]), "softmax-zero")
    torch.testing.assert_close(log_p.exp(), torch.tensor([[0.0, 0.6, 0.4]], dtype=torch.float64))
    assert log_p.isinf().tolist() == [[True, False, False]]


def test_probabilities_are_tempered_before_they_are_shifted() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0]], dtype=torch.float64)
    p = (logits / 4).softmax(dim=1)[0]
    got = virtual_teacher(logits, torch.tensor([0]), "softmax-zero", temperature=4.0).exp()[0]
    torch.testing.assert_close(got, torch.stack([p[0] * 0, p[1] + p[0] / 2, p[2] + p[0] / 2]))


@pytest.mark.parametrize("variant", KEEP_MASS)
@given(rows(), st.integers(1, 12))
@settings(max_examples=60)
def test_the_mass_of_the_other_classes_is_kept(variant: str, row: tuple[list[float], int], top_k: int) -> None:
    logits, label = row
    log_p = ask(logits, label, variant, top_k=top_k)
    # p_c / p_y = exp(z'_c) / exp(v) with v = min(z), so log S = logsumexp(log p_c) - log p_y + v
    log_mass = log_sum_exp(without(log_p, label)) - log_p[label] + min(logits)
    assert log_mass == pytest.approx(log_sum_exp(without(logits, label)), abs=1e-6)


@given(rows(least=3), st.integers(1, 12), TAUS)
@settings(max_examples=60)
def test_topk_and_flatten_agree_with_a_plain_loop(row: tuple[list[float], int], top_k: int, tau: float) -> None:
    expected = soften(plain_topk(*row, top_k), tau)
    assert ask(*row, "topk", top_k=top_k, temperature=tau) == pytest.approx(expected, abs=1e-9)
    expected = soften(plain_topk(*row, 0), tau)
    assert ask(*row, "flatten", temperature=tau) == pytest.approx(expected, abs=1e-9)


@given(rows(least=3), TAUS)
@settings(max_examples=60)
def test_the_logit_ladder_agrees_with_bisection_row_by_row(row: tuple[list[float], int], tau: float) -> None:
    expected = soften(plain_logit_ladder(*row), tau)  # built untempered, softened after
    assert ask(*row, "logit-ladder", temperature=tau) == pytest.approx(expected, abs=1e-8)


@given(rows(least=3), TAUS)
@settings(max_examples=60)
def test_the_probability_ladder_agrees_with_a_plain_loop(row: tuple[list[float], int], tau: float) -> None:
    logits, label = row
    expected = plain_probability_ladder([v / tau for v in logits], label)  # built on tempered logits
    p = [math.exp(v) for v in ask(*row, "probability-ladder", temperature=tau)]
    assert p == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("variant", ["logit-ladder", "probability-ladder"])
@given(rows(least=3))
@settings(max_examples=40)
def test_a_ladder_keeps_the_ranks(variant: str, row: tuple[list[float], int]) -> None:
    logits, label = row
    log_p = ask(logits, label, variant)
    climbed = [log_p[c] for c in by_rank(logits, label)]
    assert climbed == sorted(climbed)
    if max(logits) - min(logits) > 1 and len(set(without(logits, label))) > 1:
        assert climbed[0] < climbed[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ALL)
def test_huge_logits_ties_and_two_classes_stay_finite_and_right(variant: str, dtype: torch.dtype) -> None:
    big = 1e4
    cases = [[big, -big], [big, big], [-big, -big], [0.0, 0.0], [big, -big, 0.0], [-big, big, big], [big] * 5]
    for row in cases:
        for label in range(len(row)):
            log_p = virtual_teacher(torch.tensor([row], dtype=dtype), torch.tensor([label]), variant)
            assert log_p.dtype == dtype
            assert not log_p.isnan().any()
            assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-6)
            zero = log_p.isinf()[0].tolist()
            if variant == "softmax-zero":
                assert zero == [c == label for c in range(len(row))]
            elif variant != "softmax-shift":
                assert not any(zero)


def test_huge_logits_give_the_exact_log_probabilities() -> None:
    row = torch.tensor([[1e4, -1e4, 0.0]])
    lowered = virtual_teacher(row, torch.tensor([0]), "min")
    assert lowered.tolist() == [[-1e4, -1e4, 0.0]]
    ladder = virtual_teacher(row, torch.tensor([1]), "logit-ladder")  # S = e^1e4, so the rungs are -1e4 and 1e4
    torch.testing.assert_close(ladder, torch.tensor([[0.0, -2e4, -2e4]]))


@pytest.mark.parametrize("variant", KEEP_MASS)
def test_with_two_classes_the_other_keeps_its_logit(variant: str) -> None:
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    got = virtual_teacher(logits, torch.tensor([0, 0]), variant)
    torch.testing.assert_close(got, virtual_teacher(logits, torch.tensor([0, 0]), "min"))


@pytest.mark.parametrize("variant", ALL)
def test_each_row_depends_on_itself_alone(variant: str) -> None:
    logits = torch.randn(16, 7, generator=torch.Generator().manual_seed(1)) * 4
    labels = torch.arange(16) % 7
    together = virtual_teacher(logits, labels, variant, top_k=2)
    alone = [virtual_teacher(logits[i : i + 1], labels[i : i + 1], variant, top_k=2) for i in range(16)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert virtual_teacher(logits[:0], labels[:0], variant).shape == (0, 7)


def test_no_gradient_flows_into_the_teacher() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    assert not virtual_teacher(logits, torch.tensor([0, 1])).requires_grad


GOOD = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("logits", "labels", "options", "message"),
    [
        (GOOD, [0, 1], {"variant": "mn"}, "unknown teacher 'mn'.*known: min, fixed"),
        (GOOD, [0, 3], {}, r"labels reach 0\.\.3; valid: 0\.\.2"),
        (GOOD, [-1, 0], {}, r"labels reach -1\.\.0; valid: 0\.\.2"),
        (GOOD, [0], {}, r"labels are .*\[1\]; they must be integers \[2\]"),
        (GOOD, [0.0, 1.0], {}, "must be integers"),
        (GOOD[0], [0], {}, r"shape \[B, C\]"),
        (GOOD.long(), [0, 1], {}, "must be floats"),
        (GOOD[:, :1], [0, 0], {}, "at least 2"),
        (GOOD + math.nan, [0, 1], {}, "NaN or infinite"),
        (GOOD + math.inf, [0, 1], {}, "NaN or infinite"),
        (GOOD + 1, [0, 1], {"temperature": 1e-40}, "NaN or infinite"),
        (GOOD, [0, 1], {"temperature": 0.0}, "temperature is 0.0; .* above 0"),
        (GOOD, [0, 1], {"temperature": math.nan}, "temperature is nan"),
        (GOOD, [0, 1], {"value": 1.0}, "only 'fixed'"),
        (GOOD, [0, 1], {"variant": "fixed", "value": math.inf}, "value is inf"),
        (GOOD, [0, 1], {"top_k": 0}, "top_k is 0"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(
    logits: Tensor, labels: list[float], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        virtual_teacher(logits, torch.tensor(labels), **options)  # type: ignore[arg-type]
