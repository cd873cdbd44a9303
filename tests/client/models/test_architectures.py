"""Models: the papers' sizes, weights that depend on the seed alone, and misfits told before training."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fedquit.client.models.architectures import MODELS, InputShape, build_model, num_parameters
from fedquit.errors import InputError


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def build(name: str, shape: InputShape = (1, 28, 28), classes: int = 10, seed: int = 0) -> nn.Module:
    return build_model(name, input_shape=shape, num_classes=classes, seed=seed)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(("name", "count"), [("cnn", 1_663_370), ("mlp", 199_210)])
def test_the_fedavg_papers_models_have_its_number_of_parameters(name: str, count: int) -> None:
    assert num_parameters(build(name)) == count


def test_resnet18_is_the_cifar_variant_with_two_groups() -> None:
    model = build("resnet18", (3, 32, 32), classes=100)
    norms = [module for module in model.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 20
    assert {norm.num_groups for norm in norms} == {2}
    assert not any(isinstance(module, nn.BatchNorm2d | nn.MaxPool2d) for module in model.modules())
    assert isinstance(model.conv1, nn.Conv2d)
    assert (model.conv1.kernel_size, model.conv1.stride) == ((3, 3), (1, 1))
    assert not list(model.buffers())
    assert num_parameters(model) == 11_220_132


@pytest.mark.parametrize("name", [*MODELS, "squeezenet1_1"])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 24)])
def test_every_model_gives_logits_it_can_learn_from(name: str, shape: InputShape) -> None:
    model = build(name, shape, classes=5)
    assert model.training
    model.eval()
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", [*MODELS, "shufflenet_v2_x0_5"])
def test_initial_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = weights(build(name, seed=3))
    torch.manual_seed(2)
    assert torch.equal(first, weights(build(name, seed=3)))
    assert not torch.equal(first, weights(build(name, seed=4)))


@pytest.mark.parametrize("name", [*MODELS, "shufflenet_v2_x0_5"])
def test_init_glorot_draws_every_layer_of_every_model_from_the_seed(name: str) -> None:
    def glorot(seed: int) -> nn.Module:
        return build_model(name, input_shape=(3, 32, 32), num_classes=10, seed=seed, init="glorot")

    model, own = glorot(3), dict(build(name, (3, 32, 32), seed=3).named_modules())
    assert torch.equal(weights(model), weights(glorot(3)))
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            size = layer.weight[0, 0].numel()
            bound = math.sqrt(6 / (size * (layer.weight.shape[0] + layer.weight.shape[1])))
            deviation = float(layer.weight.detach().std())
            assert layer.weight.detach().abs().max() <= bound
            assert deviation == pytest.approx(bound / math.sqrt(3), rel=12 / math.sqrt(layer.weight.numel()))
            assert layer.bias is None or not layer.bias.detach().any()
            assert not torch.equal(weights(layer), weights(glorot(4).get_submodule(path)))
        elif not list(layer.children()):
            assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), own[path].parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("bare", "no linear layer and no convolution"), ("computed", "layer '1' computes its weights")],
)
def test_a_model_that_init_glorot_cannot_draw_is_refused(
    kind: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{kind}_nets.py").write_text(
        "from torch import nn\n"
        "from torch.nn.utils.parametrizations import weight_norm\n"
        "def bare(input_shape, num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LayerNorm(num_classes))\n"
        "def computed(input_shape, num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(10, num_classes)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = f"{kind}_nets:{kind}"
    build(spec, (1, 2, 5))
    said = refusal(lambda: build_model(spec, input_shape=(1, 2, 5), num_classes=10, seed=0, init="glorot"))
    assert reason in said
    assert "use 'default'" in said


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    build("cnn", seed=3)
    with pytest.raises(InputError):
        build("cnn", (1, 2, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_grey_images_reach_a_torchvision_model_without_new_parameters() -> None:
    grey, colour = build("squeezenet1_1", (1, 64, 64)), build("squeezenet1_1", (3, 64, 64))
    assert num_parameters(grey) == num_parameters(colour)
    image = torch.randn(2, 1, 64, 64)
    assert torch.equal(grey.eval()(image), colour.eval()(image.expand(-1, 3, -1, -1)))


def test_googlenet_has_no_second_output() -> None:
    model = build("googlenet", (3, 32, 32))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_running_statistics_are_not_touched_by_the_trial() -> None:
    model = build("shufflenet_v2_x0_5", (3, 32, 32))
    assert all(int(buffer) == 0 for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked"))


def test_an_image_too_small_for_the_model_is_refused_with_the_way_out() -> None:
    text = refusal(lambda: build("vgg11", (3, 8, 8)))
    assert text.startswith("model 'vgg11' cannot take images of 3x8x8, perhaps too small for it (RuntimeError: ")
    assert text.endswith("; give another --image-size, or choose another model")
    assert "images of 1x2x2, perhaps too small" in refusal(lambda: build("cnn", (1, 2, 2)))


def test_rows_of_numbers_are_sent_to_the_mlp() -> None:
    assert num_parameters(build("mlp", (1, 1, 30))) > 0
    assert refusal(lambda: build("cnn", (1, 1, 30))).endswith("; choose 'mlp'")


def test_torchvision_models_take_one_or_three_channels() -> None:
    text = refusal(lambda: build("squeezenet1_1", (2, 64, 64)))
    assert text == "model 'squeezenet1_1' takes images of 1 or 3 channels, not 2"


def test_an_unknown_name_lists_ours_and_the_nearest_of_torchvision() -> None:
    text = refusal(lambda: build("resnet181"))
    assert text.startswith("unknown model 'resnet181' (did you mean 'resnet18'?); known: mlp, cnn, resnet18")
    assert text.endswith("any other torchvision classifier, or package.module:factory")
    assert "squeezenet1_1" in refusal(lambda: build("squeezenet11"))
    assert len(refusal(lambda: build("nothing like it"))) < 160
    assert "unknown model" in refusal(lambda: build("fcn_resnet50"))


FACTORIES = """
import torch
from torch import nn
def linear(input_shape, num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(784, num_classes))
def one_too_many(input_shape, num_classes): return linear(input_shape, num_classes + 1)
def no_arguments(): return nn.Identity()
def number(input_shape, num_classes): return 3
class Pair(nn.Module):
    def __init__(self, **_): super().__init__()
    def forward(self, x): return x, x
class Broken(Pair):
    def forward(self, x): raise ValueError("first line\\nsecond line")
def half(input_shape, num_classes):
    class Half(nn.Sequential):
        def forward(self, x): return super().forward(x.bfloat16()).float()
    return Half(nn.Flatten(), nn.Linear(784, num_classes, dtype=torch.bfloat16))
def turned(input_shape, num_classes):
    model = linear(input_shape, num_classes)
    model.turn = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    return model
class Infinite(Pair):
    def forward(self, x): return torch.full((2, 10), float("inf"))
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module `models_here` into the current folder."""
    (tmp_path / "models_here.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "models_here", raising=False)


@pytest.mark.usefixtures("beside")
def test_a_factory_builds_a_model_by_the_same_rules() -> None:
    first, again = build("models_here:linear", seed=5), build("models_here:linear", seed=5)
    assert first(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert torch.equal(weights(first), weights(again))


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("not_there:linear", "cannot import 'not_there'"),
        ("models_here:absent", "module 'models_here' has no 'absent'"),
        ("models_here:no_arguments", "model factory 'models_here:no_arguments' failed (TypeError"),
        ("models_here:number", "gave a int instead of a torch.nn.Module"),
        ("models_here:one_too_many", "gives [2, 11] for 2 inputs; it must give logits [2, 10]"),
        ("models_here:Pair", "gives a tuple for 2 inputs"),
        ("models_here:Broken", "(ValueError: first line)"),
        ("models_here:Infinite", "gives NaN or infinite logits"),
        ("models_here:half", "'1.weight' is bfloat16, which messages cannot carry; make it float32"),
        ("models_here:turned", "'turn' is complex64, which messages cannot carry"),
    ],
)
def test_every_mistake_in_a_factory_names_it(spec: str, reason: str) -> None:
    text = refusal(lambda: build(spec))
    assert spec.split(":")[0] in text
    assert reason in text


def test_importing_data_and_models_loads_nothing_heavy_but_torch() -> None:
    names = ("fedquit.client.data.datasets", "fedquit.client.models.architectures", "fedquit.client.data.partition")
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"flwr", "flwr_datasets", "datasets", "torchvision", "sklearn", "PIL", "pandas"} & set(loaded)
