"""What a device that forgets hands on: weights, and never the statistics of what it forgets."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.errors import InputError
from fedquit.unlearning import METHODS, FedQUIT, Samples, make_method
from fedquit.unlearning.evaluation.relearn import relearn

MEAN = 3.0
STEPS = {
    "fedquit": ("forget",), "ascent": ("forget",), "projected-ascent": ("forget",), "auxiliary-head": ("forget",),
    "mode": ("guide",), "orthogonal": ("unlearn", "train"),
}  # fmt: skip
AT_THE_SERVER = {"negate", "federaser", "retrain", "continue", "pseudo-ascent"}
EACH = [(name, step) for name, steps in STEPS.items() for step in steps]


def net(normalised: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(normalised(4), nn.Linear(4, 8), normalised(8), nn.ReLU(), nn.Linear(8, 3))


def samples(size: int) -> Samples:
    draw = torch.Generator().manual_seed(size)
    return Samples(MEAN + torch.randn(size, 4, generator=draw), torch.arange(size) % 3)


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def forgotten(name: str, step: str, size: int, model: nn.Module, **settings: Any) -> nn.Module:
    state = copy.deepcopy(model.state_dict())
    extra = {"projected-ascent": dict(model.named_parameters()), "mode": state}.get(name)
    make_method(name, **settings).on_device(
        model, samples(size), seed=0, step=step, config={"radius": 1.0}, extra=extra
    )
    return model


def test_every_method_with_a_procedure_on_the_device_is_tried_here() -> None:
    assert set(STEPS) | AT_THE_SERVER == set(METHODS)


@pytest.mark.parametrize(("name", "step"), EACH)
def test_a_method_hands_on_no_statistics_of_the_samples_to_forget(name: str, step: str) -> None:
    model, start = net(), net()
    forgotten(name, step, 64, model)
    for buffer, before in buffers(start).items():
        assert torch.equal(buffers(model)[buffer], before), f"{buffer}: {before} -> {buffers(model)[buffer]}"
    assert any(not torch.equal(*pair) for pair in zip(model.parameters(), start.parameters(), strict=True))


@pytest.mark.parametrize(("name", "step"), EACH)
def test_a_device_with_one_sample_can_forget_it(name: str, step: str) -> None:
    model = forgotten(name, step, 1, net())
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


class Follows(nn.Module):
    """A layer of one's own that follows the samples in training mode, with a buffer of a name of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(width))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * inputs.detach().mean(dim=0)
        return inputs - self.centre


def test_nor_does_a_layer_that_nobody_here_knows() -> None:
    model = forgotten("fedquit", "forget", 64, net(Follows))
    assert all(not buffer.any() for buffer in buffers(model).values())


def test_scale_and_shift_learn_while_the_statistics_stay() -> None:
    model, start = net(), net()
    FedQUIT(lr=1e-2).forget(model, samples(64), seed=0)
    for name in ("2.weight", "2.bias"):
        assert not torch.equal(model.get_parameter(name), start.get_parameter(name))


def test_with_local_statistics_they_follow_the_samples_as_in_the_paper() -> None:
    model, by_hand = net(), net()
    FedQUIT(statistics="local", batch_size=64).forget(model, samples(64), seed=0)
    by_hand.train()(samples(64).inputs)
    for buffer, value in buffers(by_hand).items():
        torch.testing.assert_close(buffers(model)[buffer], value)
    FedQUIT(statistics="local").forget(net(), samples(1), seed=0)  # no variance to follow


def test_statistics_of_no_such_kind_are_refused() -> None:
    with pytest.raises(InputError, match="unknown statistics 'mine'; known: global, local"):
        FedQUIT(statistics="mine")


def test_modes_are_given_back() -> None:
    model = net().eval()
    model[2].train()
    forgotten("fedquit", "forget", 8, model)
    assert [layer.training for layer in model] == [False, False, True, False, False]


def test_one_sample_can_be_relearned() -> None:
    assert relearn(net(), samples(1), lr=1.0, batch_size=1, target_accuracy=1.0, max_steps=20, seed=0) is not None


def test_one_sample_alone_is_normalised_by_the_running_statistics() -> None:
    from fedquit.client.training.sgd import fit

    model, by_hand = net(), net()
    loss = fit(model, samples(1), lr=0.1, epochs=1, seed=0)
    expected = F.cross_entropy(by_hand.eval()(samples(1).inputs), samples(1).labels)
    assert loss == pytest.approx(float(expected.detach()))
    assert all(torch.equal(value, buffers(by_hand)[name]) for name, value in buffers(model).items())
    assert model.training
    assert all(layer.training for layer in model)
