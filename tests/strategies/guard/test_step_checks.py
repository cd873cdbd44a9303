"""The guard of forgetting: honest models go through, sabotage does not, and a policy decides in between."""

import pytest
import torch

from fedquit.strategies.guard.finding import broken
from fedquit.strategies.guard.step_checks import Accuracy, Bounds, Recent, accuracy_findings, bounds_of, step_findings
from fedquit.unlearning.leak.blurred_step import blurred
from fedquit.unlearning.methods.base import make_method
from fedquit.unlearning.methods.fedquit import FedQUIT, adam_reach
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.arithmetic import difference
from tests.harness.sabotage import SABOTAGE, Setting, Trained, look, train

HARMLESS = "noise, 1 usual step long"


@pytest.fixture(scope="module", params=["dirichlet", "iid"])
def trained(request: pytest.FixtureRequest) -> Trained:
    return train(Setting("mlp", request.param, 5, lr=1e-3 if request.param == "iid" else 1e-4, rounds=8))


@pytest.mark.parametrize("trusted", [False, True])
def test_every_honest_model_goes_through(trained: Trained, trusted: bool) -> None:
    for device in range(len(trained.shares)):
        decision = look(trained, device, trained.honest(device), trusted=trusted)
        assert (decision.verdict, decision.reason) == ("adopt", "")


@pytest.mark.parametrize("kind", [kind for kind in SABOTAGE if kind != HARMLESS])
def test_no_sabotage_goes_through(trained: Trained, kind: str) -> None:
    for device in range(len(trained.shares)):
        assert look(trained, device, dict(SABOTAGE[kind](trained, device)), trusted=False).verdict == "refuse"


@pytest.mark.parametrize("gradient", [1.0, -3e4, 1e-3])
@pytest.mark.parametrize("steps", [1, 10, 300])
def test_no_gradients_move_adam_beyond_its_reach(steps: int, gradient: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    adam = torch.optim.Adam([weight], lr=1e-3, eps=1e-7)
    for step in range(steps):  # nothing for long, and then a lot, is what moves it furthest
        weight.grad = torch.full_like(weight, gradient if step >= steps - 12 else 0.0)
        adam.step()
        assert float(weight.detach().abs()) <= 1e-3 * adam_reach(step + 1)


def test_a_device_moves_no_weight_further_than_the_method_says() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method, samples = FedQUIT(lr=0.05, epochs=3, batch_size=8), Samples(torch.randn(33, 4), torch.randint(3, (33,)))
    method.forget(model, samples, seed=0)
    furthest = max(float(value.abs().max()) for value in difference(model.state_dict(), before, set(before)).values())
    assert 0.05 < furthest <= (method.reach(33) or 0)


def test_adamw_says_that_its_reach_is_not_known() -> None:
    assert FedQUIT(optimizer="adamw").reach(10) is None


CURRENT = {"a": torch.zeros(4), "b": torch.ones(4)}
USUAL = Recent([1.0, 1.2, 0.8], [0.1, 0.1, 0.1], [{"a": torch.full((4,), 0.5), "b": torch.full((4,), 0.01)}] * 3)
BOUNDS = Bounds(parameters={"a", "b"})
ACROSS = torch.tensor([1.0, -1.0, 1.0, -1.0])


def off(new: dict[str, torch.Tensor], recent: Recent = USUAL) -> list[str]:
    return [finding.what for finding in step_findings(new, CURRENT, recent, BOUNDS) if not finding.holds]


def test_a_long_step_is_detected_against_recent_ones() -> None:
    assert off({**CURRENT, "a": 4.5 * ACROSS}) == ["length of the step"]
    assert off({**CURRENT, "a": 3.9 * ACROSS}) == []


def test_a_broken_layer_does_not_hide_in_a_step_of_usual_length() -> None:
    assert off({**CURRENT, "b": 1 + 0.3 * ACROSS}) == ["a layer's step, in times of its usual one,"]


def test_a_layer_that_training_leaves_still_may_move_by_the_optimizers_reach() -> None:
    still = Recent(USUAL.norms, USUAL.spreads, [{**update, "b": torch.zeros(4)} for update in USUAL.updates])
    new = {**CURRENT, "b": 1 + 0.1 * ACROSS}
    layers = [f.holds for f in step_findings(new, CURRENT, still, BOUNDS) if f.what.startswith("a layer")]
    known = step_findings(new, CURRENT, still, Bounds(parameters={"a", "b"}, reach=0.101))
    assert layers == [False]
    assert all(finding.holds for finding in known)


def test_a_step_that_goes_where_training_goes_is_seen() -> None:
    assert off({"a": torch.full((4,), 0.5), "b": CURRENT["b"]}) == ["cosine to training"]
    assert off({"a": torch.full((4,), -0.5), "b": CURRENT["b"]}) == ["cosine to training"]


def test_without_recent_rounds_nothing_is_made_up() -> None:
    assert step_findings({**CURRENT, "a": torch.full((4,), 9.0)}, CURRENT, Recent(), BOUNDS) == ()


def test_a_class_that_was_asked_to_be_forgotten_may_be_lost_and_others_may_not() -> None:
    before = Accuracy(0.9, dict.fromkeys(range(4), 0.9))
    after = Accuracy(0.5, {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.9})
    assert [f.holds for f in accuracy_findings(after, before, BOUNDS)] == [True, False]
    assert all(f.holds for f in accuracy_findings(after, before, Bounds(asked={0, 1})))


@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_the_noise_that_the_server_asked_for_is_not_out_of_bounds(trained: Trained, noise: float) -> None:
    clip, current, before = 0.06, trained.state, trained.names
    recent = Recent(norms=[0.05], updates=[{name: torch.full_like(current[name], 1e-4) for name in before}])
    for seed in range(5):
        sent = blurred(trained.honest(0), current, before, clip=clip, noise=noise, seed=seed)
        told = bounds_of(make_method("fedquit"), before, [40], clip=clip, noise=noise)
        assert broken(step_findings(sent, current, recent, told)) == ""
        untold = bounds_of(make_method("fedquit"), before, [40], exact=False)
        assert "length of the step" in broken(step_findings(sent, current, recent, untold))
        twice = {name: 2 * sent[name] - current[name] if name in before else sent[name] for name in sent}
        assert "length of the step" in broken(step_findings(twice, current, recent, told))  # a liar's is no noise
