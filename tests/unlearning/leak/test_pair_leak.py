"""What a pair of models tells of the samples forgotten between them, and that it tells nothing where none were."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fedquit.errors import InputError
from fedquit.unlearning import Samples, make_method
from fedquit.unlearning.leak.candidate_game import auc_interval, distinguished, play
from fedquit.unlearning.leak.class_read_off import class_evidence, read_off
from fedquit.unlearning.leak.image_quality import nearest, psnr, ssim
from fedquit.unlearning.leak.observation import Observation, cosine, gradient
from fedquit.unlearning.leak.pair_leak import leak_of_pair, partners
from fedquit.unlearning.leak.reconstruct_inputs import Attack, reconstruct

CLASSES, SHAPE = 10, (1, 8, 8)


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, CLASSES))


def blobs(size: int, seed: int) -> Samples:
    """Blurred random pictures with labels 0, 1, ... in turn."""
    draw = torch.Generator().manual_seed(seed)
    rough = torch.rand(size, 1, 2, 2, generator=draw) * 2 - 1
    pictures = nn.functional.interpolate(rough, SHAPE[1:], mode="bilinear")
    return Samples(pictures, torch.arange(size) % CLASSES)


def forgot(samples: Samples, favours: Tensor | float = 0.0) -> tuple[nn.Module, Observation]:
    before = net()
    before.state_dict()["3.bias"] += favours
    after = copy.deepcopy(before)
    make_method("fedquit").on_device(after, samples, seed=1)
    return before, Observation(before.state_dict(), after.state_dict())


@pytest.mark.parametrize("label", range(CLASSES))
def test_the_class_of_one_forgotten_sample_is_read_off_without_any_search(label: int) -> None:
    samples = Samples(blobs(1, label).inputs, torch.tensor([label]))
    knows = torch.nn.functional.one_hot(samples.labels[0], CLASSES).float()  # as a model that was trained on it does
    before, seen = forgot(samples, favours=knows)
    evidence = class_evidence(seen.step(before), CLASSES)
    assert (evidence > 0).nonzero().flatten().tolist() == [label]


def test_evidence_without_a_bias_comes_from_the_weights() -> None:
    step = {"w": torch.tensor([[-1.0, -2.0], [1.0, 0.5]])}
    assert class_evidence(step, 2).tolist() == [3.0, -1.5]
    with pytest.raises(InputError, match="no layer of the model has 7 outputs"):
        class_evidence(step, 7)


def test_a_read_off_of_noise_is_not_called_right() -> None:
    found = read_off(torch.tensor([-0.1, 0.3, 0.2]), torch.tensor([2, 0, 0]))
    assert (found.guessed, found.exact, found.auc) == (False, False, 0.0)
    assert read_off(torch.zeros(3), torch.tensor([1, 1, 1])).correlation is None


def test_fedquits_first_step_goes_where_climbing_the_loss_goes() -> None:
    samples = blobs(1, 3)
    before = net()
    after = copy.deepcopy(before)
    make_method("fedquit", optimizer="adam", lr=1e-4, teacher="fixed", value=-60.0).on_device(after, samples, seed=0)
    step = Observation(before.state_dict(), after.state_dict()).step(before)
    uphill = gradient(before, samples)
    agree = torch.cat([(step[name].sign() == uphill[name].sign()).flatten() for name in uphill])
    assert agree.double().mean() > 0.99


def test_the_candidate_that_was_forgotten_is_told_from_one_that_was_not() -> None:
    scores = []
    for trial in range(20):
        pair = blobs(11, trial)
        truth, other = pair.subset(torch.tensor([0])), pair.subset(torch.tensor([10]))  # both of class 0
        before, seen = forgot(truth)
        step = seen.step(before)
        scores.append((cosine(step, gradient(before, truth)), cosine(step, gradient(before, other))))
    assert play(scores).low > 0.5


def test_where_a_stranger_was_forgotten_the_game_is_chance() -> None:
    scores = []
    for trial in range(60):
        drawn = blobs(21, trial)
        before, seen = forgot(drawn.subset(torch.tensor([20])))
        step = seen.step(before)
        first, second = (cosine(step, gradient(before, drawn.subset(torch.tensor([i])))) for i in (0, 10))
        scores.append((first, second))
    assert play(scores).is_chance


def test_the_interval_holds_the_true_area_about_as_often_as_it_says() -> None:
    draw, true, hits = torch.Generator().manual_seed(0), 0.5 * (1 + math.erf(1 / 2)), 0  # N(1, 1) against N(0, 1)
    for _ in range(400):
        high, low = torch.randn(25, generator=draw) + 1, torch.randn(25, generator=draw)
        found = distinguished(high.tolist(), low.tolist())
        hits += found.low <= true <= found.high
    assert 0.92 < hits / 400 < 0.99
    assert auc_interval(1.0, 20, 20)[0] < 0.95  # 20 wins of 20 prove no certainty
    assert auc_interval(0.0, 20, 20)[0] == 0.0


def test_one_game_is_no_evidence() -> None:
    with pytest.raises(InputError, match="at least 2"):
        play([(1.0, 0.0)])


def test_a_forgotten_picture_is_rebuilt_and_named_among_strangers() -> None:
    truth, others = blobs(1, 5), blobs(60, 6)
    before = net()
    step = {name: 0.1 * value for name, value in gradient(before, truth).items()}
    found = reconstruct(before, step, truth.labels, SHAPE, Attack(starts=2, steps=50), seed=0)
    assert nearest(found.inputs[0], torch.cat([others.inputs, truth.inputs])) == 60
    assert ssim(found.inputs[0], truth.inputs[0]) > 0.5


def test_a_search_from_noise_improves_on_the_noise() -> None:
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, CLASSES))
    truth = blobs(1, 2)
    step = gradient(convolution, truth)
    begun, ended = (
        reconstruct(convolution, step, truth.labels, SHAPE, Attack(starts=1, steps=steps), seed=0) for steps in (0, 150)
    )
    assert ended.mismatch < begun.mismatch / 4
    assert psnr(ended.inputs, truth.inputs) > psnr(begun.inputs, truth.inputs) + 3


def slow_ssim(a: Tensor, b: Tensor) -> float:
    """The formula window by window, as in Wang et al. (2004), in plain loops."""
    side = 7
    bell = [math.exp(-((i - 3) ** 2) / (2 * 1.5**2)) for i in range(side)]
    values = []
    for top in range(a.shape[1] - side + 1):
        for left in range(a.shape[2] - side + 1):
            window = [
                (bell[i] * bell[j] / sum(bell) ** 2, float(a[0, top + i, left + j]), float(b[0, top + i, left + j]))
                for i in range(side)
                for j in range(side)
            ]
            ma, mb = sum(w * x for w, x, _ in window), sum(w * y for w, _, y in window)
            va = sum(w * (x - ma) ** 2 for w, x, _ in window)
            vb = sum(w * (y - mb) ** 2 for w, _, y in window)
            cab = sum(w * (x - ma) * (y - mb) for w, x, y in window)
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            values.append((2 * ma * mb + c1) * (2 * cab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return sum(values) / len(values)


def test_similarity_is_the_papers_formula_window_by_window() -> None:
    a, b = blobs(2, 4).inputs
    assert ssim(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-9)


def test_the_document_is_whole_and_says_what_it_could_not_measure() -> None:
    before, seen = forgot(blobs(12, 1))
    found = leak_of_pair(before, seen, blobs(12, 1), blobs(80, 2), CLASSES, seed=0)
    assert found["reconstruction"] is None
    assert "at most 8" in found["not_measured"]["reconstruction"]
    assert found["classes"]["counts"] == [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert found["game"]["different_class"]["games"] > 24


def test_no_sample_is_told_from_itself_and_none_is_used_twice() -> None:
    mine, theirs = partners(blobs(3, 0), blobs(45, 1), alike=True, seed=0)
    assert mine.tolist() == [0, 1, 2]
    assert len(set(theirs.tolist())) == len(theirs) == 15  # the five of each of three classes
    assert all(label % CLASSES in (0, 1, 2) for label in theirs.tolist())
