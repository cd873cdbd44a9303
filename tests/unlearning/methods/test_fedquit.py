import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fedquit.errors import FedquitError, InputError
from fedquit.unlearning import FedQUIT, Samples, virtual_teacher
from fedquit.unlearning.distillation.distances import distance
from fedquit.unlearning.evaluation.measures import accuracy, predict
from fedquit.unlearning.methods.fedquit import OPTIMIZERS
from fedquit.unlearning.samples import shuffled_batches


def cnn(dropout: float = 0.0) -> nn.Module:
    """A small network in float64, so that orders of summation cannot hide a difference."""
    torch.manual_seed(7)
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(144, 5)]
    return nn.Sequential(*layers).double()


def images(size: int = 70, seed: int = 0) -> Samples:
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 1, 8, 8, generator=source, dtype=torch.float64)
    return Samples(inputs, torch.randint(5, (size,), generator=source))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def forget_with_a_second_model(method: FedQUIT, model: nn.Module, samples: Samples, seed: int) -> None:
    """The slow oracle: a frozen copy of the model in memory, asked at every step."""
    frozen = copy.deepcopy(model).eval()
    optimizer = OPTIMIZERS[method.optimizer](list(model.parameters()), method.step_size())
    order = torch.Generator().manual_seed(seed)
    model.train()
    model[1].eval()  # type: ignore[index]
    for _ in range(method.epochs):
        for index in shuffled_batches(len(samples), method.batch_size, order):
            inputs, labels = samples.batch(index)
            with torch.no_grad():
                target = virtual_teacher(frozen(inputs), labels, method.teacher, method.temperature)
            optimizer.zero_grad()
            distance(method.loss, target, model(inputs), method.temperature).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@pytest.mark.parametrize("teacher", ["min", "logit-ladder", "softmax-zero"])
def test_asking_the_teacher_once_equals_keeping_a_copy(teacher: str) -> None:
    method = FedQUIT(teacher=teacher, epochs=2, lr=1e-3, temperature=2.0)
    once, copied, start = cnn(), cnn(), cnn()
    method.forget(once, images(), seed=3)
    forget_with_a_second_model(method, copied, images(), seed=3)
    # not bit by bit: a convolution over 70 images may sum in another order than one over 32
    torch.testing.assert_close(weights(once), weights(copied), rtol=0, atol=1e-10)
    assert (weights(once) - weights(start)).abs().max() > 1e-4


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    results: list[tuple[list[float], Tensor]] = []
    for seed in (3, 3, 4):
        model = cnn(dropout=0.5)
        torch.manual_seed(len(results))  # what the caller drew before must not matter
        losses = FedQUIT(lr=1e-3).forget(model, images(), seed=seed)
        results.append((losses, weights(model)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][1], results[2][1])


def test_the_caller_random_numbers_and_modes_are_left_alone() -> None:
    model = cnn(dropout=0.5).eval()
    model[4].train()  # type: ignore[index]
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    FedQUIT().forget(model, images(), seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.children()] == [False, False, False, False, True, False]


def test_forgetting_lowers_the_true_class_of_the_samples() -> None:
    model, samples = cnn(), images()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):  # learn them by heart
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(samples.inputs), samples.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def right() -> float:
        return accuracy(predict(model, samples), samples.labels)

    assert right() > 0.95
    losses = FedQUIT(lr=1e-2, epochs=15).forget(model, samples, seed=0)
    assert len(losses) == 15
    assert losses[-1] < losses[0] / 2
    assert right() < 0.5


def test_the_mean_loss_weighs_every_sample_once() -> None:
    model, samples = nn.Linear(3, 4), Samples(torch.randn(10, 3), torch.arange(10) % 4)
    method = FedQUIT(batch_size=4, lr=1e-12)  # so small that the model stands still
    expected = distance("kl", method.targets(model, samples), model(samples.inputs), 1.0).item()
    assert method.forget(model, samples, seed=0) == pytest.approx([expected], rel=1e-5)


def test_frozen_parameters_do_not_move() -> None:
    model, start = cnn(), cnn()
    model[0].requires_grad_(False)  # type: ignore[index]
    FedQUIT(optimizer="adamw", lr=1e-2).forget(model, images(), seed=0)
    assert torch.equal(model[0].weight, start[0].weight)  # type: ignore[index]
    assert not torch.equal(model[5].weight, start[5].weight)  # type: ignore[index]


def test_a_uint8_sample_is_normalised_for_teacher_and_student_alike() -> None:
    raw = torch.randint(256, (20, 6), dtype=torch.uint8)
    labels = torch.arange(20) % 3
    results = []
    for inputs in (raw, raw.float() / 127.5 - 1):
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
        FedQUIT(lr=1e-2).forget(model, Samples(inputs, labels), seed=0)
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1])


def test_a_loss_that_explodes_names_the_step_and_the_way_out() -> None:
    model = nn.Linear(3, 4)
    with pytest.raises(FedquitError, match=r"loss is \w+ at epoch \d+, step \d+: try an lr below 3e\+37"):
        FedQUIT(lr=3e37, batch_size=2, epochs=3).forget(model, Samples(torch.randn(8, 3), torch.arange(8) % 4), seed=0)


def test_nothing_to_forget_and_nothing_to_train_are_refused() -> None:
    with pytest.raises(InputError, match="no samples to forget"):
        FedQUIT().forget(cnn(), images(0), seed=0)
    with pytest.raises(InputError, match="requires_grad"):
        FedQUIT().forget(cnn().requires_grad_(False), images(), seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "mim"}, r"unknown teacher 'mim' \(did you mean 'min'\?\)"),
        ({"loss": "l1"}, "unknown loss 'l1'; known: kl, ce, mse, cosine"),
        ({"optimizer": "sgd"}, "unknown optimizer 'sgd'; known: adam, adamw"),
        ({"lr": 0.0}, "lr is 0.0; it must be a finite number above 0"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"near": 1.0}, "near is 1.0; it must be above 0 and below 1"),
        ({"lr": math.nan}, "lr is nan"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"epochs": 0}, "epochs is 0; it must be a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"top_k": 0}, "top_k is 0"),
        ({"tau_squared": 1}, "tau_squared is 1; it must be true or false"),
        ({"value": 0.0}, "only 'fixed'"),
        ({"teacher": "fixed", "value": math.inf}, "value is inf; it must be a finite number"),
        ({"clip": 0.0}, "clip is 0.0; it must be above 0 and below 1"),
        ({"clip": "a"}, "clip is 'a'"),
        ({"loss": "mse", "clip": 1e-7}, "only 'kl'"),
    ],
)
def test_each_setting_is_checked_when_it_is_given(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FedQUIT(**settings)  # type: ignore[arg-type]


def distance_left(start: nn.Module, student: nn.Module, samples: Samples) -> float:
    """The student's distance to the virtual teacher, as a share of where it began."""
    target = FedQUIT().targets(start, samples)
    with torch.no_grad():
        far = [float(distance("kl", target, model.eval()(samples.inputs), 1.0)) for model in (start, student)]
    return far[1] / far[0]


@pytest.mark.parametrize("size", [12, 40, 70])
def test_auto_reaches_the_teacher_however_few_the_samples_are(size: int) -> None:
    start, fixed, auto = memorised(size), memorised(size), memorised(size)
    FedQUIT().forget(fixed, images(size), seed=3)
    FedQUIT(lr="auto", near=0.3).forget(auto, images(size), seed=3)
    assert distance_left(start, fixed, images(size)) > 0.5, "one epoch of the paper's is a few steps here"
    assert 0.15 < distance_left(start, auto, images(size)) <= 0.3, "near the teacher, and no further than that"


def memorised(size: int) -> nn.Module:
    """A model that knows `images(size)` by heart."""
    model, samples = cnn(), images(size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(samples.inputs), samples.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def test_auto_stays_within_its_reach_and_ends_where_it_never_arrives() -> None:
    start, model = cnn(), cnn()
    model[0].requires_grad_(False)  # type: ignore[index]
    far = Samples(torch.zeros(8, 1, 8, 8, dtype=torch.float64), torch.arange(8) % 5)  # alike, and labelled differently
    FedQUIT(lr="auto").forget(model, far, seed=0)
    reach = FedQUIT(lr="auto").reach(8)
    assert reach is not None
    assert 0 < (weights(model) - weights(start)).abs().max() <= reach
    assert FedQUIT(lr="auto").reach(8) == FedQUIT(lr="auto").reach(80_000), "at most so many steps, whoever asks"


def test_auto_repeated_after_a_crash_gives_the_same_bits() -> None:
    once, again = cnn(dropout=0.5), cnn(dropout=0.5)
    for model in (once, again):
        FedQUIT(lr="auto").forget(model, images(300), seed=3)  # more than are watched
    assert torch.equal(weights(once), weights(again))


def test_auto_is_spelled_auto() -> None:
    with pytest.raises(InputError, match="lr is 'automatic'; it must be a finite number above 0, or auto"):
        FedQUIT(lr="automatic")
