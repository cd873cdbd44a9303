"""Each method against a plain computation of what its paper says."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.errors import InputError
from fedquit.unlearning import ClientReply, Samples, make_method
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.convert import StateDict
from tests.unlearning.methods.fake_session import (
    FakeSession,
    Kept,
    fresh,
    parameters,
    same,
    samples_of,
    serve,
    session,
    train,
    trained,
)


def flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in state.values()])


def like(value: Tensor, model: Tensor) -> Tensor:
    return (value if model.is_floating_point() else value.round()).to(model.dtype)


def test_negate_turns_the_first_layer_and_nothing_else() -> None:
    result, state = serve("negate"), trained()[0]
    assert torch.equal(result["0.weight"], -state["0.weight"])
    assert all(torch.equal(result[name], state[name]) for name in state if name != "0.weight")


def test_pseudo_ascent_mirrors_an_ordinary_round() -> None:
    state, result = trained()[0], serve("pseudo-ascent")
    update = train(state, 0, derive_seed(7, "ask", 1, 0))
    for name in state:
        expected = state[name] - 3.0 * (update[name] - state[name]) if name in parameters(state) else state[name]
        torch.testing.assert_close(result[name], expected)


def test_federaser_is_the_plain_replay() -> None:
    _, kept = trained()
    n = {c: len(samples_of(c)) for c in (1, 2, 3)}
    total = sum(n.values())
    start = kept.models[1]
    w = {
        k: like(start[k].double() + sum(n[c] / total * kept.updates[1, c][k].double() for c in n), start[k])
        for k in start
    }
    for call, number in ((1, 3), (2, 5)):
        models = {c: train(w, c, derive_seed(7, "ask", call, c)) for c in n}
        new = {k: sum((n[c] / total * models[c][k].double() for c in n), torch.tensor(0.0)) for k in w}  # buffers
        for k in parameters(w):
            new[k] = w[k].double()
        for c, model in models.items():
            fresh_update = {k: model[k].double() - w[k].double() for k in parameters(w)}
            stored = flat({k: kept.updates[number, c][k] for k in fresh_update})
            for k, value in fresh_update.items():
                new[k] = new[k] + n[c] / total * float(stored.norm() / flat(fresh_update).norm()) * value
        w = {k: like(new[k], w[k]) for k in w}
    result = serve("federaser")
    for k in w:
        torch.testing.assert_close(result[k], w[k], rtol=1e-5, atol=1e-5)


def test_federaser_survives_updates_of_zero() -> None:
    state, kept = trained()
    frozen = replace(kept, updates={k: {n: torch.zeros_like(v) for n, v in u.items()} for k, u in kept.updates.items()})
    result = serve("federaser", history=frozen)
    assert all(torch.equal(result[n], kept.models[1][n]) for n in parameters(state)), "zero length: nothing moves"

    class Still(FakeSession):
        def run(self, exercise: str, clients: Sequence[int], state: StateDict, **_: Any) -> Iterator[ClientReply]:
            return (ClientReply(client, state, 1, {}) for client in clients)

    method = make_method("federaser")
    result = method.serve(Still(method, state, kept.models[1], kept))
    assert all(bool(value.isfinite().all()) for value in result.values())


def test_what_history_lacks_is_said_with_the_way_out() -> None:
    _, kept = trained()
    with pytest.raises(InputError, match=r"federaser: the updates of round 1 were not kept; keep history while train"):
        serve("federaser", history=Kept())
    with pytest.raises(InputError, match="round 1 were not kept"):
        serve("federaser", history=replace(kept, models={3: kept.models[3]}))
    with pytest.raises(InputError, match=r"no remaining client took part in a kept round; use retrain"):
        serve("federaser", history=replace(kept, updates={}))
    with pytest.raises(InputError, match=r"projected-ascent: the last round's updates were not kept.* or use ascent"):
        serve("projected-ascent", history=Kept())
    absent = replace(kept, updates={k: v for k, v in kept.updates.items() if k[1] != 0})
    with pytest.raises(InputError, match=r"client 0 took no part in round 6; use ascent"):
        serve("projected-ascent", history=absent)
    with pytest.raises(InputError, match=r"nobody but the forgotten clients took part in round 6"):
        serve("projected-ascent", history=replace(kept, log={**kept.log, 6: (0,)}))
    with pytest.raises(InputError, match="mode: no client stays"):
        serve("mode", forgotten=(0, 1, 2, 3))


def test_projected_ascent_ends_inside_its_ball() -> None:
    state, kept = trained()
    own = {n: kept.models[6][n].double() + kept.updates[6, 0][n].double() for n in parameters(state)}
    start = {n: (4 * state[n].double() - own[n]) / 3 for n in own}
    seeds = [derive_seed(7, "fresh model", i) for i in range(10)]
    distances = [float((flat(parameters(fresh(s).state_dict())) - flat(start)).norm()) for s in seeds]
    method = make_method("projected-ascent", lr=5.0, stop_distance=0.0)
    result = method.serve(session(method))
    away = float((flat(parameters(result)) - flat(start)).norm())
    assert away == pytest.approx(sum(distances) / 10 / 3, rel=1e-4), "so large a step ends on the ball's surface"


def test_mode_dilutes_then_guides() -> None:
    method = make_method("mode", rounds=2, guidance_rounds=1, batch_size=64)
    ready = session(method)
    result = method.serve(ready)
    assert [(what, clients) for what, clients, _ in ready.asked] == [
        ("train", (1, 2, 3)),
        ("train", (1, 2, 3)),
        ("guide", (0,)),
    ]
    n = {c: len(samples_of(c)) for c in (1, 2, 3)}
    w: StateDict = trained()[0]
    de: StateDict = fresh(derive_seed(7, "degradation model")).state_dict()
    for call in (1, 2):
        models = {c: train(de, c, derive_seed(7, "ask", call, c)) for c in n}
        de = {k: sum(n[c] * models[c][k].double() for c in n).div(sum(n.values())) for k in de}  # type: ignore[union-attr]
        de = {k: v.round().long() if "num_" in k else v.float() for k, v in de.items()}
        w = {k: v if "num_" in k else 0.95 * v + 0.05 * de[k] for k, v in w.items()}
    judge, student = fresh(0), fresh(0)
    judge.load_state_dict(dict(de))
    student.load_state_dict(dict(w))
    inputs = samples_of(0).inputs
    labels = judge.eval()(inputs).argmax(dim=1)
    F.cross_entropy(student.eval()(inputs), labels).backward()  # type: ignore[no-untyped-call]
    for name, parameter in student.named_parameters():  # 60 samples in batches of 64: one step
        assert parameter.grad is not None
        torch.testing.assert_close(result[name], parameter.detach() - 0.01 * parameter.grad, rtol=1e-4, atol=1e-5)


def test_auxiliary_head_changes_the_classifier_alone_and_keeps_its_share() -> None:
    state, result = trained()[0], serve("auxiliary-head")
    assert all(torch.equal(result[name], state[name]) for name in state if not name.startswith("3."))
    whole = make_method("auxiliary-head", keep=0.0)
    auxiliary = whole.serve(session(whole))
    for name in ("3.weight", "3.bias"):
        torch.testing.assert_close(result[name], 0.04 * state[name] + 0.96 * auxiliary[name])
    everything = make_method("auxiliary-head", keep=1.0)
    assert same(everything.serve(session(everything)), state)


def test_auxiliary_head_can_start_from_the_classifier_in_use() -> None:
    method = make_method("auxiliary-head", start="classifier", epochs=1, batch_size=64, keep=0.0)
    state = trained()[0]
    result = method.serve(session(method))
    moved = (result["3.weight"] - state["3.weight"]).norm()
    fresh_one = make_method("auxiliary-head", epochs=1, batch_size=64, keep=0.0)
    assert 0 < moved < (fresh_one.serve(session(fresh_one))["3.weight"] - state["3.weight"]).norm()


def test_auxiliary_head_needs_a_classifier() -> None:
    with pytest.raises(InputError, match="no linear layer"):
        make_method("auxiliary-head").on_device(
            nn.Conv1d(1, 2, 1), Samples(torch.ones(1, 1, 1), torch.zeros(1)), seed=0
        )


def test_one_epoch_in_one_batch_makes_orthogonal_project_exact_gradients() -> None:
    state = trained()[0]

    def gradient(client: int, *, unlearn: bool) -> Tensor:
        model = fresh(0)
        model.load_state_dict(dict(state))
        inputs, labels = samples_of(client).batch(slice(None))
        p = model.eval()(inputs).softmax(dim=1).gather(1, labels[:, None])
        loss = -(1 - p / 2).log().mean() if unlearn else -p.log().mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]).double()

    own = gradient(0, unlearn=True)
    others = torch.stack([gradient(c, unlearn=False) for c in (1, 2, 3)])
    rest = own - torch.linalg.pinv(others) @ (others @ own)
    method = make_method("orthogonal", rounds=1, lr=0.5, epochs=1, batch_size=100)
    result = method.serve(session(method))
    moved = (flat(parameters(result)) - flat(parameters(state))) / -0.5
    torch.testing.assert_close(moved, rest * (own.norm() / rest.norm()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("forgotten", [(0,), (0, 2)])
def test_orthogonal_projects_what_local_epochs_of_every_client_come_to(forgotten: tuple[int, ...]) -> None:
    lr, rounds, epochs, batch = 0.05, 3, 2, 16
    assert len({len(samples_of(client)) for client in range(4)}) == 4, "of unequal sizes"
    w, net = trained()[0], fresh(0).eval()
    names = [name for name, _ in net.named_parameters()]

    def pseudo_gradient(client: int, seed: int) -> Tensor:
        net.load_state_dict(dict(w))
        order = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for index in torch.split(torch.randperm(len(samples_of(client)), generator=order), batch):
                inputs, labels = samples_of(client).batch(index)
                p = net(inputs).softmax(dim=1)[torch.arange(len(index)), labels]
                loss = -(1 - p / 2).log().mean() if client in forgotten else -p.log().mean()
                slopes = torch.autograd.grad(loss, list(net.parameters()))
                for weight, slope in zip(net.parameters(), slopes, strict=True):
                    weight.data -= lr * slope
        trained_here = {name: weight.detach() for name, weight in net.named_parameters()}
        return (flat({name: w[name] for name in names}) - flat(trained_here)) / lr

    for number in range(rounds):
        own = {c: pseudo_gradient(c, derive_seed(7, "ask", 2 * number + 1, c)) for c in forgotten}
        rest = {c: pseudo_gradient(c, derive_seed(7, "ask", 2 * number + 2, c)) for c in {0, 1, 2, 3} - {*forgotten}}
        counts = torch.tensor([float(len(samples_of(c))) for c in own], dtype=torch.float64)
        g, others = counts @ torch.stack(list(own.values())) / counts.sum(), torch.stack(list(rest.values()))
        free = g - others.T @ torch.linalg.solve(others @ others.T, others @ g)
        step = torch.split(lr * free * g.norm() / free.norm(), [w[name].numel() for name in names])
        moves = {name: part.reshape(w[name].shape).float() for name, part in zip(names, step, strict=True)}
        w = {name: value - moves[name] if name in moves else value for name, value in w.items()}
    method = make_method("orthogonal", lr=lr, rounds=rounds, epochs=epochs, batch_size=batch)
    result = method.serve(session(method, forgotten=forgotten))
    for name in w:
        torch.testing.assert_close(result[name], w[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("times", [1e-3, 1e12])
def test_how_long_the_update_of_another_client_is_does_not_move_orthogonal(times: float) -> None:
    class Stretching(FakeSession):
        def run(self, exercise: str, clients: Sequence[int], state: StateDict, **rest: Any) -> Iterator[ClientReply]:
            for reply in super().run(exercise, clients, state, **rest):
                longer = {
                    n: v + (times - 1) * (v - state[n]) if v.is_floating_point() else v for n, v in reply.state.items()
                }
                yield replace(reply, state=longer) if reply.client == 2 else reply

    method, (state, kept) = make_method("orthogonal", lr=0.05, rounds=1), trained()
    honest = method.serve(session(method))
    stretched = method.serve(Stretching(method, state, kept.models[1], kept))
    torch.testing.assert_close(flat(parameters(stretched)), flat(parameters(honest)), rtol=1e-3, atol=1e-4)


def test_ascent_clips_each_step_stops_at_its_bound_and_stays_finite() -> None:
    state = trained()[0]
    wild = make_method("ascent", lr=100.0, epochs=20)
    assert all(bool(v.isfinite().all()) for v in wild.serve(session(wild)).values())
    short = make_method("ascent", lr=0.5, epochs=1, clip=0.01, batch_size=64)
    step = flat(parameters(short.serve(session(short)))) - flat(parameters(state))
    assert float(step.norm()) == pytest.approx(0.005, rel=1e-3)
    model = fresh(0)
    model.load_state_dict(dict(state))
    losses = make_method("ascent", lr=1.0, epochs=50, max_loss=1.0).on_device(model, samples_of(0), seed=0)
    assert len(losses) < 50
    assert losses[-1] > 0.9


def test_retrain_starts_from_the_last_model_that_never_saw_the_leaver() -> None:
    _, kept = trained()
    method = make_method("retrain")
    assert same(serve("retrain"), kept.models[1])
    late = replace(kept, log={n: (1, 2) if n < 4 else (0, 1, 2, 3) for n in kept.log})
    assert same(serve("retrain", history=late), kept.models[4])
    assert method.restart_round(session(method, history=late)) == 4
    assert same(serve("retrain", history=late, forgotten=(0, 1)), kept.models[1])
    assert same(serve("retrain", history=Kept()), kept.models[1]), "nothing kept: the initial model"
    assert method.restart_round(session(method, history=Kept())) == 1
