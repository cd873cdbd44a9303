"""Clients trained at once, stacked: the same as one by one up to rounding, and one by one where that cannot be."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from fedquit.client.messages import trained_ahead
from fedquit.client.messages.plain_training import PlainTraining
from fedquit.client.training.sgd import fit
from fedquit.client.training.stacked_layers import Batches, gradients_of_sequence
from fedquit.client.training.stacked_sgd import cannot_stack, fit_stacked, gradients_of_any
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.simulations.engine.stack import AUTO, stack_size
from fedquit.simulations.simulate.command import simulate
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.unlearning.samples import Samples

TOLERANCE = 1e-5
"""Largest difference of a weight after a round, of weights about 0.1; docs/design.md says so."""
SMALL: dict[str, Any] = {
    "clients": 9,
    "samples": 200,
    "model": "mlp",
    "rounds": 2,
    "method": "continue",
    "recover": "budget",
    "recover-rounds": 1,
    "reference": "none",
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def shares(sizes: Sequence[int]) -> list[Samples]:
    draw = torch.Generator().manual_seed(1)
    return [Samples(torch.randn(n, 6, generator=draw), torch.randint(0, 3, (n,), generator=draw)) for n in sizes]


@hypothesis_settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 23), min_size=1, max_size=6),
    epochs=st.integers(1, 3),
    batch_size=st.integers(1, 9),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.01]),
)
def test_stacked_clients_end_where_they_end_one_by_one(sizes: list[int], **how: Any) -> None:
    model, samples, seeds = network(), shares(sizes), [7 * place for place in range(len(sizes))]
    found = fit_stacked(model, samples, seeds, lr=0.1, **how)
    for own, seed, (weights, loss) in zip(samples, seeds, found, strict=True):
        alone = copy.deepcopy(model)
        expected = fit(alone, own, lr=0.1, seed=seed, **how)
        assert loss == pytest.approx(expected, abs=TOLERANCE)
        for name, value in alone.state_dict().items():
            assert torch.allclose(weights[name], value, rtol=0, atol=TOLERANCE), name


@pytest.mark.parametrize("sizes", [[7, 7, 7, 7], [7, 1, 4, 2]])
@pytest.mark.parametrize("same", [True, False])
def test_a_sequence_of_layers_has_the_gradients_of_any_model(same: bool, sizes: list[int]) -> None:
    draw = torch.Generator().manual_seed(0)
    inner = nn.Sequential(nn.Linear(5, 4, bias=False), nn.GELU())
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), inner, nn.Linear(4, 3))
    assert losses_differ_by(model, (2, 3), same, sizes, draw, frozen="1.bias") < 1e-5


@pytest.mark.parametrize("same", [True, False])
def test_linear_layers_of_wider_inputs_have_the_gradients_of_any_model(same: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
    assert losses_differ_by(model, (4, 3), same, [5, 2, 3], draw) < 1e-5


def losses_differ_by(
    model: nn.Module, shape: tuple[int, ...], same: bool, sizes: list[int], draw: torch.Generator, frozen: str = ""
) -> float:
    """Return the largest difference of a loss or gradient between a sequence's own ways and those of any model."""
    trainable = [name for name, _ in model.named_parameters() if name != frozen]
    weights = {name: value.detach().expand(len(sizes), *value.shape) for name, value in model.named_parameters()}
    if not same:
        weights = {name: value + torch.randn(value.shape, generator=draw) for name, value in weights.items()}
    inputs, labels = torch.randn(sum(sizes), *shape, generator=draw), torch.randint(0, 3, (sum(sizes),), generator=draw)
    batches = Batches(inputs, labels, torch.tensor(sizes))
    fast = gradients_of_sequence(model, trainable)
    assert fast is not None
    (losses, found), (others, expected) = fast(weights, batches), gradients_of_any(model, trainable)(weights, batches)
    assert sorted(found) == sorted(expected) == sorted(trainable)
    worst = float((losses - others).abs().max())
    for name in trainable:
        before = torch.randn(len(sizes), *model.get_parameter(name).shape, generator=draw)
        one, other = torch.empty_like(before), before.clone()
        found[name].added(before, one, scale=0.5, factor=-2.0)
        expected[name].added(other, other, scale=0.5, factor=-2.0)
        worst = max(worst, float((one - other).abs().max()))
    return worst


@pytest.mark.parametrize("frozen", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_a_model_with_one_frozen_tensor_is_stacked_as_one_by_one(frozen: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model.get_parameter(frozen).requires_grad_(False)
    assert stacked_distance(model) < TOLERANCE


class SumOfTwo(nn.Module):
    """A layer of two parameters that get the very same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.one, self.two = nn.Linear(6, 3), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.linear(inputs)
        return made + (self.one + self.two)


def test_parameters_that_share_a_gradient_are_stacked_as_one_by_one() -> None:
    assert stacked_distance(SumOfTwo()) < TOLERANCE


def stacked_distance(model: nn.Module) -> float:
    """Return the largest difference of a weight after two epochs, stacked and one by one."""
    draw = torch.Generator().manual_seed(0)
    samples = [Samples(torch.rand(n, 6, generator=draw), torch.randint(3, (n,), generator=draw)) for n in (40, 33, 7)]
    stacked, worst = fit_stacked(copy.deepcopy(model), samples, [0, 1, 2], lr=0.3, epochs=2, batch_size=8), 0.0
    for seed, (weights, _) in enumerate(stacked):
        alone = copy.deepcopy(model)
        fit(alone, samples[seed], lr=0.3, epochs=2, batch_size=8, seed=seed)
        worst = max([worst, *(float((weights[name] - own).abs().max()) for name, own in alone.state_dict().items())])
    return worst


def test_models_with_layers_of_other_kinds_are_no_sequence_that_is_known() -> None:
    others: list[nn.Module] = [nn.Conv1d(1, 1, 1), nn.Softmax(dim=0), nn.ReLU(inplace=True), nn.Flatten(0), Mingling(2)]
    for layer in others:
        assert gradients_of_sequence(nn.Sequential(nn.Linear(2, 2), layer), []) is None
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked.register_forward_hook(lambda *_: None)
    assert gradients_of_sequence(hooked, []) is None


def test_stacking_leaves_the_model_it_starts_from_as_it_is() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    fit_stacked(model, shares([4, 5]), [0, 1], lr=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_frozen_parameters_stay() -> None:
    model = network()
    first = model[1]  # type: ignore[index]
    first.weight.requires_grad_(False)
    ((weights, _),) = fit_stacked(model, shares([8]), [0], lr=0.5)
    assert torch.equal(weights["1.weight"], first.weight)
    assert not torch.equal(weights["3.weight"], model.state_dict()["3.weight"])


def run(folder: Path, stack: str = "off", workers: int = 1, **changed: Any) -> tuple[Path, Any, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    path, report = run_simulation(
        {**SMALL, **changed}, out=folder, workers=workers, stack=stack, listener=lambda event: told.append(dict(event))
    )
    return path, report, told


def weights_of(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(path / "models" / "recovered.safetensors")


def costs_of(path: Path) -> list[list[str]]:
    """Return the rows of the cost log without their times."""
    return [line.split(",")[:7] + line.split(",")[9:] for line in (path / "costs.csv").read_text().splitlines()]


def test_a_stacked_run_costs_the_same_bytes_and_differs_by_rounding(tmp_path: Path) -> None:
    alone, _, _ = run(tmp_path / "alone")
    stacked, report, told = run(tmp_path / "stacked", "4")
    assert costs_of(stacked) == costs_of(alone), "to the byte"
    one, other = weights_of(alone), weights_of(stacked)
    largest = max(float(np.abs(one[name] - other[name]).max()) for name in one)
    assert 0 < largest < 3 * TOLERANCE, "in three rounds"
    assert {"event": "stack", "clients": 4, "reason": ""} in told
    assert report["stages"]["recovered"] is not None


def test_any_number_of_workers_gives_the_same_stacked_model(tmp_path: Path) -> None:
    models = [run(tmp_path / str(workers), "4", workers)[1]["stages"] for workers in (1, 2)]
    assert models[0]["recovered"]["model_sha256"] == models[1]["recovered"]["model_sha256"]


def test_what_goes_wrong_in_stacked_training_is_left_to_each_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_asked: object) -> None:
        raise OSError("a client's data are gone")

    one = run(tmp_path / "alone")[1]["stages"]
    monkeypatch.setattr(PlainTraining, "train_stacked", fails)
    assert run(tmp_path / "stacked", "4")[1]["stages"] == one
    monkeypatch.setattr(InProcessGrid, "can_sum", lambda *_: False)
    monkeypatch.setattr(trained_ahead, "train_stacked", fails)
    assert run(tmp_path / "with messages", "4")[1]["stages"] == one


def test_stacked_clients_make_one_model_with_messages_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed = run(tmp_path / "summed", "4")[0]
    monkeypatch.setattr(InProcessGrid, "can_sum", lambda *_: False)
    sent = run(tmp_path / "sent", "4")[0]
    assert costs_of(summed) == costs_of(sent), "to the byte"
    one, other = weights_of(summed), weights_of(sent)
    assert max(float(np.abs(one[name] - other[name]).max()) for name in one) < TOLERANCE


def test_a_run_resumes_only_stacked_as_it_began(tmp_path: Path) -> None:
    path, report, _ = run(tmp_path / "run", "4")
    assert report["versions"]["stack"] == "4"
    with pytest.raises(InputError, match="began with --stack 4, not off"):
        run_simulation({}, out=path, resume=True, workers=1)
    assert run_simulation({}, out=path, resume=True, workers=1, stack="4")[1] == report


def test_without_the_flag_clients_are_trained_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_ahead, "train_stacked", lambda _asked: pytest.fail("stacked"))
    monkeypatch.setattr(PlainTraining, "train_stacked", lambda *_: pytest.fail("stacked"))
    _, report, told = run(tmp_path / "run")
    assert report["stages"]["recovered"] is not None
    assert "stack" not in {event["event"] for event in told}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"objective": "fedprox"}, "objective 'fedprox' has a loss of its own"),
        ({"objective": "moon", "device_folder": "x"}, "objective 'moon' has a loss of its own"),
        ({"compress_up": "int8"}, "models are compressed"),
        ({"model": "test_stacked:normalised"}, "BatchNorm1d has statistics"),
        ({"model": "test_stacked:doubled"}, "not all float32"),
        ({"model": "test_stacked:dropping"}, "Dropout draws"),
        ({"model": "test_stacked:branching"}, "cannot be stacked"),
        ({"model": "test_stacked:large"}, "so large"),
        ({"model": "test_stacked:mingling"}, "its samples act on each other"),
    ],
)
def test_what_cannot_be_stacked_is_trained_one_by_one_and_says_why(
    changed: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    size, why = stack_size("auto", Settings(**changed))
    assert size == 1
    assert reason in why


def test_with_another_precision_clients_are_trained_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDQUIT_PRECISION", "bf16")
    assert stack_size("auto", Settings(model="mlp")) == (1, "--device or --precision is not cpu and fp32")


def test_stack_auto_takes_small_models_and_a_number_takes_any() -> None:
    assert stack_size("auto", Settings(model="mlp")) == (AUTO, "")
    assert stack_size("3", Settings(model="cnn")) == (3, "")
    assert stack_size("off", Settings(model="mlp")) == stack_size("1", Settings(model="mlp")) == (1, "")


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--stack", "many"], "auto, off, or the number"),
        (["--stack", "0"], "auto, off, or the number"),
        (["--stack", "1" * 5000], "auto, off, or the number"),
        (["--stack", "auto", "--engine", "flower"], "in-process engine"),
        (["--address", "auto"], "give --engine flower too"),
        (["--address", "auto", "--engine", "flower", "--workers", "2"], "--workers and --address exclude each other"),
    ],
)
def test_flags_of_engines_that_cannot_be_are_errors_of_one_line(flags: list[str], error: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(simulate, ["--out", str(tmp_path / "run"), *flags])
    assert isinstance(result.exception, InputError)
    assert error in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_no_workers_are_refused_and_more_than_clients_or_stacks_change_nothing(tmp_path: Path) -> None:
    for workers in (0, -2):
        with pytest.raises(InputError, match=f"workers: should be at least 1, got {workers}"):
            run_simulation(SMALL, out=tmp_path / "none", workers=workers)
    assert not (tmp_path / "none").exists()
    one, many = run(tmp_path / "one", "900000000", 1)[1], run(tmp_path / "many", "900000000", 20)[1]
    assert one["stages"] == many["stages"]


def test_clients_of_one_model_are_stacked_whatever_its_layers_are() -> None:
    convolution = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.Flatten(), nn.LazyLinear(2))
    convolution(torch.zeros(1, 1, 6, 6))
    assert not cannot_stack(convolution)
    draw = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randn(n, 1, 6, 6, generator=draw), torch.arange(n) % 2) for n in (5, 8)]
    found = fit_stacked(convolution, samples, [1, 2], lr=0.1, batch_size=4)
    alone = copy.deepcopy(convolution)
    fit(alone, samples[1], lr=0.1, batch_size=4, seed=2)
    for name, value in alone.state_dict().items():
        assert torch.allclose(found[1][0][name], value, rtol=0, atol=TOLERANCE), name


def normalised(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, num_classes))


class Doubled(nn.Module):
    """A model with a parameter of another type."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear, self.shift = nn.Linear(64, num_classes), nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(images.flatten(1)) + self.shift
        return logits.float()


def doubled(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return Doubled(num_classes)


def dropping(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, num_classes))


def large(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9000), nn.Linear(9000, num_classes))


class Branching(nn.Module):
    """A model whose way depends on what it sees."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.linear(inputs.flatten(1))
        return logits if logits.sum() > 0 else -logits


class Mingling(nn.Module):
    """A model in which samples of a batch act on each other."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        flat = inputs.flatten(1)
        logits: torch.Tensor = self.linear(flat - flat.mean(0))
        return logits


def mingling(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return Mingling(num_classes)


def branching(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return Branching(num_classes)
