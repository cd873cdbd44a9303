"""Every model that is to become the global one passes the guard: whatever the method, and wherever it runs."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, MetricRecord
from torch import nn
from torch.nn.functional import cross_entropy

from fedquit.client.device.device import model_with
from fedquit.client.training.sgd import evaluate
from fedquit.server.ledger import Event, Request
from fedquit.server.lifecycle.request_seeds import RequestSeeds
from fedquit.strategies.grid.array_record import arrays_of_record, record_of
from fedquit.unlearning.methods.orthogonal import Orthogonal, unlearning_loss
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.fitting import full_gradient
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

Make = Callable[..., Rehearsal]
ASKER = 1


class Lying(KitGrid):
    """A grid on which some members hand back something else while a request is served, or while they train.

    Attributes:
        liars: those members; `lie` makes another reply of theirs.
        in_training: whether it is in ordinary training that they lie.
    """

    liars: frozenset[int] = frozenset()
    in_training = False
    lie: Callable[[Message], Message] = staticmethod(lambda reply: reply)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in list(messages):
            told, kind = message.content.config_records["config"], message.metadata.message_type
            lies = kind == "train" and "request" not in told if self.in_training else "request" in told
            lies = lies and kind != "evaluate" and self._members[message.metadata.dst_node_id] in self.liars
            for reply in super().send_and_receive([message], timeout=timeout):
                yield self.lie(reply) if lies else reply


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a deployment that has trained for six rounds, and kept what every method needs."""
    every = {"forgetting": {"method": "fedquit", "fallback": ["federaser", "retrain", "negate"]}}
    rehearsal = rehearse(tmp_path_factory.mktemp("guarded") / "made", every, samples=400)
    rehearsal.run(rehearsal.grid(), rounds=6)
    return rehearsal.folder


@pytest.fixture
def make(template: Path, tmp_path: Path) -> Make:
    def made(**tables: dict[str, Any]) -> Rehearsal:
        rehearsal = Rehearsal(shutil.copytree(template, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))
        rehearsal.tell(tables)
        return rehearsal

    return made


def lying(rehearsal: Rehearsal, liars: Iterable[int], lie: Callable[[Message], Message]) -> Lying:
    grid = Lying(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    grid.liars, grid.lie = frozenset(liars), lie
    return grid


def random_weights(reply: Message) -> Message:
    draw = np.random.default_rng(1)
    arrays = arrays_of_record(reply.content.array_records["arrays"])
    noise = {name: draw.standard_normal(a.shape).astype(a.dtype) for name, a in arrays.items()}
    reply.content["arrays"] = record_of(noise)
    return reply


def claims(count: int) -> Callable[[Message], Message]:
    def lie(reply: Message) -> Message:
        [(name, record)] = reply.content.metric_records.items()
        reply.content[name] = MetricRecord({**record, "num-examples": count})
        return reply

    return lie


def outcome(rehearsal: Rehearsal, request: Request) -> tuple[Request, list[Event]]:
    with rehearsal.ledger() as ledger:
        assert ledger.check_chain() == []
        return ledger.request(request.id), ledger.events(request=request.id)


def accuracy(rehearsal: Rehearsal, grid: KitGrid) -> float:
    """Return the global model's accuracy on test samples."""
    data = np.load(rehearsal.server / "trusted.npz")
    samples = Samples(torch.from_numpy(data["x"]), torch.from_numpy(data["y"]))
    with rehearsal.place(grid) as place:
        return evaluate(model_with(place.settings, place.state(place.current())), samples)[1]


def stretched(reply: Message) -> Message:
    arrays = arrays_of_record(reply.content.array_records["arrays"])
    reply.content["arrays"] = record_of({name: a * a.dtype.type(1e30) for name, a in arrays.items()})
    return reply


def broken(reply: Message) -> Message:
    arrays = arrays_of_record(reply.content.array_records["arrays"])
    reply.content["arrays"] = record_of({name: np.full_like(a, np.nan) for name, a in arrays.items()})
    return reply


TRUSTED = {"data": "trusted.npz"}
SHORT: dict[str, Any] = {"method-settings": {"rounds": 3}}
ROUNDS = ("mode", "orthogonal")


@pytest.mark.parametrize("trusted", [TRUSTED, {}], ids=["validation set", "none"])
@pytest.mark.parametrize(
    ("method", "who"), [("mode", {ASKER}), ("mode", {0, 1, 2, 3}), ("orthogonal", {ASKER}), ("orthogonal", {0, 2, 3})]
)
def test_random_weights_never_become_the_global_model_whatever_the_method(
    make: Make, method: str, who: set[int], trusted: dict[str, str]
) -> None:
    rehearsal = make(forgetting={"method": method, "fallback": [], "recover-rounds": 1, **SHORT}, trusted=trusted)
    grid = lying(rehearsal, who, random_weights)
    before = accuracy(rehearsal, grid)
    request = rehearsal.ask(rehearsal.signed(ASKER))
    rehearsal.run(grid, rounds=6)
    events = outcome(rehearsal, request)[1]
    assert before > 0.6
    assert accuracy(rehearsal, grid) > 0.33 * before
    verdicts = [event.facts["verdict"] for event in events if event.kind == "quarantined"]
    assert "forgot" not in {event.kind for event in events} or verdicts == ["adopt"]


def length_of_step(rehearsal: Rehearsal, grid: KitGrid) -> float | None:
    """Have a request served by orthogonal; return how long the step was that was adopted, None: none was."""
    request = rehearsal.ask(rehearsal.signed(ASKER))
    rehearsal.run(grid, rounds=6)
    events = outcome(rehearsal, request)[1]
    held = [event for event in events if event.kind == "quarantined"]
    if "forgot" not in {event.kind for event in events}:
        return None
    assert [event.facts["verdict"] for event in held] == ["adopt"]
    [found] = [finding for finding in held[0].facts["findings"] if finding.startswith("length of the step")]
    return float(found.removeprefix("length of the step ").partition(" ")[0])


@pytest.mark.parametrize("lie", [stretched, broken])
def test_a_huge_or_broken_update_does_not_decide_where_orthogonal_goes(
    make: Make, lie: Callable[[Message], Message]
) -> None:
    tables = {"method": "orthogonal", "fallback": [], "recover-rounds": 1, **SHORT}

    def with_liars(*liars: int) -> float | None:
        rehearsal = make(forgetting=tables)
        return length_of_step(rehearsal, lying(rehearsal, liars, lie))

    honest, by_another, by_asker = with_liars(), with_liars(0), with_liars(ASKER)
    assert honest is not None
    assert by_another == pytest.approx(honest, rel=0.5), "another's is one direction less, or missing"
    assert by_asker is None


def test_devices_that_still_send_gradients_do_not_serve_orthogonal(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def before_local_training(self: Orthogonal, model: nn.Module, samples: Samples, *, step: str, **_: Any) -> Any:
        """Take the step of size 1 that a device took before clients trained locally, or refuse as it did."""
        losses: dict[str, Callable[..., torch.Tensor]] = {"forget": unlearning_loss, "gradient": cross_entropy}
        if step not in losses:
            raise self.no_such_step(step, losses)
        gradients, loss = full_gradient(model, samples, losses[step])
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(gradient)
        return [loss]

    monkeypatch.setattr(Orthogonal, "on_device", before_local_training)
    rehearsal = make(forgetting={"method": "orthogonal", "fallback": ["retrain"], "guard": "adopt", **SHORT})
    request = rehearsal.ask(rehearsal.signed(ASKER))
    rehearsal.run(rehearsal.grid(), rounds=6)
    told, events = outcome(rehearsal, request)
    assert told.method == "retrain"
    [why] = [event.facts["why"] for event in events if event.kind == "fallback"]
    assert "method 'orthogonal' has no device procedure 'unlearn'; it has forget, gradient" in why


@pytest.mark.parametrize("method", ["negate", "retrain", "federaser", "mode", "orthogonal"])
def test_honest_methods_are_let_through(make: Make, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    of_id = RequestSeeds.of_id  # a draw of its own for each session would have MoDe refused now and then
    monkeypatch.setattr(RequestSeeds, "of_id", lambda seed, _: of_id(seed, "one draw for every session"))
    tables = {"method": method, "fallback": [], "recover-rounds": 1, **(SHORT if method in ROUNDS else {})}
    rehearsal = make(forgetting=tables, trusted=TRUSTED)
    request = rehearsal.ask(rehearsal.signed(ASKER))
    rehearsal.run(rehearsal.grid(), rounds=6)
    events = outcome(rehearsal, request)[1]
    [held] = [event for event in events if event.kind == "quarantined"]
    assert (held.facts["method"], held.facts["verdict"], held.facts["off"]) == (method, "adopt", "")
    assert "forgot" in {event.kind for event in events}, "whether recovery reaches its goal in one round is not asked"


def bound_on_weights(rehearsal: Rehearsal, grid: Lying) -> float:
    request = rehearsal.ask(rehearsal.signed(ASKER))
    rehearsal.run(grid, rounds=0)
    [held] = [event for event in outcome(rehearsal, request)[1] if event.kind == "quarantined"]
    [found] = [finding for finding in held.facts["findings"] if finding.startswith("furthest weight")]
    return float(found.rpartition("at most ")[2].rstrip(")"))


@pytest.mark.parametrize(("rounds", "most"), [(1, 0.001), (2, 0.1)], ids=["once", "again and again"])
def test_a_claim_of_a_billion_samples_stretches_no_bound(make: Make, rounds: int, most: float) -> None:
    rehearsal = make(forgetting={"fallback": []})
    grid = lying(rehearsal, {ASKER}, claims(10**9))
    grid.in_training = True
    rehearsal.run(grid, rounds=6 + rounds)
    grid.in_training, grid.liars = False, frozenset()
    assert bound_on_weights(rehearsal, grid) < most
