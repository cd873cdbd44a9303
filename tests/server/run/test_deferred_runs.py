"""`adopt = deferred` in a simulation: nobody but the device that made it is sent the model that forgot."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedquit.client.models.model_file import model_hash
from fedquit.documents import Event
from fedquit.errors import InputError
from fedquit.server.run.loop import Loop
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.unlearning.tensors.arithmetic import norm
from fedquit.unlearning.tensors.convert import tensors_of

SMALL: dict[str, Any] = {
    "model": "mlp", "clients": 3, "samples": 150, "scheme": "iid", "holdout": 60, "rounds": 2, "recover": "budget",
    "recover-rounds": 2, "reference": "none", "adopt": "deferred",
}  # fmt: skip


class Stop(Exception):  # noqa: N818
    """The run is killed here."""


class Spied(InProcessGrid):
    """Remembers which model went to whom."""

    sent: list[tuple[int, str]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        for message in asked:
            record = message.content.array_records.get("arrays")
            if record is not None:
                arrays = {name: array.numpy() for name, array in record.items()}
                self.sent.append((message.metadata.dst_node_id - FIRST_NODE_ID, model_hash(arrays)))
        yield from super().send_and_receive(asked, timeout=timeout)


def carry_out(path: Path, listener: Any = lambda _event: None, **changed: Any) -> tuple[State, list[tuple[int, str]]]:
    settings = Settings.read({**SMALL, **changed})
    begun = (path / "settings.json").exists()
    folder = RunFolder.open(path) if begun else RunFolder.create(path, settings)
    try:
        with Spied(settings.clients, settings.run_config()) as grid:
            grid.sent = []
            return Loop(MeteredGrid(grid, patience=600), folder.settings(), folder, listener).run(), grid.sent
    finally:
        folder.release()


def test_no_device_is_sent_the_model_that_forgot(tmp_path: Path) -> None:
    deferred, sent = carry_out(tmp_path / "deferred")
    directly, sent_directly = carry_out(tmp_path / "direct", adopt="direct")
    assert deferred.models["unlearned"] == directly.models["unlearned"]
    assert deferred.models["unlearned"] not in {model for _, model in sent}
    assert directly.models["unlearned"] in {model for _, model in sent_directly}


def test_deferred_adoption_takes_as_many_bytes_as_direct(tmp_path: Path) -> None:
    states = [carry_out(tmp_path / adopt, adopt=adopt)[0] for adopt in ("direct", "deferred")]
    costs = [[(r.phase, r.number, r.bytes_down, r.bytes_up) for r in state.rounds] for state in states]
    assert costs[0] == costs[1]


def test_what_comes_next_is_the_others_round_from_before_plus_the_step(tmp_path: Path) -> None:
    state, _ = carry_out(tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    original, unlearned, adopted = (
        tensors_of(folder.load_model(state.models[stage])) for stage in ("original", "unlearned", "adopted")
    )
    rounds = {name: adopted[name].double() - unlearned[name].double() for name in adopted}
    step = {name: unlearned[name].double() - original[name].double() for name in adopted}
    assert norm(rounds) > 2 * norm(step) > 0
    # The round itself, made from the model before: the run in which client 0 leaves and nothing is unlearned.
    plain, _ = carry_out(tmp_path / "plain", method="continue", adopt="direct", **{"recover-rounds": 1})
    expected = tensors_of(RunFolder(tmp_path / "plain").load_model(plain.models["recovered"]))
    for name, value in expected.items():
        wanted = value.double() + step[name]
        np.testing.assert_allclose(adopted[name].numpy(), wanted.numpy(), atol=1e-6)


def test_stopped_at_any_event_the_step_is_added_once(tmp_path: Path) -> None:
    events: list[Event] = []
    whole, _ = carry_out(tmp_path / "whole", events.append)
    stops = [n for n, event in enumerate(events) if event["event"] in ("round", "phase", "phase-end", "guard")]
    for stop_at in stops:
        seen = iter(range(len(events)))

        def stop(_event: Event, stop_at: int = stop_at, seen: Iterator[int] = seen) -> None:
            if next(seen) == stop_at:
                raise Stop

        path = tmp_path / f"stop {stop_at}"
        with pytest.raises(Stop):
            carry_out(path, stop)
        resumed, _ = carry_out(path)
        assert resumed.models == whole.models, events[stop_at]


@pytest.mark.parametrize(
    ("given", "way_out"),
    [({"method": "negate"}, "set adopt = direct"), ({"objective": "fd", "method": "continue"}, "adopt")],
)
def test_deferral_is_refused_in_advance_where_nothing_can_be_added(
    tmp_path: Path, given: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(InputError, match=way_out):
        run_simulation({**SMALL, **given}, out=tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists()


def test_deferred_a_device_reads_off_less_and_the_server_as_much(tmp_path: Path) -> None:
    given = {**SMALL, "samples": 600, "rounds": 4, "granularity": "sample", "forget-share": 0.005}
    _, deferred = run_simulation(given, out=tmp_path / "deferred", workers=1, leak=True)
    _, directly = run_simulation({**given, "adopt": "direct"}, out=tmp_path / "direct", workers=1, leak=True)
    assert deferred["leak"]["server"] == directly["leak"]["server"] == directly["leak"]["device"]
    assert directly["leak"]["device"]["classes"]["exact"] is True
    assert deferred["leak"]["device"]["classes"]["exact"] is False


def test_a_clipped_request_moves_the_model_no_further_than_the_clip(tmp_path: Path) -> None:
    state, _ = carry_out(tmp_path / "run", adopt="direct", guard="adopt", **{"forget-clip": 0.01})
    folder = RunFolder(tmp_path / "run")
    original, unlearned = (tensors_of(folder.load_model(state.models[stage])) for stage in ("original", "unlearned"))
    step = {name: unlearned[name].double() - original[name].double() for name in original}
    assert norm(step) == pytest.approx(0.01, rel=1e-3)


def test_with_noise_a_device_reports_no_loss_on_what_it_forgot(tmp_path: Path) -> None:
    noisy, _ = carry_out(tmp_path / "noisy", guard="adopt", **{"forget-clip": 0.01, "forget-noise": 0.1})
    plain, _ = carry_out(tmp_path / "plain", guard="adopt")
    assert plain.of("forget")[0].loss > 0
    assert noisy.of("forget")[0].loss == 0
    assert noisy.models["unlearned"] != plain.models["unlearned"]


def test_noise_without_a_clip_is_refused() -> None:
    with pytest.raises(InputError, match="set forget-clip too"):
        Settings.read({**SMALL, "forget-noise": 1.0})
