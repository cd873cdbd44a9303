"""No running statistic, counter or table of a device's may ruin the model, and honest training goes through."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fedquit.client.training.sgd import deterministic, fit
from fedquit.strategies.guard.buffers import check_buffers
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.arithmetic import parameter_names

State = dict[str, torch.Tensor]


class Model(nn.Module):
    """Convolutions and normalisation, a counter and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.out = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 3)
        self.register_buffer("table", torch.tensor([0, 3, 1, 2]))
        self.register_buffer("scale", torch.tensor([2.0, -3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.bn(self.conv(x)).relu().flatten(1))  # type: ignore[no-any-return]


def samples(scale: float = 1.0, shift: float = 0.0, size: int = 96) -> Samples:
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(size, 1, 8, 8, generator=draw) * scale + shift
    return Samples(inputs, torch.randint(3, (size,), generator=draw))


def trained(model: Model, data: Samples) -> Model:
    student = copy.deepcopy(model)
    with deterministic(1):
        fit(student, data, lr=0.01, seed=1)
    return student


@pytest.fixture(scope="module")
def model() -> Model:
    """Return a model that one round has trained."""
    torch.manual_seed(0)
    return trained(Model(), samples())


def faults(new: State, model: nn.Module, **how: Any) -> list[str]:
    return [str(found) for found in check_buffers(new, model.state_dict(), parameter_names(model), **how)]


def change(name: str, of: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, name: of(state[name].clone())}


def first(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return put


RUINOUS = {
    "one negative variance": (change("bn.running_var", first(-50.0)), "'bn.running_var': its smallest entry -50"),
    "a variance just below 0": (change("bn.running_var", first(-1e-6)), "'bn.running_var'"),
    "one absurd variance": (change("bn.running_var", first(1e30)), "'bn.running_var': mean square of a channel 1e+30"),
    "no variance at all": (change("bn.running_var", torch.zeros_like), "'bn.running_var': mean over its channels 0"),
    "one absurd mean": (change("bn.running_mean", first(-1e4)), "'bn.running_mean': mean square of a channel 1e+08"),
    "batches below 0": (change("bn.num_batches_tracked", first(-1)), "'bn.num_batches_tracked': the count -1"),
    "batches without end": (change("bn.num_batches_tracked", first(2**62)), "'bn.num_batches_tracked': the count 4.6"),
    "an index out of its table": (change("table", first(9)), "'table': its largest entry 9 (at most 3)"),
    "an index below its table": (change("table", first(-1)), "'table': its smallest entry -1"),
    "an absurd constant": (change("scale", first(1e9)), "'scale': its largest entry 1e+09 (at most 30)"),
}


@pytest.mark.parametrize("what", RUINOUS)
def test_a_buffer_that_ruins_the_model_is_named(model: Model, what: str) -> None:
    spoil, told = RUINOUS[what]
    [found] = faults(spoil(dict(model.state_dict())), model)
    assert found.startswith(told)


@pytest.mark.parametrize("what", ["one negative variance", "one absurd variance", "batches below 0"])
def test_signs_are_checked_though_there_is_nothing_to_compare_with(model: Model, what: str) -> None:
    spoil, told = RUINOUS[what]
    [found] = check_buffers(spoil(dict(model.state_dict())), None, parameter_names(model))
    assert str(found).startswith(told)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 3.0), (4.0, 0.0), (0.25, 0.5)])
def test_honest_training_on_other_data_goes_through(model: Model, scale: float, shift: float) -> None:
    assert faults(dict(trained(model, samples(scale, shift)).state_dict()), model) == []


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (60.0, 128.0), (1e-4, 0.0)])
def test_the_first_rounds_go_through_on_whatever_scale_the_data_is(scale: float, shift: float) -> None:
    torch.manual_seed(0)
    sent = Model()
    for _ in range(4):
        student = trained(sent, samples(scale, shift))
        assert faults(dict(student.state_dict()), sent) == []
        sent = student


def test_in_a_first_round_a_reply_is_compared_with_the_others() -> None:
    torch.manual_seed(0)
    sent = Model()
    honest = [dict(trained(sent, samples(shift=shift)).state_dict()) for shift in (0.0, 0.5, 1.0)]
    liar = RUINOUS["one absurd mean"][0](honest[0])
    assert faults(liar, sent) == []
    assert faults(liar, sent, others=honest[1:])[0].startswith("'bn.running_mean': mean square of a channel 1e+08")
    assert faults(honest[0], sent, others=[liar, *honest[1:]]) == []


def test_a_model_without_buffers_has_none_to_find_fault_with() -> None:
    layer = nn.Linear(2, 2)
    assert faults({name: value * 1e9 for name, value in layer.state_dict().items()}, layer) == []
