"""A Flower app of one's own gains forgetting with a mod and a strategy around its own; a liar gains nothing by it."""

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.nn import functional as F

from fedquit.client.forgetting_mod import FORGOTTEN
from fedquit.errors import FedquitError, InputError
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.forgetting import LOGGER, RECORD, Forgetting
from fedquit.unlearning import METHODS, FedQUIT, Samples, make_method

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "flower_app.py"
CLIENTS, ROUND, CLIENT = 4, 4, 2
Mod = Callable[..., Message]


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("flower_app_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example() -> Any:
    """The example's module, new for each test: a ClientApp remembers nothing, but a test may wrap it."""
    torch.manual_seed(0)
    return load_example()


class WatchedGrid(InProcessGrid):
    """Remembers which node was asked what; a node may be away, or have its replies changed."""

    def __init__(self, app: ClientApp, change: Mod | None = None) -> None:
        super().__init__(CLIENTS, {}, client_app=app)
        self.asked = list[tuple[str, int]]()
        self.mute = set[int]()
        self._change = change

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        sent = list(messages)
        for message in sent:
            record = message.content.config_records.get(RECORD)
            self.asked.append((str(record["step"]) if record else "train", self.client_of(message)))
        heard = [message for message in sent if self.client_of(message) not in self.mute]
        for reply in super().send_and_receive(heard, timeout=timeout):
            yield self._change(reply) if self._change else reply

    def client_of(self, message: Message) -> int:
        return int(self.context_of(message.metadata.dst_node_id).node_config["partition-id"])

    def of(self, kind: str) -> list[int]:
        return [client for what, client in self.asked if what == kind]


def start(example: Any, grid: WatchedGrid, rounds: int = 6, **how: Any) -> tuple[Forgetting, dict[int, Any]]:
    """Run the app; return its strategy, and the model after each round."""
    models = dict[int, Mapping[str, torch.Tensor]]()

    def remember(number: int, arrays: ArrayRecord) -> None:
        models[number] = arrays.to_torch_state_dict()

    strategy = Forgetting(FedAvg(fraction_evaluate=0.0), {ROUND: CLIENT}, **{"lr": 1e-3, **how})
    arrays = ArrayRecord(example.make_model().state_dict())
    strategy.start(grid, arrays, num_rounds=rounds, evaluate_fn=remember)
    return strategy, models


def sevens(example: Any, state: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Return the loss on the sevens, which client 2 alone has, and on what the others have."""
    model = example.make_model()
    model.load_state_dict(state)
    losses = []
    for clients in ([CLIENT], [0, 1, 3]):
        inputs, labels = (torch.cat(parts) for parts in zip(*map(example.share, clients), strict=True))
        wanted = labels == 7 if clients == [CLIENT] else labels >= 0
        losses.append(float(F.cross_entropy(model(inputs[wanted]), labels[wanted])))
    return losses[0], losses[1]


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_app_of_ones_own_forgets_a_client_and_recovers(example: Any) -> None:
    grid = WatchedGrid(example.client_app)
    strategy, models = start(example, grid)
    assert strategy.outcomes == {ROUND: "forgotten"}
    gone, left = zip(*(sevens(example, models[number]) for number in (ROUND - 1, ROUND, 6)), strict=True)
    assert gone[1] > 1.5 * gone[0]  # forgotten ...
    assert gone[2] > 1.5 * gone[0]  # ... and recovery does not bring it back
    assert left[2] < 1.2 * left[0]  # while the others' data is as before


@pytest.mark.parametrize(("lr", "warns"), [(1e-7, True), (1e-2, False)])
def test_a_forget_step_that_hardly_moves_the_model_is_warned_of(
    example: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, lr: float, warns: bool
) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)
    start(example, WatchedGrid(example.client_app), lr=lr, guard="adopt")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("can hardly have forgotten anything; lr=auto" in line for line in said) == warns


def test_a_forgotten_client_gets_no_messages_and_its_round_trains_nobody(example: Any) -> None:
    grid = WatchedGrid(example.client_app)
    start(example, grid)
    assert grid.of("forget") == [CLIENT]
    assert grid.of("train").count(CLIENT) == ROUND - 1
    assert all(grid.of("train").count(client) == 5 for client in (0, 1, 3))


def test_a_device_that_was_forgotten_trains_no_more_whatever_the_server_says(example: Any) -> None:
    grid = WatchedGrid(example.client_app)
    start(example, grid)
    arrays = ArrayRecord(example.make_model().state_dict())
    nodes = list(grid.get_node_ids())
    train = [Message(RecordDict({"arrays": arrays}), dst_node_id=node, message_type="train") for node in nodes]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(train)}
    assert [replies[node].has_error() for node in nodes] == [False, False, True, False]
    assert replies[nodes[CLIENT]].error.code == FORGOTTEN


def lie(change: Callable[[torch.Tensor], torch.Tensor]) -> Mod:
    """Return what changes the model that a device hands back when it forgets."""

    def changed(reply: Message) -> Message:
        if not reply.has_error() and "forgotten" in reply.content.config_records.get(RECORD, {}):
            state = reply.content.array_records["arrays"].to_torch_state_dict()
            reply.content["arrays"] = ArrayRecord({name: change(value) for name, value in state.items()})
        return reply

    return changed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value * float("nan"), "NaN"),
        (lambda value: value[:1], "not float32"),
        (lambda value: value * 100, "the guard refused its model: furthest weight"),
        (lambda value: value + 0.5, "the guard refused its model: furthest weight"),
    ],
)
def test_a_lying_devices_model_is_refused_and_the_model_is_as_before(
    example: Any, change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    strategy, models = start(example, WatchedGrid(example.client_app, lie(change)), rounds=5)
    assert said in strategy.outcomes[ROUND]
    assert same(models[ROUND], models[ROUND - 1])
    assert not same(models[5], models[ROUND])  # and training goes on


def test_a_client_whose_model_was_refused_can_be_asked_again(example: Any) -> None:
    spoil, lies = lie(lambda value: value * 100), list[object]()

    def once(reply: Message) -> Message:
        forgot = not reply.has_error() and "forgotten" in reply.content.config_records.get(RECORD, {})
        lies.extend([reply] * forgot)
        return spoil(reply) if forgot and len(lies) == 1 else reply

    grid = WatchedGrid(example.client_app, once)
    strategy = Forgetting(FedAvg(fraction_evaluate=0.0), {ROUND: CLIENT, ROUND + 2: CLIENT}, lr=1e-3)
    strategy.start(grid, ArrayRecord(example.make_model().state_dict()), num_rounds=ROUND + 2)
    assert "the guard refused" in strategy.outcomes[ROUND]
    assert strategy.outcomes[ROUND + 2] == "forgotten"
    assert grid.of("train").count(CLIENT) == ROUND - 1  # meanwhile it trains no more: it has done its part


def test_a_client_that_is_away_for_a_moment_does_not_end_the_run(example: Any) -> None:
    grid = WatchedGrid(example.client_app)
    strategy = Forgetting(FedAvg(fraction_evaluate=0.0, min_available_nodes=3), {ROUND: CLIENT}, lr=1e-3)
    arrays = ArrayRecord(example.make_model().state_dict())
    strategy.start(grid, arrays, num_rounds=ROUND)
    everyone = list(grid.get_node_ids())
    looks = iter([everyone[1:]] * 4)
    grid.get_node_ids = lambda: next(looks, everyone)  # type: ignore[method-assign]
    asked = list(strategy.configure_train(ROUND + 1, arrays, ConfigRecord({"server-round": ROUND + 1}), grid))
    assert {grid.client_of(message) for message in asked} < {0, 1, 3}  # FedAvg counted two, and waited for the third


def test_a_client_that_does_not_answer_holds_nothing_up_and_is_named(example: Any) -> None:
    grid = WatchedGrid(example.client_app)
    grid.mute.add(CLIENT)
    strategy, models = start(example, grid, rounds=5)
    assert strategy.outcomes == {ROUND: "no clients say that they are partition 2"}
    assert same(models[ROUND], models[ROUND - 1])


def test_two_clients_that_say_they_are_the_same_are_both_asked_nothing(example: Any) -> None:
    def impersonate(reply: Message) -> Message:
        if not reply.has_error() and "partition" in reply.content.config_records.get(RECORD, {}):
            reply.content.config_records[RECORD]["partition"] = CLIENT
        return reply

    grid = WatchedGrid(example.client_app, impersonate)
    strategy, _ = start(example, grid, rounds=5)
    assert strategy.outcomes == {ROUND: "4 clients say that they are partition 2"}
    assert grid.of("forget") == []


def test_an_app_without_the_mod_is_told_what_is_missing(example: Any) -> None:
    app = ClientApp()
    app.train()(example.train)
    strategy, _ = start(example, WatchedGrid(app), rounds=5)
    assert strategy.outcomes == {
        ROUND: "no clients say that they are partition 2; does its ClientApp have forgetting_mod?"
    }


def test_a_strategy_that_would_wait_for_more_clients_than_are_left_says_so(example: Any) -> None:
    strategy = Forgetting(FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS), {2: CLIENT}, lr=1e-3)
    with pytest.raises(FedquitError, match="FedAvg waits for 4 clients and 3 are left; give it min_available_nodes"):
        strategy.start(WatchedGrid(example.client_app), ArrayRecord(example.make_model().state_dict()), num_rounds=3)


@pytest.mark.parametrize(
    ("requests", "how", "said"),
    [
        ({1: 0}, {}, "1 is not a round in which there is something to forget"),
        ({3: 0}, {"method": "fedquitt"}, "unknown method 'fedquitt'"),
        ({3: 0}, {"method": "federaser"}, "does not run on the device alone"),
        ({3: 0}, {"guard": "hope"}, "guard is 'hope'"),
        ({3: 0}, {"speed": 3}, "speed"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(requests: dict[int, int], how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        Forgetting(FedAvg(), requests, **how)


def test_in_an_app_of_ones_own_no_training_fills_in_what_a_method_leaves_open(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_for = list[int | None]()

    @dataclass(frozen=True, slots=True)
    class Open(FedQUIT):
        """FedQUIT that notes the epochs which a run would fill in."""

        name: ClassVar[str] = "open"
        passes: int | None = None

        def as_in_run(self, *, epochs: int, batch_size: int) -> Self:
            raise AssertionError(f"nobody knows of {epochs} epochs in batches of {batch_size}")

        def forget(self, model: nn.Module, samples: Samples, *, seed: int) -> list[float]:
            trained_for.append(self.passes)
            return make_method("fedquit").on_device(model, samples, seed=seed)

    monkeypatch.setitem(METHODS, "open", Open)
    strategy = Forgetting(FedAvg(), {2: CLIENT}, method="open", guard="adopt")
    strategy.start(WatchedGrid(example.client_app), ArrayRecord(example.make_model().state_dict()), num_rounds=2)
    assert strategy.outcomes == {2: "forgotten"}
    assert trained_for == [None]
    with pytest.raises(InputError, match="'orthogonal' does not run on the device alone"):
        Forgetting(FedAvg(), {2: CLIENT}, method="orthogonal")


def test_forgetting_takes_an_app_fewer_than_20_lines() -> None:
    marked = [line for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line.endswith("# forgetting")]
    assert 3 < len(marked) < 20


def test_a_context_without_a_partition_is_no_partition(example: Any) -> None:
    context = Context(1, 7, {}, RecordDict(), {})
    asked = RecordDict({RECORD: ConfigRecord({"step": "who"})})
    with InProcessGrid(1, {}, client_app=example.client_app):
        reply = example.client_app(Message(asked, dst_node_id=7, message_type="train"), context)
    assert reply.content.config_records[RECORD]["partition"] == -1
