"""The decision about a model that is to become the global one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fedquit.errors import BadReplyError
from fedquit.strategies.guard.decide import Decision, Policy, admit_model, check_reply
from fedquit.strategies.guard.step_checks import Accuracy, Bounds, Recent, bounds_of
from fedquit.unlearning.methods.base import Traits, all_methods, make_method
from fedquit.unlearning.tensors.arithmetic import difference, norm
from fedquit.unlearning.tensors.convert import StateDict

CURRENT = {"a": torch.zeros(4), "b": torch.ones(4)}
USUAL = Recent([1.0, 1.2, 0.8], [0.1] * 3, [{"a": torch.full((4,), 0.5), "b": torch.full((4,), 0.01)}] * 3)
ACROSS = torch.tensor([1.0, -1.0, 1.0, -1.0])
NAMES = {"a", "b"}
POLICY = Policy()
POLICIES = ("adopt", "clip", "blend", "refuse")


def admit(new: object, policy: str, evaluate: Any = None, **bounds: Any) -> Decision:
    return admit_model(new, CURRENT, USUAL, Bounds(parameters=NAMES, **bounds), Policy(policy, 0.25), evaluate)


def length(decision: Decision) -> float:
    assert decision.state is not None
    return norm(difference(decision.state, CURRENT, NAMES))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_policy_decides_about_what_is_off_and_nothing_else(policy: str) -> None:
    assert admit({**CURRENT, "a": 0.1 * ACROSS}, policy).verdict == "adopt"
    decision = admit({**CURRENT, "a": 8 * ACROSS}, policy)
    assert (decision.verdict, decision.reason) == (policy, "length of the step 16 (at most 8)")
    if policy != "refuse":
        assert length(decision) == pytest.approx({"adopt": 16.0, "clip": 8.0, "blend": 2.0}[policy])


def test_a_clipped_model_is_within_the_bounds() -> None:
    new = {"a": 9 * ACROSS, "b": CURRENT["b"] + 3 * ACROSS}
    clipped = admit(new, "clip", reach=2.0)
    assert clipped.verdict == "clip"
    again = admit(clipped.state, "refuse", reach=2.0 + 1e-6, layer=25.001)
    assert (again.verdict, again.reason) == ("adopt", "")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_model_off_in_direction_is_refused_and_never_clipped(policy: str) -> None:
    along = {"a": torch.full((4,), 0.5), "b": CURRENT["b"]}
    far_along = {"a": torch.full((4,), 9.0), "b": CURRENT["b"]}
    for new in (along, far_along):
        decision = admit(new, policy)
        assert "cosine to training" in decision.reason
        assert decision.verdict == ("adopt" if policy == "adopt" else "refuse")
        assert (decision.state is None) == (policy != "adopt")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "new",
    [
        {**CURRENT, "a": torch.full((4,), float("nan"))},
        {**CURRENT, "a": torch.zeros(3)},
        {**CURRENT, "a": torch.zeros(4, dtype=torch.float64)},
        {"a": CURRENT["a"]},
        "no model",
    ],
)
def test_what_is_no_model_is_adopted_by_no_policy(policy: str, new: object) -> None:
    decision = admit(new, policy)
    assert (decision.verdict, decision.state) == ("refuse", None)
    assert decision.reason.startswith("no usable model")


def with_buffers(var: float, mean: float = 0.0) -> dict[str, Tensor]:
    return {
        "bn.weight": torch.ones(2),
        "bn.running_mean": torch.tensor([0.0, mean]),
        "bn.running_var": torch.tensor([1.0, var]),
        "bn.num_batches_tracked": torch.tensor(9),
    }


@pytest.mark.parametrize("step", ["result", "answers", "nothing"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_negative_variance_is_adopted_by_no_policy_and_from_no_method(policy: str, step: str) -> None:
    bounds = Bounds(parameters={"bn.weight"}, step=step)
    decision = admit_model(with_buffers(-50.0), with_buffers(1.0), Recent(), bounds, Policy(policy))
    assert decision.state is None
    assert "'bn.running_var': its smallest entry -50 (at least 0)" in decision.reason


@pytest.mark.parametrize("policy", ["refuse", "clip", "blend"])
@pytest.mark.parametrize(("var", "mean"), [(1e6, 0.0), (1.0, 1e3)])
def test_absurd_statistics_are_refused_and_never_clipped(policy: str, var: float, mean: float) -> None:
    bounds = Bounds(parameters={"bn.weight"})
    decision = admit_model(with_buffers(var, mean), with_buffers(1.0), Recent(), bounds, Policy(policy))
    assert decision.state is None
    assert "mean square of a channel" in decision.reason


def test_accuracy_is_that_of_what_would_be_adopted_not_of_what_came_in() -> None:
    seen: list[float] = []

    def evaluate(state: StateDict) -> Accuracy:
        seen.append(norm(difference(state, CURRENT, NAMES)))
        return Accuracy(0.9 if seen[-1] <= 8 else 0.0)

    assert admit({**CURRENT, "a": 8 * ACROSS}, "clip", evaluate).verdict == "clip"
    assert seen == pytest.approx([0.0, 8.0])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_model_below_the_floors_of_accuracy_is_refused_unless_all_is_adopted(policy: str) -> None:
    def evaluate(state: StateDict) -> Accuracy:
        return Accuracy(0.9 if state is CURRENT else 0.1)

    near = {**CURRENT, "a": 0.1 * ACROSS}
    assert admit(near, policy, evaluate).verdict == ("adopt" if policy == "adopt" else "refuse")
    assert "accuracy 0.1 (at least 0.297)" in admit(near, policy, evaluate).reason
    assert admit(near, policy, evaluate, keeps_accuracy=False).verdict == "adopt"
    assert admit(near, policy, lambda _state: None).verdict == "adopt"


def test_a_method_that_leads_far_away_is_not_compared_with_the_global_model() -> None:
    far = {"a": torch.full((4,), 9.0), "b": torch.full((4,), -9.0)}
    assert admit(far, "refuse").verdict == "refuse"
    assert admit(far, "refuse", step="answers").verdict == "adopt"
    assert admit(far, "refuse", step="nothing").verdict == "adopt"


@pytest.mark.parametrize("training", [True, False])
def test_where_the_result_is_not_compared_each_reply_is(training: bool) -> None:
    recent = Recent(USUAL.norms, USUAL.spreads, USUAL.updates, longest=2.0)
    bounds, refuse = Bounds(parameters=NAMES, step="answers"), Policy()
    sent = {"a": torch.full((4,), 100.0), "b": torch.full((4,), 50.0)}

    def answer(size: float) -> dict[str, Tensor]:
        return {**sent, "a": sent["a"] + size / 2 * ACROSS}

    most = 16.0 if training else 8.0  # training from anew may move as far as the first rounds did
    check_reply(answer(most - 0.1), sent, recent, bounds, refuse, training=training)
    with pytest.raises(BadReplyError, match="length of the step"):
        check_reply(answer(most + 0.1), sent, recent, bounds, refuse, training=training)
    check_reply(answer(most + 0.1), sent, recent, bounds, Policy("adopt"), training=training)
    check_reply(answer(most + 0.1), sent, recent, Bounds(parameters=NAMES), refuse, training=training)


def test_bounds_come_from_what_a_method_says_of_itself() -> None:
    told = {name: bounds_of(make_method(name), NAMES, [40, 80]) for name in all_methods()}
    assert {name for name, bounds in told.items() if bounds.step == "nothing"} == {"continue", "negate", "retrain"}
    assert {name for name, bounds in told.items() if bounds.step == "answers"} == {"federaser", "mode"}
    assert {name for name, bounds in told.items() if not bounds.keeps_accuracy} == {"negate", "retrain"}
    assert told["fedquit"].reach == make_method("fedquit").reach(80)
    assert bounds_of(make_method("fedquit", optimizer="adamw"), NAMES, [40]).reach is None


def test_no_reach_is_known_where_models_travel_with_loss() -> None:
    assert bounds_of(make_method("fedquit"), NAMES, [40], exact=False).reach is None


def test_a_plug_in_that_says_nothing_of_its_step_is_compared_like_fedquit() -> None:
    plain = Traits(frozenset({"client"}), "federation", "nothing", True, True, "theirs")
    assert (plain.step, plain.keeps_accuracy) == ("result", True)
    with pytest.raises(ValueError, match="step 'nothing' is for methods that run at the server"):
        Traits(frozenset({"client"}), "federation", "nothing", True, True, "theirs", step="nothing")


def test_the_refusal_of_a_model_is_short_however_many_layers_are_wrong() -> None:
    layers = [f"features.block{number}.norm" for number in range(500)]
    current = {f"{layer}.{part}": torch.ones(2) for layer in layers for part in ("running_mean", "running_var")}
    for value in (1e9, -1.0):
        decision = admit_model({name: value * ones for name, ones in current.items()}, current, USUAL, Bounds(), POLICY)
        assert decision.verdict == "refuse"
        assert len(str(decision.document())) < 10_000


@pytest.mark.parametrize(("size", "warns"), [(0.02, True), (0.04, False)])
def test_a_step_too_short_to_forget_is_warned_of_with_the_way_out(size: float, warns: bool) -> None:
    decision = admit({**CURRENT, "a": size * ACROSS}, "refuse", stronger="take longer steps")
    assert decision.verdict == "adopt"
    assert decision.moved == pytest.approx(2 * size)
    expected = (
        "the forget step is 0.04 times as long as one device's step in the longest round of training: it can hardly "
        "have forgotten anything; take longer steps"
    )
    assert decision.document()["warning"] == (expected if warns else "")


def test_a_method_that_undoes_many_rounds_may_step_as_far_as_the_longest() -> None:
    early = Recent(USUAL.norms, USUAL.spreads, USUAL.updates, longest=3.0)
    for size, undoes, reason in ((11, False, "at most 8"), (11, True, ""), (13, True, "at most 24")):
        bounds = Bounds(parameters=NAMES, undoes=undoes, reach=100.0)
        decision = admit_model({**CURRENT, "a": size * ACROSS}, CURRENT, early, bounds, POLICY)
        assert decision.verdict == ("refuse" if reason else "adopt")
        assert reason in decision.reason
    told = {name: bounds_of(make_method(name), NAMES, [40]).undoes for name in all_methods()}
    assert not any(told.values()), "the paper's values are compared with recent rounds"
    assert bounds_of(make_method("fedquit", lr="auto"), NAMES, [40]).undoes


def test_no_longer_step_is_advised_where_the_step_is_as_long_as_it_can_be() -> None:
    paper, auto = make_method("fedquit"), make_method("fedquit", lr="auto")
    assert "lr=auto" in bounds_of(paper, NAMES, [40]).stronger
    for method, clip, noise in ((auto, 0.0, 0.0), (paper, 0.1, 0.0), (paper, 0.1, 4.0)):
        bounds = bounds_of(method, NAMES, [40], clip=clip, noise=noise)
        assert admit_model(dict(CURRENT), CURRENT, USUAL, bounds, POLICY).warning == ""


def test_a_method_that_moves_nothing_on_purpose_is_not_warned_of() -> None:
    decision = admit(dict(CURRENT), "refuse")
    assert (decision.moved, decision.warning) == (0.0, "")
    unknown = admit_model(dict(CURRENT), CURRENT, Recent(), Bounds(parameters=NAMES, stronger="x"), POLICY)
    assert (unknown.moved, unknown.warning) == (None, "")
