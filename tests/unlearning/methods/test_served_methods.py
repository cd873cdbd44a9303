"""The server's side of every method, on a federation in memory that really carries out the exercises."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.errors import FedquitError, InputError
from fedquit.unlearning import METHODS, ClientReply, Method, Samples, Session, make_method
from fedquit.unlearning.exchanges import Exchange
from fedquit.unlearning.methods.references import rollback_round
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import History, weighted_mean
from fedquit.unlearning.tensors.arithmetic import parameter_names
from fedquit.unlearning.tensors.convert import StateDict

CLIENTS, ROUNDS = 4, 6
SERVED = sorted(METHODS)
GENTLE: dict[str, dict[str, Any]] = {  # settings that suit so small a model
    "fedquit": {"lr": 0.02, "epochs": 5},
    "ascent": {"lr": 0.1, "epochs": 3},
    "projected-ascent": {"lr": 0.1, "stop_distance": 0.0},
    "pseudo-ascent": {"scale": 3.0},
    "mode": {"rounds": 25, "guidance_rounds": 3, "lr": 0.1},
    "orthogonal": {"rounds": 20, "lr": 1.0},
}


def fresh(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def samples_of(client: int) -> Samples:
    """Client 0 alone holds class 2, two thirds of its samples; the others hold classes 0 and 1 alone."""
    draw = torch.Generator().manual_seed(client)
    labels = torch.tensor([2, 0, 2, 1, 2, 2] * 10) if client == 0 else torch.arange(24 + 6 * client) % 2
    centres = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]])
    return Samples(centres[labels] + 0.5 * torch.randn(len(labels), 4, generator=draw), labels)


def loss_of(state: StateDict, client: int) -> float:
    model = fresh(0)
    model.load_state_dict(dict(state))
    inputs, labels = samples_of(client).batch(slice(None))
    if client == 0:  # what it alone knows
        inputs, labels = inputs[labels == 2], labels[labels == 2]
    with torch.no_grad():
        return F.cross_entropy(model.eval()(inputs), labels).item()


def train(state: StateDict, client: int, seed: int, epochs: int = 1, lr: float = 0.1) -> StateDict:
    model, samples = fresh(0), samples_of(client)
    model.load_state_dict(dict(state))
    optimizer, order = torch.optim.SGD(model.parameters(), lr=lr), torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.split(torch.randperm(len(samples), generator=order), 10):
            inputs, labels = samples.batch(index)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return copy.deepcopy(model.state_dict())


@dataclass
class Kept:
    models: dict[int, StateDict] = field(default_factory=dict)
    updates: dict[tuple[int, int], StateDict] = field(default_factory=dict)
    log: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def rounds(self) -> Sequence[int]:
        return sorted(self.models)

    def model(self, number: int) -> StateDict:
        return self.models[number]

    def update(self, number: int, client: int) -> StateDict | None:
        return self.updates.get((number, client))

    def participants(self, number: int) -> Collection[int]:
        return self.log.get(number, ())


class Forbidden:
    """A history that whoever touches it fails."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"history.{name} was touched")


@dataclass
class FakeSession:
    method: Method
    current: StateDict
    initial: StateDict
    history: History
    forgotten: tuple[int, ...] = (0,)
    seed: int = 7
    proxy: Samples | None = None
    input_shape: tuple[int, ...] = (4,)
    silent: tuple[int, ...] = ()
    asked: list[tuple[str, tuple[int, ...], dict[str, float]]] = field(default_factory=list)

    @property
    def remaining(self) -> tuple[int, ...]:
        return tuple(c for c in range(CLIENTS) if c not in self.forgotten)

    @property
    def num_examples(self) -> Mapping[int, int]:
        return {c: len(samples_of(c)) for c in range(CLIENTS)}

    def fresh(self, seed: int) -> nn.Module:
        return fresh(seed)

    def run(
        self,
        exercise: str,
        clients: Sequence[int],
        state: StateDict,
        *,
        step: str = "forget",
        extra: StateDict | None = None,
        **config: float,
    ) -> Iterator[ClientReply]:
        self.asked.append((step if exercise == "forget" else exercise, tuple(clients), config))
        call = len(self.asked)
        for client in sorted(clients, key=lambda c: derive_seed(call, c)):  # some order of arrival
            if client in self.silent:
                continue
            seed, samples = derive_seed(self.seed, "ask", call, client), samples_of(client)
            if exercise == "train":
                new = train(state, client, seed, epochs=int(config.get("epochs", 1)), lr=config.get("lr", 0.1))
            else:
                model = fresh(0)
                model.load_state_dict(dict(state))
                losses = self.method.on_device(model, samples, seed=seed, step=step, config=config, extra=extra)
                assert losses
                new = copy.deepcopy(model.state_dict())
            yield ClientReply(client, new, len(samples), {})


@cache
def trained() -> tuple[StateDict, Kept]:
    """Ordinary federated averaging, everything kept."""
    state, kept = copy.deepcopy(fresh(0).state_dict()), Kept()
    for number in range(1, ROUNDS + 1):
        new = {c: train(state, c, derive_seed(number, c), epochs=5) for c in range(CLIENTS)}
        kept.models[number], kept.log[number] = state, tuple(new)
        for client, model in new.items():
            kept.updates[number, client] = {name: model[name] - state[name] for name in state}
        state = weighted_mean(ClientReply(c, model, len(samples_of(c)), {}) for c, model in new.items())
    return state, kept


def session(method: Method, **changes: Any) -> FakeSession:
    state, kept = trained()
    return replace(FakeSession(method, state, kept.models[1], kept), **{"asked": [], **changes})


def serve(name: str, **changes: Any) -> StateDict:
    method = make_method(name, **GENTLE.get(name, {}))
    return method.serve(session(method, **changes))


def same(one: StateDict, other: StateDict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def parameters(state: StateDict) -> dict[str, Tensor]:
    return {name: value.double() for name, value in state.items() if "running" not in name and "num_" not in name}


def flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.double().flatten() for value in state.values()])


def like(value: Tensor, model: Tensor) -> Tensor:
    return (value if model.is_floating_point() else value.round()).to(model.dtype)


@dataclass
class Listening(FakeSession):
    """A session that writes down what is asked as a method foretells it."""

    heard: list[Exchange] = field(default_factory=list)

    def run(self, exercise: str, clients: Sequence[int], state: StateDict, **rest: Any) -> Iterator[ClientReply]:
        extra = rest.get("extra")
        kind = "nothing" if extra is None else "state" if extra.keys() == state.keys() else "parameters"
        if kind == "parameters":
            assert (extra or {}).keys() == parameter_names(fresh(0))
        told = tuple(name for name in rest if name not in ("step", "extra"))
        self.heard.append(Exchange(exercise, tuple(clients), rest.get("step", "forget"), told, kind))
        yield from super().run(exercise, clients, state, **rest)


FORETOLD: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SERVED),
    ("fedquit", {"lr": "auto"}),
    ("federaser", {"interval": 1}),
    ("federaser", {"interval": 4, "epochs": 2}),
    ("mode", {"rounds": 2, "guidance_rounds": 3}),
    ("orthogonal", {"rounds": 3}),
]


@pytest.mark.parametrize("forgotten", [(0,), (0, 2)])
@pytest.mark.parametrize(("name", "settings"), FORETOLD, ids=str)
def test_what_a_method_says_it_will_ask_is_what_it_asks(
    name: str, settings: dict[str, Any], forgotten: tuple[int, ...]
) -> None:
    method = make_method(name, **settings)
    state, kept = trained()
    log = {number: clients if number != 5 else (0, 3) for number, clients in kept.log.items()}
    updates = {key: value for key, value in kept.updates.items() if key[1] in log[key[0]]}
    history = Kept(kept.models, updates, log)
    listening = Listening(method, state, kept.models[1], history, forgotten=forgotten, proxy=samples_of(3))
    if name == "projected-ascent":  # it needs the forgotten clients in the last round
        assert set(forgotten) <= set(log[ROUNDS])
    foretold = method.exchanges(listening)
    method.serve(listening)
    assert foretold is not None
    assert [replace(one, passes=None) for one in foretold] == listening.heard


def test_what_a_method_asks_that_does_not_say_it_is_not_known() -> None:
    class Silent(Method):
        def serve(self, session: Session) -> StateDict:
            return weighted_mean(session.run("train", session.remaining, session.current))

    class Plain(Method):
        pass

    assert Silent().exchanges(session(Silent())) is None
    assert Plain().exchanges(session(Plain())) == (Exchange("forget", (0,)),)


def test_the_fake_session_is_one() -> None:
    ready: Session = session(make_method("continue"))
    assert ready.remaining == (1, 2, 3)
    assert loss_of(ready.current, 0) < 0.3, "the leaver's samples are learned, so there is something to forget"


@pytest.mark.parametrize("name", SERVED)
def test_the_same_seed_gives_the_same_bits_and_a_usable_model(name: str) -> None:
    result = serve(name)
    assert same(result, serve(name))
    state = trained()[0]
    assert {n: (v.shape, v.dtype) for n, v in result.items()} == {n: (v.shape, v.dtype) for n, v in state.items()}
    assert all(bool(value.isfinite().all()) for value in result.values())
    assert all(bool((value >= 0).all()) for n, value in result.items() if n.endswith("running_var"))
    fresh(0).load_state_dict(dict(result))


@pytest.mark.parametrize("name", [name for name in SERVED if name != "continue"])
def test_the_loss_on_the_leaver_rises(name: str) -> None:
    assert loss_of(serve(name), 0) > 2 * loss_of(trained()[0], 0)


@pytest.mark.parametrize("name", ["federaser", "orthogonal", "mode"])
def test_methods_that_ask_the_others_keep_what_they_know(name: str) -> None:
    for client in (1, 2, 3):
        assert loss_of(serve(name), client) < 0.5


@pytest.mark.parametrize("name", SERVED)
def test_several_forgotten_clients_at_once(name: str) -> None:
    assert "client" in METHODS[name].traits.granularities
    result = serve(name, forgotten=(0, 2))
    assert all(bool(value.isfinite().all()) for value in result.values())
    if name not in ("continue", "negate", "retrain"):  # those do not depend on who leaves
        assert not same(result, serve(name))


@pytest.mark.parametrize("name", SERVED)
def test_traits_tell_the_truth(name: str) -> None:
    method = make_method(name, **GENTLE.get(name, {}))
    traits = method.traits
    ready = session(method)
    if traits.history in ("none", "initial"):
        ready = replace(ready, history=Forbidden(), asked=[])
    method.serve(ready)
    asked = {client for _, clients, _ in ready.asked for client in clients}
    assert traits.needs_device == (0 in asked)
    place = "server" if not asked else "device" if asked <= {0} else "federation"
    assert traits.runs_at == place


def test_history_last_reads_no_earlier_round_and_secure_methods_no_update() -> None:
    _, kept = trained()
    only = Kept({ROUNDS: kept.models[ROUNDS]}, {k: v for k, v in kept.updates.items() if k[0] == ROUNDS}, kept.log)
    assert same(serve("projected-ascent", history=only), serve("projected-ascent"))
    assert same(serve("retrain", history=replace(kept, updates={})), serve("retrain"))
    odd = Kept({n: m for n, m in kept.models.items() if n % 2}, kept.updates, kept.log)
    assert same(serve("federaser", history=odd), serve("federaser")), "every second round is enough"


@pytest.mark.parametrize("name", [name for name in SERVED if METHODS[name].traits.needs_device])
def test_a_forgotten_client_that_does_not_reply_is_named(name: str) -> None:
    with pytest.raises(FedquitError, match=r"no usable answer came from client\(s\) 0"):
        serve(name, silent=(0,))


@pytest.mark.parametrize("name", ["federaser", "orthogonal", "mode"])
def test_a_remaining_client_that_does_not_reply_is_skipped(name: str) -> None:
    assert all(bool(value.isfinite().all()) for value in serve(name, silent=(2,)).values())


@pytest.mark.parametrize("name", ["fedquit", "ascent", "auxiliary-head"])
def test_one_leaver_replaces_the_model_and_several_are_weighed_by_samples(name: str) -> None:
    method, state = make_method(name, **GENTLE.get(name, {})), trained()[0]

    def student(client: int) -> StateDict:
        model = fresh(0)
        model.load_state_dict(dict(state))
        method.on_device(model, samples_of(client), seed=derive_seed(7, "ask", 1, client))
        return model.state_dict()

    assert same(method.serve(session(method)), student(0))
    both, n = method.serve(session(method, forgotten=(0, 2))), {c: len(samples_of(c)) for c in (0, 2)}
    for key, g in parameters(state).items():
        shift = sum(n[c] / sum(n.values()) * (student(c)[key].double() - g) for c in n)
        torch.testing.assert_close(both[key].double(), g + shift, rtol=1e-6, atol=1e-6)


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


def test_orthogonal_is_the_plain_projection_of_exact_gradients() -> None:
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
    method = make_method("orthogonal", rounds=1, lr=0.5)
    result = method.serve(session(method))
    moved = (flat(parameters(result)) - flat(parameters(state))) / -0.5
    torch.testing.assert_close(moved, rest * (own.norm() / rest.norm()), rtol=1e-3, atol=1e-5)


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


def test_a_round_that_was_not_kept_counts_when_looking_back() -> None:
    _, kept = trained()
    odd = Kept({n: kept.models[n] for n in (1, 3, 5)}, {}, {1: (1,), 2: (0, 1), 3: (1,), 4: (1,), 5: (1,)})
    assert rollback_round(odd, {0}) == 1, "client 0 was in round 2, so the model before round 3 knows it"
    assert rollback_round(odd, {2}) == 5
    assert rollback_round(Kept(), {0}) is None


def test_the_caller_random_numbers_and_modes_are_left_alone() -> None:
    for name in SERVED:
        torch.manual_seed(1)
        expected = torch.rand(2)
        torch.manual_seed(1)
        serve(name)
        assert torch.equal(torch.rand(2), expected), name
