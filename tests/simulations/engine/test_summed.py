"""Replies that are summed where they are made: the same model, the same costs, the same refusals as with messages."""

import json
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.messages import plain_training
from fedquit.client.objectives import Done
from fedquit.errors import FedquitError
from fedquit.server.app import known_members
from fedquit.settings import Settings
from fedquit.simulations.engine import summed_round
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import read_rows
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.reply import Reply, ReplyDetail
from fedquit.strategies.rounds.train import Train
from fedquit.unlearning.tensors.convert import Arrays, arrays_of
from fedquit.unlearning.tensors.exact_mean import ExactMean
from tests.harness.waiting import until

SMALL: dict[str, Any] = {
    "clients": 7,
    "samples": 160,
    "model": "mlp",
    "rounds": 2,
    "method": "continue",
    "recover": "budget",
    "recover-rounds": 1,
    "reference": "none",
}


def normalised(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, num_classes))


class Scaled(nn.Module):
    """A model with a parameter that is one number."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.scale * self.linear(images.flatten(1))
        return logits


def scaled(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return Scaled(num_classes)


def with_messages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InProcessGrid, "can_sum", lambda _self, _arrays: False)


def costs_of(path: Path) -> list[list[str]]:
    """Return the rows of the cost log without their times."""
    return [line.split(",")[:7] + line.split(",")[9:] for line in (path / "costs.csv").read_text().splitlines()]


def rounds_of(path: Path) -> Any:
    """Return what a run keeps of its rounds, without times."""
    rounds = json.loads((path / "state.json").read_text())["rounds"]
    return [{key: value for key, value in each.items() if "seconds" not in key} for each in rounds]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    "changed", [{}, {"model": "test_summed:normalised"}, {"momentum": 0.9, "objective": "fedprox"}]
)
def test_a_run_with_sums_is_the_run_with_messages_bit_for_bit(
    changed: dict[str, Any], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    given = {**SMALL, **changed}
    calls = list[int]()
    original = MeteredGrid.sum_replies

    def counted(self: MeteredGrid, *args: Any) -> Any:
        calls.append(len(args[0].seeds))
        return original(self, *args)

    monkeypatch.setattr(MeteredGrid, "sum_replies", counted)
    summed, report = run_simulation(given, out=tmp_path / "summed", workers=workers)
    assert calls == [7, 7, 6], "two rounds of training and one of recovery"
    with_messages(monkeypatch)
    sent, expected = run_simulation(given, out=tmp_path / "sent", workers=workers)
    assert len(calls) == 3
    for stage in ("original", "recovered"):
        assert report["stages"][stage]["model_sha256"] == expected["stages"][stage]["model_sha256"]
    assert costs_of(summed) == costs_of(sent), "to the byte"
    assert rounds_of(summed) == rounds_of(sent)


def test_stacked_clients_with_a_parameter_that_is_one_number_are_summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    given = {**SMALL, "model": "test_summed:scaled"}
    stages = [
        run_simulation(given, out=tmp_path / name, workers=1, stack=name)[1]["stages"]["original"]
        for name in ("4", "off")
    ]
    assert stages[0]["test_accuracy"] == pytest.approx(stages[1]["test_accuracy"], abs=0.02)


class Deadly(nn.Module):
    """A model that no worker process survives."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        logits: torch.Tensor = self.linear(images.flatten(1))
        return logits


def deadly(input_shape: Any, num_classes: int) -> nn.Module:
    del input_shape
    return Deadly(num_classes)


@pytest.mark.parametrize("stack", [1, 2])
def test_a_worker_that_dies_in_a_round_is_one_error(stack: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    settings = Settings(clients=8, samples=90, model="test_summed:deadly")
    with InProcessGrid(8, settings.run_config(), workers=2, stack=stack) as grid:
        made = strategy(grid, settings, {}, [])
        with pytest.raises(FedquitError, match=r"worker process died.*--resume"):
            made.round(1, model_of(settings), {"lr": 0.1})


def with_a_worker_at_work(grid: InProcessGrid, patch: pytest.MonkeyPatch) -> list[int]:
    """Have the main process train only once a worker trains too; return how many clients it trains at a time."""
    trained, found = summed_round._trained, list[int]()
    pool = grid._pool
    assert pool is not None

    def later(summing: Any, asked: Any) -> Any:
        until(lambda: pool.claims._shared[1] > 0, "worker at work")
        found.append(len(asked))
        return trained(summing, asked)

    patch.setattr(summed_round, "_trained", later)
    return found


@pytest.mark.parametrize("seconds", [-1.0, 60.0])
def test_a_worker_takes_over_from_the_main_process(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, made = Settings(clients=13, samples=200, model="mlp"), []
    with InProcessGrid(13, settings.run_config(), stack=3) as grid:
        made.append(strategy(grid, settings, {}, []).round(1, model_of(settings), {"lr": 0.1})[0])
    monkeypatch.setattr(summed_round, "SLICE", seconds)
    with InProcessGrid(13, settings.run_config(), workers=2, stack=3) as grid:
        own = with_a_worker_at_work(grid, monkeypatch)
        heard = dict[int, str | None]()
        made.append(strategy(grid, settings, heard, []).round(1, model_of(settings), {"lr": 0.1})[0])
    assert heard == dict.fromkeys(range(13))
    assert own[0] == 1, "the last of thirteen"
    assert len(own) == 1 or seconds > 0
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.parametrize("stack", [1, 2])
def test_a_round_that_is_given_up_ends_and_the_next_is_whole(stack: int) -> None:
    settings, heard = Settings(clients=6, samples=90, model="mlp"), dict[int, str | None]()
    with InProcessGrid(6, settings.run_config(), workers=2, stack=stack) as grid:
        made = strategy(grid, settings, heard, [])
        made.grid.patience = 1e-6
        with pytest.raises(FedquitError, match=r"not trained within .* s; continue with --resume"):
            made.round(1, model_of(settings), {"lr": 0.1})
        assert grid._pool is not None
        assert not grid._pool.claims.are_left()
        heard.clear()
        made.grid.patience = 600
        made.round(2, model_of(settings), {"lr": 0.1})
    assert heard == dict.fromkeys(range(6))


LATE = """
import multiprocessing

from fedquit.client.objectives.fedavg import FedAvg


class Late(FedAvg):
    name = "late"

    def needs(self):
        if multiprocessing.parent_process() is not None:
            raise TimeoutError("the server of the teacher is away")
        return super().needs()
"""


@pytest.mark.parametrize("stack", [1, 2])
def test_a_timeout_error_of_a_users_code_is_not_taken_for_the_rounds(
    stack: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "objectives.py").write_text(LATE)
    (tmp_path / "theirs-1.0.dist-info").mkdir()
    (tmp_path / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = tmp_path / "theirs-1.0.dist-info" / "entry_points.txt"
    points.write_text("[fedquit.objectives]\nlate = objectives:Late\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = Settings(clients=8, samples=90, model="mlp", objective="late")
    with InProcessGrid(8, settings.run_config(), workers=2, stack=stack) as grid:
        made = strategy(grid, settings, {}, [])
        with pytest.raises(TimeoutError, match="the server of the teacher is away"):
            made.round(1, model_of(settings), {"lr": 0.1})


def strategy(grid: InProcessGrid, settings: Settings, heard: dict[int, str | None], taken: list[Reply]) -> Train:
    metered = MeteredGrid(grid, known_members(grid, settings), patience=60)
    metered.begin("train", 1)
    return Train(
        metered,
        seed=0,
        on_reply=lambda client, reason: heard.update({client: reason}),
        on_taken=taken.append,
        reply_detail=ReplyDetail.LENGTHS,
    )


def model_of(settings: Settings) -> Arrays:
    return arrays_of(empty_model(settings.key()).state_dict())


@pytest.mark.parametrize("stack", [1, 3])
def test_a_client_that_fails_or_sends_nan_is_named_and_left_out(stack: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(clients=6, samples=90, model="mlp")
    original = plain_training.PlainTraining.train

    def train(self: Any, client: int, seed: int) -> tuple[Done, Any]:
        if client == 1:
            raise LookupError("no such\nsample")
        done, metrics = original(self, client, seed)
        if client == 2:
            return Done(done.loss, {**done.send, "1.bias": torch.full_like(done.send["1.bias"], torch.nan)}), metrics
        return done, ({**metrics, "loss": float("inf")} if client == 3 else metrics)

    monkeypatch.setattr(plain_training.PlainTraining, "train", train)
    monkeypatch.setattr(plain_training.PlainTraining, "train_stacked", lambda *_: None)
    heard, taken = dict[int, str | None](), list[Reply]()
    with InProcessGrid(6, settings.run_config(), stack=stack) as grid:
        made = strategy(grid, settings, heard, taken)
        new, metrics = made.round(1, model_of(settings), {"lr": 0.1})
    assert heard == {
        0: None,
        1: "LookupError: no such sample",
        2: "'1.bias' holds NaN or infinity",
        3: "metric 'loss' is inf, not a finite number",
        4: None,
        5: None,
    }
    assert [reply.client for reply in taken] == [client for client in heard if heard[client] is None]
    assert metrics["refused"] == 3
    assert all(np.isfinite(array).all() for array in new.values())
    ups = made.costs.totals["train", "up"].messages
    assert ups == 5, "the one that failed sent no model"


def test_stacked_clients_whose_sum_is_not_finite_are_looked_at_singly() -> None:
    settings = Settings(clients=5, samples=90, model="mlp", lr=1e30)
    heard, taken = dict[int, str | None](), list[Reply]()
    with InProcessGrid(5, settings.run_config(), stack=5) as grid, pytest.raises(FedquitError, match="client 4: "):
        strategy(grid, settings, heard, taken).round(1, model_of(settings), {"lr": 1e30})
    assert len(heard) == 5
    assert all(heard.values())


@pytest.mark.parametrize("detail", [ReplyDetail.LENGTHS, ReplyDetail.NOTHING])
def test_stacked_clients_whose_huge_weights_cancel_are_refused_singly(
    detail: ReplyDetail, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, real = Settings(clients=5, samples=90, model="mlp"), plain_training.PlainTraining.train_stacked

    def train_stacked(self: Any, clients: list[int], seeds: list[int]) -> Any:
        found = real(self, clients, seeds)
        assert found is not None
        stack, metrics = found
        for row, huge in enumerate((2.0**60, -(2.0**60))):
            stack.rows[row, 7] = huge / stack.counts[row]
        return stack, metrics

    monkeypatch.setattr(plain_training.PlainTraining, "train_stacked", train_stacked)
    heard = dict[int, str | None]()
    with InProcessGrid(5, settings.run_config(), stack=5) as grid:
        made = strategy(grid, settings, heard, [])
        made.reply_detail = detail
        new, metrics = made.round(1, model_of(settings), {"lr": 0.1})
    assert metrics["refused"] == 2
    assert sorted(why or "" for why in heard.values())[-2:] == ["'1.weight' holds a value too large to average"] * 2
    assert all(np.abs(array).max() < 10 for array in new.values())


def test_the_mean_of_one_client_is_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(clients=2, samples=40, model="mlp")
    tiny = 1e-30

    def train(self: Any, client: int, seed: int) -> tuple[Done, Any]:
        del seed
        if client:
            raise LookupError("gone")
        send = {name: torch.full_like(value, tiny) for name, value in self._received.items()}
        return Done(0.5, send), {"num-examples": 3, "loss": 0.5, "cpu-seconds": 0.0}

    monkeypatch.setattr(plain_training.PlainTraining, "train", train)
    with InProcessGrid(2, settings.run_config()) as grid:
        new, _ = strategy(grid, settings, {}, []).round(1, model_of(settings), {"lr": 0.1})
    assert all((array == np.float32(tiny)).all() for array in new.values()), "smaller than any grid of the sum"


@pytest.mark.parametrize("refused", [0, 1])
def test_a_refused_model_is_never_the_mean_of_the_one_that_was_accepted(
    refused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, real = Settings(clients=2, samples=40, model="mlp"), plain_training.PlainTraining.train
    accepted: dict[str, Any] = {}

    def train(self: Any, client: int, seed: int) -> tuple[Done, Any]:
        done, metrics = real(self, client, seed)
        if client != refused:
            accepted.update({name: value.clone().numpy() for name, value in done.send.items()})
            return done, metrics
        for value in done.send.values():  # as a training that diverges leaves the model, which is used again
            value.fill_(float("nan"))
        return done, metrics

    monkeypatch.setattr(plain_training.PlainTraining, "train", train)
    with InProcessGrid(2, settings.run_config()) as grid:
        new, _ = strategy(grid, settings, {}, []).round(1, model_of(settings), {"lr": 0.1})
    assert all(np.array_equal(new[name], accepted[name]) for name in new)


def test_who_reads_single_models_gets_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(clients=3, samples=60, model="mlp")
    monkeypatch.setattr(InProcessGrid, "sum_replies", lambda *_args, **_named: pytest.fail("summed"))
    taken = list[Reply]()
    with InProcessGrid(3, settings.run_config()) as grid:
        made = strategy(grid, settings, {}, taken)
        made.reply_detail = ReplyDetail.MODELS
        made.round(1, model_of(settings), {"lr": 0.1})
    assert all(reply.arrays for reply in taken)

    class Looks(InProcessGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            yield from super().send_and_receive(messages, timeout=timeout)

    with Looks(3, settings.run_config()) as grid:
        assert not grid.can_sum(model_of(settings))
        assert InProcessGrid(3, settings.run_config()).can_sum(model_of(settings))


def test_a_reply_is_timed_when_it_was_there_and_not_when_it_was_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(clients=2, samples=40, model="mlp")
    original = InProcessGrid.sum_replies

    def early(self: Any, *args: Any, **named: Any) -> Any:
        started = time.monotonic()
        for number, reply in enumerate(list(original(self, *args, **named))):
            yield reply._replace(ready=started + 100 * (number + 1))

    monkeypatch.setattr(InProcessGrid, "sum_replies", early)
    with InProcessGrid(2, settings.run_config()) as grid:
        made = strategy(grid, settings, {}, [])
        made.grid.costs = Costs(tmp_path / "costs.csv")
        made.round(1, model_of(settings), {"lr": 0.1})
    seconds = sorted(row.seconds for row in read_rows(tmp_path / "costs.csv") if row.direction == "up")
    assert [round(each, -1) for each in seconds] == [100, 200]


def test_large_models_travel_in_messages() -> None:
    settings = Settings(clients=3, samples=60, model="mlp")
    with InProcessGrid(3, settings.run_config()) as grid:
        assert not grid.can_sum({"w": np.zeros(summed_round.LARGEST, dtype=np.float32)})


def test_sums_of_several_processes_are_one_exact_mean_in_any_order_of_names() -> None:
    draw = np.random.default_rng(0)
    models = [
        {"w": draw.normal(size=(300, 301)).astype(np.float32) * 10.0**k, "b": draw.normal(size=3), "n": np.array(k)}
        for k in range(6)
    ]
    expected, found = ExactMean(), ExactMean()
    parts = [ExactMean() for _ in range(3)]
    for number, model in enumerate(models):
        expected.add(model, number + 1)
        other_order = dict(reversed(model.items()))
        parts[number % 2].add(other_order if number % 2 else model, number + 1)
    for part in reversed(parts):
        found.merge(pickle.loads(pickle.dumps(part)))
    for name, array in expected.result().items():
        assert found.result()[name].dtype == array.dtype
        assert np.array_equal(found.result()[name], array), name


def test_a_round_with_sums_writes_no_file() -> None:
    settings = Settings(clients=4, samples=60, model="mlp")
    with InProcessGrid(4, settings.run_config(), workers=2) as grid:
        made = strategy(grid, settings, {}, [])
        made.round(1, model_of(settings), {"lr": 0.1})
        assert grid._pool is not None
        assert not list(grid._pool.folder.iterdir())


def test_a_model_that_is_used_again_is_as_a_new_one() -> None:
    settings = Settings(clients=4, samples=60, model="mlp")
    received = empty_model(settings.key()).state_dict()
    config: Mapping[str, float | str] = {"lr": 0.1, "server-round": 1}
    again = plain_training.PlainTraining(settings, received, config)
    assert again._reusable
    for client in range(4):
        found = {name: value.clone() for name, value in again.train(client, 5)[0].send.items()}
        alone = plain_training.PlainTraining(settings, received, config).train(client, 5)[0].send
        assert all(torch.equal(found[name], value) for name, value in alone.items())
