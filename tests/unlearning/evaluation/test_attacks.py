import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedquit.errors import InputError
from fedquit.unlearning import Samples
from fedquit.unlearning.evaluation.attacks import best_threshold, modified_entropy
from fedquit.unlearning.evaluation.backdoor import plant, stamp
from fedquit.unlearning.evaluation.measures import attack_success_rate, svc_attack, threshold_attacks, yeom

Pair = tuple[torch.Tensor, torch.Tensor]


def plain_measure(name: str, p: Sequence[float], y: int) -> float:
    if name == "confidence":
        return p[y]
    if name == "entropy":
        return sum(v * math.log(v) for v in p if v > 0)
    right = (1 - p[y]) * math.log(p[y])
    return right + sum(v * math.log(1 - v) for c, v in enumerate(p) if c != y)


def plain_threshold(members: list[float], others: list[float]) -> float:
    def score(t: float) -> int:
        caught = sum(v >= t for v in members)
        return caught * len(others) + sum(v < t for v in others) * len(members)

    return max(sorted(members + others), key=lambda t: (score(t), t))


def plain_attack(name: str, sets: list[Pair]) -> dict[str, float]:
    """Song & Mittal's attack as one would write it on paper: loops, one sample and one class at a time."""
    rows = [[(int(y), p.tolist()) for p, y in zip(*pair, strict=True)] for pair in sets]
    if name == "correctness":
        called = [[p.index(max(p)) == y for y, p in rows[i]] for i in (2, 3)]
    else:
        values = [[(y, plain_measure(name, p, y)) for y, p in part] for part in rows]
        limits = {}
        for c in range(sets[0][0].shape[1]):
            inside, outside = ([v for y, v in values[i] if y == c] for i in (0, 1))
            if not inside or not outside:
                inside, outside = ([v for _, v in values[i]] for i in (0, 1))
            limits[c] = plain_threshold(inside, outside)
        called = [[v >= limits[y] for y, v in values[i]] for i in (2, 3)]
    member, nonmember = sum(called[0]) / len(called[0]), 1 - sum(called[1]) / len(called[1])
    return {"member_rate": member, "nonmember_rate": nonmember, "accuracy": (member + nonmember) / 2}


def draw(seed: int, rows: int, sharpness: float, classes: int = 3) -> Pair:
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=source)
    logits = torch.randn(rows, classes, generator=source).double()
    logits[torch.arange(rows), labels] += sharpness
    return logits.softmax(dim=1), labels


@given(st.integers(0, 10**6), st.sampled_from([2, 7, 30]))
@settings(max_examples=25)
def test_the_attacks_agree_with_a_brute_force_one(seed: int, rows: int) -> None:
    sets = [draw(4 * seed + i, rows + i, sharpness) for i, sharpness in enumerate((2.0, 0.5, 2.0, 0.5))]
    got = threshold_attacks(*sets)
    assert list(got) == ["correctness", "confidence", "entropy", "modified_entropy"]
    for name, rates in got.items():
        assert rates == pytest.approx(plain_attack(name, sets), abs=1e-12)


def test_rates_hand_computed() -> None:
    def pair(*confidences: float) -> Pair:
        return torch.tensor([[c, 1 - c] for c in confidences]), torch.zeros(len(confidences), dtype=torch.int64)

    # shadow: members .9 .8 .6, non-members .7 .4 .3: from .8 on 2/3 + 3/3, from .6 on 3/3 + 2/3; the larger wins
    got = threshold_attacks(pair(0.9, 0.8, 0.6), pair(0.7, 0.4, 0.3), pair(0.85, 0.75, 0.2, 0.95), pair(0.8, 0.1))
    assert got["confidence"] == {"member_rate": 0.5, "nonmember_rate": 0.5, "accuracy": 0.5}
    assert got["correctness"] == {"member_rate": 0.75, "nonmember_rate": 0.5, "accuracy": 0.625}


def test_each_class_has_its_own_threshold() -> None:
    y = torch.tensor([0, 1])
    members = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    others = torch.tensor([[0.5, 0.5], [0.8, 0.2]])
    got = threshold_attacks((members, y), (others, y), (members, y), (others, y))
    assert got["confidence"]["accuracy"] == 1.0  # one threshold for both classes would reach 0.75


def test_a_class_missing_from_a_shadow_set_uses_the_threshold_over_all() -> None:
    zero = (torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 0]))
    both = (torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.3, 0.7]]), torch.tensor([0, 1, 1]))
    target = (torch.tensor([[0.2, 0.8], [0.35, 0.65]]), torch.tensor([1, 1]))
    # no non-member of class 1: members .9 .9 .7 against .9 .6, so from .7 on (3/3 + 1/2)
    assert threshold_attacks(both, zero, target, target)["confidence"]["member_rate"] == 0.5
    # no member of class 1: members .9 .6 against .9 .9 .7, so from .6 on (2/2 + 0/3): nothing is better
    assert threshold_attacks(zero, both, target, target)["confidence"]["member_rate"] == 1.0


def test_modified_entropy_hand_computed() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]], dtype=torch.float64)
    got = modified_entropy(p, torch.tensor([0, 2]))
    first = -0.3 * math.log(0.7) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9)
    second = -0.9 * math.log(0.1) - 0.7 * math.log(0.3) - 0.2 * math.log(0.8)
    assert got.tolist() == pytest.approx([first, second])
    assert got.tolist() == pytest.approx([0.162167, 2.959746], abs=1e-5)


def test_modified_entropy_is_finite_when_the_model_is_sure() -> None:
    p = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    sure_and_right, sure_and_wrong = modified_entropy(p, torch.tensor([0, 1])).tolist()
    assert sure_and_right == 0
    assert 100 < sure_and_wrong < math.inf


def test_of_equally_good_thresholds_the_largest_is_taken() -> None:
    assert best_threshold(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0])) == 3.0
    assert best_threshold(torch.ones(4), torch.ones(3)) == 1.0


def test_numpy_is_as_good_as_torch() -> None:
    sets = [draw(i, 20, 1.0) for i in range(4)]
    arrays = [(p.numpy(), y.numpy().astype(np.int32)) for p, y in sets]
    assert threshold_attacks(*arrays) == threshold_attacks(*sets)


def test_attacks_refuse_sets_that_do_not_fit() -> None:
    three, four = draw(0, 5, 1.0), draw(1, 5, 1.0, classes=4)
    with pytest.raises(InputError, match=r"\[3, 4\] classes"):
        threshold_attacks(three, three, three, four)
    with pytest.raises(InputError, match="target members: probabilities have shape"):
        threshold_attacks(three, three, (three[0][:0], three[1][:0]), three)


def test_yeom_counts_a_loss_at_the_mean_as_a_member() -> None:
    assert yeom(torch.tensor([0.1, 0.5, 0.6, 2.0]), 0.5) == 0.5
    assert yeom(np.array([0.1]), 0.0) == 0.0
    with pytest.raises(InputError, match="N >= 1"):
        yeom(torch.tensor([]), 0.5)


def test_svc_calls_what_looks_unseen_a_non_member() -> None:
    retain, test = draw(0, 200, 4.0), draw(1, 60, 0.0)
    assert svc_attack(retain, test, draw(2, 100, 0.0)) > 0.7
    assert svc_attack(retain, test, draw(3, 100, 4.0)) < 0.3
    assert svc_attack(retain, test, draw(2, 100, 0.0), seed=1) == svc_attack(retain, test, draw(2, 100, 0.0), seed=1)


def test_svc_is_not_swayed_by_the_size_of_a_set() -> None:
    """Without cutting, twenty times as many members would make it call everything a member."""
    assert svc_attack(draw(0, 1200, 0.6), draw(1, 60, 0.0), draw(2, 300, 0.0)) > 0.4


def images(dtype: torch.dtype = torch.uint8) -> Samples:
    pixels = torch.randint(0, 200, (6, 1, 5, 5), generator=torch.Generator().manual_seed(0))
    return Samples(pixels.to(dtype), torch.tensor([0, 1, 2, 0, 1, 2]))


class SeesThePatch(nn.Module):
    """Calls class 2 what is white in the lower right corner, and class 0 the rest."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        white = (inputs[:, 0, -2:, -2:] > 0.99).all(dim=2).all(dim=1)
        return torch.stack([1 - white.float(), torch.zeros(len(inputs)), white.float()], dim=1)


@pytest.mark.parametrize(("dtype", "white"), [(torch.uint8, 255), (torch.float32, 1.0)])
def test_a_stamp_changes_its_corner_and_nothing_else_and_not_what_it_was_given(dtype: torch.dtype, white: int) -> None:
    given = images(dtype).inputs
    before = given.clone()
    stamped = stamp(given, size=2)
    assert torch.equal(given, before)
    assert bool((stamped[:, :, 3:, 3:] == white).all())
    stamped[:, :, 3:, 3:] = given[:, :, 3:, 3:]
    assert torch.equal(stamped, given)
    assert bool((stamp(given, size=5, value=7) == 7).all())


def test_the_attack_success_rate_counts_triggered_samples_of_other_classes() -> None:
    model, samples = SeesThePatch(), images()
    assert attack_success_rate(model, samples, stamp, target_class=2) == 1.0
    assert attack_success_rate(model, samples, lambda x: x, target_class=2) == 0.0
    assert attack_success_rate(model, samples, lambda x: x, target_class=0) == 1.0  # without any trigger: never ask 0
    half = samples.subset(torch.tensor([0, 1, 2]))
    one = lambda x: torch.cat([stamp(x[:1]), x[1:]])  # noqa: E731
    assert attack_success_rate(model, half, one, target_class=2) == 0.5  # of classes 0 and 1 only


def test_planted_samples_bear_the_trigger_and_the_target_label() -> None:
    planted = plant(images(), stamp, 2)
    assert planted.labels.tolist() == [2] * 6
    assert torch.equal(planted.inputs, stamp(images().inputs))


def test_a_trigger_refuses_what_it_cannot_show() -> None:
    with pytest.raises(InputError, match="size 6 does not fit"):
        stamp(images().inputs, size=6)
    with pytest.raises(InputError, match="of the target class 2"):
        attack_success_rate(SeesThePatch(), images().subset(torch.tensor([2, 5])), stamp, target_class=2)
