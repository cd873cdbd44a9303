"""Whatever a device answers that is not what was asked for: refused, named, in the audit log, and never in the model.

One deployment is asked again and again. docs/results/refused.md lists what is tried here.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord
from numpy.typing import NDArray

from fedquit.server.ledger import Event, Step
from fedquit.strategies.grid.array_record import record_of
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

Spoil = Callable[[Message], Message | Error]
LIAR = 3


class LyingGrid(KitGrid):
    """A grid on which answers of a kind, by some members, are spoilt."""

    lies: tuple[str, set[int], Spoil] = ("", set(), lambda reply: reply)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in list(messages):
            kind, members, spoil = self.lies
            lied = message.metadata.message_type == kind and self._members[message.metadata.dst_node_id] in members
            for reply in super().send_and_receive([message], timeout=timeout):
                answer = spoil(reply) if lied else reply
                yield Message(answer, reply_to=message) if isinstance(answer, Error) else answer


@dataclass
class World:
    """A deployment with four devices, and what happened since the last look."""

    rehearsal: Rehearsal
    grid: LyingGrid
    rounds: int = 0
    asked: int = 0
    seen: dict[str, int] = field(default_factory=lambda: {"step": 0, "event": 0})

    def carry_on(self, kind: str, members: set[int], spoil: Spoil, *, rounds: int = 0, turns: int = 2000) -> None:
        self.rounds += rounds
        self.grid.lies = kind, members, spoil
        self.rehearsal.run(self.grid, rounds=self.rounds, turns=turns)

    def news(self) -> tuple[list[Step], list[Event]]:
        with self.rehearsal.ledger() as ledger:
            assert ledger.check_chain() == []
            steps, events = ledger.steps(after=self.seen["step"]), ledger.events(after=self.seen["event"])
        self.seen = {"step": self.seen["step"] + len(steps), "event": self.seen["event"] + len(events)}
        return steps, events

    def current(self) -> tuple[str, bytes]:
        """Return the global model's name and file."""
        with self.rehearsal.ledger() as ledger:
            last = ledger.last_step()
        name = last.model_after if last else ""
        return name, (self.rehearsal.server / "models" / f"{name}.safetensors").read_bytes()

    def ask(self) -> str:
        """Have the liar ask that one more of its samples be forgotten; return the request's id."""
        self.asked += 1
        digest = self.rehearsal.digests(LIAR)[self.asked]
        return self.rehearsal.ask(self.rehearsal.signed(LIAR, [digest])).id


def begun(folder: Path, tables: dict[str, dict[str, Any]]) -> World:
    """Make a deployment that has trained for two rounds; its device may ask as often as there are lies."""
    rehearsal = rehearse(folder, {"asking": {"open-per-key": 1000}, **tables}, samples=400)
    grid = LyingGrid(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    world = World(rehearsal, grid)
    world.carry_on("", set(), lambda reply: reply, rounds=2)
    world.news()
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return begun(tmp_path_factory.mktemp("refused") / "made", {"forgetting": {"fallback": []}})


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Its guard adopts all, as it refuses an honest model now and then."""
    return begun(tmp_path_factory.mktemp("lenient") / "made", {"forgetting": {"guard": "adopt", "fallback": []}})


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def arrays(change: Callable[[dict[str, NDArray[Any]]], object]) -> Spoil:
    """Return what changes the model of a reply."""

    def spoil(reply: Message) -> Message:
        model = {name: array.numpy().copy() for name, array in reply.content.array_records["arrays"].items()}
        model = change(model) or model  # type: ignore[assignment]
        reply.content["arrays"] = record_of(model)
        return reply

    return spoil


def one(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Spoil:
    """Return what changes the first matrix of the model of a reply."""
    return arrays(lambda model: {**model, (first := matrix(model)): change(model[first])})


def signs(array: NDArray[Any]) -> NDArray[Any]:
    return np.random.default_rng(0).choice([-1.0, 1.0], array.shape).astype(array.dtype)


def matrix(model: Mapping[str, Any]) -> str:
    return min(name for name, array in model.items() if len(array.shape) == 2)


def data(change: Callable[[Array], Array]) -> Spoil:
    """Return what changes the first matrix as it travels."""

    def spoil(reply: Message) -> Message:
        record = reply.content.array_records["arrays"]
        first = matrix(record)
        reply.content["arrays"] = ArrayRecord({**record, first: change(record[first])})
        return reply

    return spoil


def travels(array: Array, **other: Any) -> Array:
    told: dict[str, Any] = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data}
    return Array(**{**told, **other})


def metrics(**told: Any) -> Spoil:
    """Return what changes the metrics of a reply; None: the metric is left out."""

    def spoil(reply: Message) -> Message:
        [(name, record)] = reply.content.metric_records.items()
        given = {key.replace("_", "-"): value for key, value in told.items()}
        changed = {key: value for key, value in {**record, **given}.items() if value is not None}
        reply.content[name] = MetricRecord(changed)
        return reply

    return spoil


def records(change: Callable[[Any], object]) -> Spoil:
    """Return what changes the records of a reply."""

    def spoil(reply: Message) -> Message:
        change(reply.content)
        return reply

    return spoil


def with_value(value: float) -> Spoil:
    return one(
        lambda array: np.where(np.arange(array.size).reshape(array.shape) == 0, value, array).astype(array.dtype)
    )


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path("ran").touch, ()


NOT_A_MODEL: dict[str, tuple[Spoil, str]] = {
    "one NaN": (with_value(np.nan), "holds NaN or infinity"),
    "one infinity": (with_value(np.inf), "holds NaN or infinity"),
    "minus infinity": (with_value(-np.inf), "holds NaN or infinity"),
    "another shape": (one(lambda array: array[..., :-1]), "is float32"),
    "a shape that could be broadcast": (one(lambda array: array.reshape(-1)[:1]), "is float32 (1,)"),
    "no axes": (one(lambda array: np.array(array[0, 0])), "is float32 ()"),
    "transposed": (one(lambda array: array.T), "is float32"),
    "float64": (one(lambda array: array.astype(np.float64)), "is float64"),
    "float16": (one(lambda array: array.astype(np.float16)), "is float16"),
    "integers": (one(lambda array: array.astype(np.int32)), "is int32"),
    "complex": (one(lambda array: array.astype(np.complex64)), "is complex64"),
    "other byte order": (one(lambda array: array.astype(">f4")), "is >f4"),
    "an array missing": (arrays(lambda model: model.pop(min(model)) is None), "missing"),
    "an array too many": (arrays(lambda model: {**model, "more": np.zeros(2, np.float32)}), "unexpected more"),
    "an array renamed": (arrays(lambda model: {f"x{name}": array for name, array in model.items()}), "missing"),
    "no model": (records(lambda content: content.pop("arrays")), "0 array records"),
    "two models": (records(lambda content: content.update(two=content["arrays"])), "2 array records"),
    "a pickle": (data(lambda array: travels(array, data=npy(np.array([Bomb()], object)))), "is object (1,)"),
    "a header of a petabyte": (data(lambda array: travels(array, data=header((10**14,)))), "is float32"),
    "cut off": (data(lambda array: travels(array, data=array.data[:-1])), "bytes, not"),
    "longer than it says": (data(lambda array: travels(array, data=array.data + b"\0" * 8)), "bytes, not"),
    "a hundred times as long": (data(lambda array: travels(array, data=array.data * 100)), "is float32"),
    "garbage": (data(lambda array: travels(array, data=b"garbage")), "cannot be read"),
    "empty": (data(lambda array: travels(array, data=b"")), "cannot be read"),
    "claims of another shape": (data(lambda array: travels(array, shape=(7,))), "is float32 (7,)"),
    "a number too large to average": (with_value(1e30), ""),
    "another serialisation": (data(lambda array: travels(array, stype="torch.tensor")), "serialised as"),
}
NOT_A_COUNT: dict[str, tuple[Spoil, str]] = {
    "no samples": (metrics(num_examples=0), "num-examples is 0"),
    "fewer than none": (metrics(num_examples=-40), "num-examples is -40"),
    "more than there can be": (metrics(num_examples=10**12), "num-examples is 1000000000000"),
    "a fraction": (metrics(num_examples=39.5), "num-examples is 39.5"),
    "a number of samples that is NaN": (metrics(num_examples=float("nan")), "num-examples is nan"),
    "a number of samples that is infinite": (metrics(num_examples=float("inf")), "num-examples is inf"),
    "a list": (metrics(num_examples=[40]), "num-examples is [40]"),
    "no number of samples": (metrics(num_examples=None), "num-examples is None"),
    "a metric that is NaN": (metrics(loss=float("nan")), "metric 'loss' is nan"),
    "a metric that is infinite": (metrics(loss=float("-inf")), "metric 'loss' is -inf"),
    "no metrics": (records(lambda content: content.pop("metrics")), "0 metric records"),
    "an ask that cannot be read": (
        records(lambda content: content.update(ask=ConfigRecord({"ask": "x", "signature": 1}))),
        "cannot be read",
    ),
}
FAR: dict[str, tuple[Spoil, str]] = {
    "finite and absurd": (
        arrays(lambda model: {name: signs(array) * np.float32(1e12) for name, array in model.items()}),
        "at most 10 times",
    ),
}
NO_REPLY: dict[str, tuple[Spoil, str]] = {
    "an error": (lambda _reply: Error(2, "battery\nempty"), "battery empty"),
}
SABOTAGE: dict[str, Spoil] = {
    "finite and absurd": FAR["finite and absurd"][0],
    "every number 0": arrays(lambda model: {name: np.zeros_like(array) for name, array in model.items()}),
    "the sign turned": arrays(lambda model: {name: -array for name, array in model.items()}),
    "times 100": arrays(lambda model: {name: array * 100 for name, array in model.items()}),
    "one layer made noise": one(lambda array: np.random.default_rng(0).normal(size=array.shape).astype(array.dtype)),
}
BAD = NOT_A_MODEL | NOT_A_COUNT | NO_REPLY


@pytest.mark.parametrize("what", BAD | FAR)
def test_in_training_it_is_left_out_and_where_all_send_it_the_model_stays(world: World, what: str) -> None:
    spoil, why = (BAD | FAR)[what]
    world.carry_on("train", {LIAR}, spoil, rounds=1)
    [step], events = world.news()
    assert [given.member for given in step.contributions] == [0, 1, 2]
    assert step.refused == 1
    [refused] = [event for event in events if event.kind == "reply-refused"]
    assert (refused.member, refused.facts["phase"]) == (LIAR, "train")
    assert why in refused.facts["reason"]
    before = world.current()
    world.rehearsal.clock.pause(3600)
    with pytest.raises(TimeoutError):
        world.carry_on("train", {0, 1, 2, LIAR}, spoil, rounds=1, turns=1)
    world.rounds -= 1
    steps, events = world.news()
    assert steps == []
    assert {event.member for event in events if event.kind == "reply-refused"} == {0, 1, 2, LIAR}
    assert "round-failed" in {event.kind for event in events}
    assert world.current() == before


@pytest.mark.parametrize("what", BAD)
def test_a_bad_forget_reply_changes_no_model_and_ends_the_request(world: World, what: str) -> None:
    spoil, why = BAD[what]
    before, request = world.current(), world.ask()
    world.carry_on("train.forget", {LIAR}, spoil)
    steps, events = world.news()
    with world.rehearsal.ledger() as ledger:
        told = ledger.request(request)
    assert told.status == "failed"
    assert why in told.reason
    refused = [event for event in events if event.kind == "reply-refused"]
    assert {(event.member, event.request) for event in refused} == {(LIAR, request)}
    assert all(why in event.facts["reason"] for event in refused)
    assert steps == []
    assert world.current() == before
    assert not Path("ran").exists()


@pytest.mark.parametrize("what", SABOTAGE)
def test_a_sabotaged_model_is_quarantined_refused_and_removed(world: World, what: str) -> None:
    before, request = world.current(), world.ask()
    world.carry_on("train.forget", {LIAR}, SABOTAGE[what])
    steps, events = world.news()
    with world.rehearsal.ledger() as ledger:
        told = ledger.request(request)
    [held] = [event for event in events if event.kind == "quarantined"]
    assert (told.status, held.member, held.facts["verdict"]) == ("refused", LIAR, "refuse")
    assert held.facts["off"]
    assert held.facts["off"] in told.reason
    assert steps == []
    assert world.current() == before
    assert not list((world.rehearsal.server / "quarantine").iterdir())


def test_a_model_with_nan_outputs_is_refused_by_every_policy(tmp_path: Path) -> None:
    world = begun(
        tmp_path / "made", {"forgetting": {"guard": "adopt", "fallback": []}, "trusted": {"data": "trusted.npz"}}
    )
    before, request = world.current(), world.ask()
    world.carry_on("train.forget", {LIAR}, FAR["finite and absurd"][0])
    with world.rehearsal.ledger() as ledger:
        assert ledger.request(request).reason == "fedquit: the model's loss on trusted data is not a finite number"
    assert world.current() == before


@pytest.mark.parametrize(
    ("what", "why"),
    [*((what, why) for what, (_, why) in NOT_A_COUNT.items() if "ask" not in what), ("accuracy", "accuracy is 7.0")],
)
def test_what_a_device_says_of_a_models_accuracy_is_held_to_the_same_rules(lenient: World, what: str, why: str) -> None:
    spoil = metrics(accuracy=7.0) if what == "accuracy" else NOT_A_COUNT[what][0]
    request = lenient.ask()
    lenient.carry_on("evaluate", {LIAR}, spoil)
    steps, events = lenient.news()
    with lenient.rehearsal.ledger() as ledger:
        told = ledger.request(request)
    assert (told.status, told.reason) == ("done", "")
    refused = [event for event in events if event.kind == "reply-refused"]
    assert {(event.member, event.facts["phase"]) for event in refused} == {(LIAR, "evaluate")}
    assert all(why in event.facts["reason"] for event in refused)
    assert all(0 <= step.measures["accuracy"] <= 1 for step in steps if step.phase == "recover")


def test_an_honest_device_is_let_through_after_all_of_that(world: World) -> None:
    world.carry_on("", set(), lambda reply: reply, rounds=1)
    steps, events = world.news()
    assert [given.member for given in steps[-1].contributions] == [0, 1, 2, LIAR]
    assert "reply-refused" not in {event.kind for event in events}


def test_the_document_lists_what_is_tried_and_names_tests_that_there_are() -> None:
    root = next(folder for folder in Path(__file__).parents if (folder / "docs").is_dir())
    told = (root / "docs" / "results" / "refused.md").read_text(encoding="utf-8")
    assert [what for what in {**BAD, **FAR, **SABOTAGE} if what not in told] == []
    tests = "".join(path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py"))
    assert [name for name in set(re.findall(r"`(test_\w+)`", told)) if f"def {name}(" not in tests] == []
