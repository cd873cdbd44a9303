"""What one client can do to the rounds of a simulation, where the run was told to bound it: as in a deployment."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Message

from fedquit.client.data.build_data_and_model import split
from fedquit.errors import InputError
from fedquit.server.federation import LIMITS as LIMITS_OF_DEPLOYMENTS
from fedquit.server.run.loop import Loop
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.guard.client_weights import believed, capped

LIAR = 3
SMALL: dict[str, Any] = {
    "model": "mlp",
    "clients": 4,
    "samples": 300,
    "scheme": "iid",
    "holdout": 100,
    "rounds": 5,
    "recover": "budget",
    "recover-rounds": 1,
    "reference": "none",
    "forget": "0",
}
LIMITS: dict[str, Any] = {"weight-cap": 2.0, "clip-steps": 1.5, "accuracy-floor": 0.5}


class Lying(InProcessGrid):
    """A grid on which one client turns the model round in the last round of training."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in list(messages):
            lies = message.metadata.dst_node_id == FIRST_NODE_ID + LIAR and message.metadata.group_id == "5"
            for reply in super().send_and_receive([message], timeout=timeout):
                if lies and message.metadata.message_type == "train":
                    sent = message.content.array_records["arrays"]
                    reply.content["arrays"] = ArrayRecord({name: Array(-8 * a.numpy()) for name, a in sent.items()})
                yield reply


class Killed(Exception):  # noqa: N818
    """The run is killed here."""


def carry_out(
    path: Path,
    engine: type[InProcessGrid] = InProcessGrid,
    listener: Callable[[Mapping[str, Any]], None] = lambda _event: None,
    **changed: Any,
) -> State:
    settings = Settings.read({**SMALL, **{key.replace("_", "-"): value for key, value in changed.items()}})
    folder = RunFolder.open(path) if (path / "settings.json").exists() else RunFolder.create(path, settings)
    try:
        with engine(settings.clients, settings.run_config()) as grid:
            return Loop(MeteredGrid(grid, patience=600), folder.settings(), folder, listener).run()
    finally:
        folder.release()


def accuracy(state: State) -> float:
    return float(state.of("train")[-1].measures["holdout_accuracy"])


@pytest.mark.parametrize("limits", [{"clip-steps": 1.5}, {"accuracy-floor": 0.5}, LIMITS])
def test_a_client_that_reverses_its_step_does_no_harm_where_steps_are_bounded(
    tmp_path: Path, limits: dict[str, Any]
) -> None:
    honest, plain = carry_out(tmp_path / "honest"), carry_out(tmp_path / "plain", Lying)
    bounded = carry_out(tmp_path / "bounded", Lying, **limits)
    assert accuracy(plain) < 0.3 < accuracy(honest)
    assert accuracy(bounded) > accuracy(honest) - 0.1


def test_below_the_accuracy_floor_the_bad_device_is_left_out_and_named(tmp_path: Path) -> None:
    state = carry_out(tmp_path, Lying, accuracy_floor=0.5)
    assert [r.participants for r in state.of("train")] == [(0, 1, 2, 3)] * 4 + [(0, 1, 2)]
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["client"] for event in events if event["event"] == "refused"] == [LIAR]


def test_killed_anywhere_a_bounded_run_ends_with_the_same_models(tmp_path: Path) -> None:
    undisturbed = carry_out(tmp_path / "undisturbed", Lying, **LIMITS)
    count = 0

    def kill(event: Mapping[str, Any]) -> None:
        nonlocal count
        count += event["event"] == "round"
        if event["event"] == "round" and count % 2:
            raise Killed

    for _ in range(20):
        try:
            state = carry_out(tmp_path / "killed", Lying, kill, **LIMITS)
            break
        except Killed:
            continue
    assert state.models == undisturbed.models
    assert not (tmp_path / "killed" / "replies").exists()


def test_limits_that_do_not_fit_the_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="clip-steps: dp = server-fixed clips steps by itself"):
        Settings.read({**SMALL, "dp": "server-fixed", "clip-steps": 1.5})
    with pytest.raises(InputError, match="weight-cap: objective 'fd' has no models to aggregate"):
        carry_out(tmp_path, objective="fd", weight_cap=2.0, method="continue")


@pytest.mark.parametrize(("clients", "alpha", "most"), [(4, 0.1, 0.07), (4, 0.3, 0.0), (5, 0.1, 0.0), (10, 0.1, 0.01)])
def test_the_cap_of_deployments_hardly_moves_the_weights_of_honest_splits(
    clients: int, alpha: float, most: float
) -> None:
    for seed in range(10):
        settings = Settings.read({"clients": clients, "scheme": "dirichlet", "alpha": alpha, "seed": seed})
        counts = {client: len(part) for client, part in enumerate(split(settings.key()))}
        weights = capped(believed(counts, counts), float(LIMITS_OF_DEPLOYMENTS["weight-cap"]))
        shares = [(counts[c] / sum(counts.values()), weights[c] / sum(weights.values())) for c in counts]
        assert sum(abs(plain - bounded) for plain, bounded in shares) / 2 <= most + 1e-9
