"""The server's side of every method, on a federation in memory that really carries out the exercises."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fedquit.errors import FedquitError
from fedquit.unlearning import METHODS, ClientReply, Method, Session, make_method
from fedquit.unlearning.exchanges import Exchange
from fedquit.unlearning.methods.references import rollback_round
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import weighted_mean
from fedquit.unlearning.tensors.arithmetic import parameter_names
from fedquit.unlearning.tensors.convert import StateDict
from tests.unlearning.methods.fake_session import (
    GENTLE,
    ROUNDS,
    FakeSession,
    Kept,
    fresh,
    parameters,
    same,
    samples_of,
    serve,
    session,
    trained,
)

SERVED = sorted(METHODS)


def loss_of(state: StateDict, client: int) -> float:
    model = fresh(0)
    model.load_state_dict(dict(state))
    inputs, labels = samples_of(client).batch(slice(None))
    if client == 0:  # what it alone knows
        inputs, labels = inputs[labels == 2], labels[labels == 2]
    with torch.no_grad():
        return F.cross_entropy(model.eval()(inputs), labels).item()


class Forbidden:
    """A history that whoever touches it fails."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"history.{name} was touched")


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
