"""Objectives and compression in whole runs: what travels, what devices keep, and where a killed run ends."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedquit.client.objectives import Adaptive, make_objective
from fedquit.client.training.build_objective import objective_of
from fedquit.errors import FedquitError, InputError
from fedquit.server.run.loop import Loop
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid

SMALL: dict[str, Any] = {
    "model": "mlp",
    "clients": 3,
    "samples": 90,
    "scheme": "iid",
    "holdout": 40,
    "rounds": 3,
    "recover": "budget",
    "recover-rounds": 2,
    "references": 1,
}
Event = Mapping[str, Any]


class Stop(Exception):  # noqa: N818
    """The run is killed here."""


def carry_out(
    path: Path,
    listener: Callable[[Event], None] = lambda _event: None,
    engine: Callable[..., InProcessGrid] = InProcessGrid,
    devices: str = "devices",
    **changed: Any,
) -> State:
    """Carry out a small run in `path`, or resume it; devices save their state under `devices` in it."""
    settings = Settings.read({**SMALL, **{key.replace("_", "-"): value for key, value in changed.items()}})
    begun = (path / "settings.json").exists()
    folder = RunFolder.open(path) if begun else RunFolder.create(path, settings)
    config = {**settings.run_config(), "device-folder": str(path / devices) if devices else ""}
    try:
        with engine(settings.clients, config) as grid:
            return Loop(MeteredGrid(grid, patience=600), folder.settings(), folder, listener).run()
    finally:
        folder.release()


def kept(path: Path) -> list[str]:
    """Return what devices have on their disks: client/phase/round."""
    files = (path / "devices").glob("*/*/*/*.safetensors")
    return sorted("/".join(file.with_suffix("").parts[-3:]) for file in files)


def downs(state: State, phase: str) -> list[int]:
    return [r.bytes_down for r in state.of(phase)]


def test_fedavg_sends_and_learns_exactly_as_a_run_without_an_objective(tmp_path: Path) -> None:
    told: list[set[str]] = []

    class Spied(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            asked = list(messages)
            told.extend(set(message.content) for message in asked)
            told.extend(set(message.content.config_records.get("config", {})) for message in asked)
            yield from super().send_and_receive(asked, timeout=timeout)

    plain = carry_out(tmp_path / "a", engine=Spied)
    named = carry_out(tmp_path / "b", objective="fedprox", objective_settings="mu=0")
    assert plain.models == named.models
    assert not any({"phase", "extra"} & words for words in told)
    assert not kept(tmp_path / "a")


@pytest.mark.parametrize(
    ("chosen", "what"), [({"objective": "moon"}, ""), ({"compress_up": "top-k"}, "-owed")], ids=str
)
def test_a_device_saves_state_between_rounds_but_none_from_before_a_request(
    tmp_path: Path, chosen: dict[str, Any], what: str
) -> None:
    at_the_request: list[str] = []

    def listen(event: Event) -> None:
        if event["event"] == "phase" and event["phase"] == "forget":
            at_the_request.extend(kept(tmp_path))

    state = carry_out(tmp_path, listen, **chosen)
    assert at_the_request == [f"{client}/0-train{what}/{number}" for client in range(3) for number in (2, 3)]
    assert kept(tmp_path) == sorted(
        f"{client}/1-{phase}{what}/{number}"
        for client in (1, 2)
        for phase, rounds in (("recover", (4, 5)), ("retrain", (2, 3)), ("control", (4, 5)), ("match", (4, 5)))
        for number in rounds
    ), "the one that left keeps nothing, the others nothing of before"
    plain = carry_out(tmp_path / "plain")
    assert state.models["original"] != plain.models["original"]
    assert downs(state, "train")[0] - downs(plain, "train")[0] < 100, "a model travels, and the phase's name"


def test_saved_state_matters_from_a_devices_second_round(tmp_path: Path) -> None:
    models = {}
    for mu in (0.5, 2.0):
        for rounds in (1, 2):
            path = tmp_path / f"{mu}-{rounds}"
            state = carry_out(path, objective="moon", objective_settings=f"mu={mu}", rounds=rounds, reference="none")
            models[mu, rounds] = state.models["original"]
    assert models[0.5, 1] == models[2.0, 1], "the first round's term has no gradient"
    assert models[0.5, 2] != models[2.0, 2]


def test_fedgkd_sends_two_models_once_there_are_two_to_average(tmp_path: Path) -> None:
    plain = carry_out(tmp_path / "plain", rounds=4, reference="none")
    state = carry_out(tmp_path / "gkd", rounds=4, reference="none", objective="fedgkd")
    ratios = [one / other for one, other in zip(downs(state, "train"), downs(plain, "train"), strict=True)]
    assert ratios[0] == 1
    assert ratios[1] == pytest.approx(1, abs=0.01)
    assert ratios[2:] == pytest.approx([2, 2], abs=0.01)
    assert [r.bytes_up for r in state.of("train")] == [r.bytes_up for r in plain.of("train")]
    assert downs(state, "recover")[0] == downs(plain, "recover")[0], "what was to be forgotten is in nothing it sends"
    one = carry_out(tmp_path / "one", rounds=4, reference="none", objective="fedgkd", objective_settings="models=1")
    assert max(downs(one, "train")) / max(downs(plain, "train")) == pytest.approx(1, abs=0.01)
    assert state.beside is None
    assert len(list((tmp_path / "gkd" / "checkpoints").iterdir())) == len(state.named_models())


@pytest.mark.parametrize(
    "chosen",
    [
        {"objective": "moon"},
        {"objective": "fedgkd"},
        {"objective": "kd", "gate": "adaptive"},
        {"objective": "moon", "compress_up": "top-k+int8+zstd", "compress_down": "svd+fp16"},
        {"objective": "fd", "models": "mlp,cnn", "method": "continue"},
        {"objective": "fedproto", "method": "continue"},
        {"objective": "fedkd", "models": "mlp,cnn", "mentee": "mlp"},
    ],
    ids=str,
)
def test_killed_anywhere_it_ends_where_it_would_have(tmp_path: Path, chosen: dict[str, Any]) -> None:
    whole = carry_out(tmp_path / "whole", **chosen)
    killed: set[tuple[int, str]] = set()

    def once() -> State:
        """Go on until a second reply, or a round whose state is not saved yet, at which it was not killed before."""
        done = [0, 0]  # rounds of the run, replies of the round

        def kill(event: Event) -> None:
            done[0] = event["rounds"] if event["event"] in ("start", "resume") else done[0]
            done[1] += event["event"] == "reply"
            where = (done[0], event["event"])
            if (event["event"] == "round" or done[1] == 2) and where not in killed:
                killed.add(where)
                raise Stop
            if event["event"] == "round":
                done[:] = [done[0] + 1, 0]

        return carry_out(tmp_path / "killed", kill, **chosen)

    for _ in range(50):
        try:
            ended = once()
            break
        except Stop:
            continue
    assert len(killed) >= 12
    assert ended.models == whole.models
    assert ended.devices == whole.devices


def test_an_objective_with_state_names_the_folder_for_it(tmp_path: Path) -> None:
    with pytest.raises(FedquitError, match=r"objective 'moon' needs state on the device .* set device-folder"):
        carry_out(tmp_path / "moon", devices="", objective="moon")
    with pytest.raises(FedquitError, match=r"compress-up 'top-k' needs state on the device .* set device-folder"):
        carry_out(tmp_path / "top-k", devices="", compress_up="top-k")


def test_the_settings_of_a_run_name_objective_and_gate() -> None:
    chosen = objective_of(
        Settings.read(
            {"objective": "kd", "objective-settings": "weight=0.5", "gate": "adaptive", "gate-settings": "share=0.5"}
        )
    )
    assert chosen == make_objective("kd", weight=0.5, gate=Adaptive(share=0.5))
    for wrong, message in [
        ({"objective": "fedavg", "gate": "adaptive"}, "objective 'fedavg' has no per-sample distillation loss to gate"),
        ({"gate": "narrow"}, "unknown gate 'narrow'; known: speculative, adaptive"),
        ({"objective": "kd", "gate": "adaptive", "gate_settings": "k=1"}, "unknown setting of gate 'adaptive' 'k'"),
        ({"gate_settings": "share=1"}, "gate-settings: share has no effect without a gate"),
        ({"objective": "kd", "gate": "adaptive", "gate_settings": "share=0"}, "share is 0"),
    ]:
        with pytest.raises(InputError, match=message):
            objective_of(Settings.read(wrong))


def test_an_exact_codec_changes_bytes_and_no_model(tmp_path: Path) -> None:
    plain = carry_out(tmp_path / "plain")
    packed = carry_out(tmp_path / "packed", compress_up="zstd", compress_down="zstd")
    assert packed.models == plain.models
    for one, other in zip(packed.rounds, plain.rounds, strict=True):
        assert one.bytes_up < 0.95 * other.bytes_up
        assert one.bytes_down < 0.95 * other.bytes_down
        assert (one.compression_error_up, one.compression_error_down) == (0, 0)
        assert (other.compression_error_up, other.compression_error_down) == (None, None)


def test_every_round_reports_compression_error_and_the_bytes_sent(tmp_path: Path) -> None:
    plain = carry_out(tmp_path / "plain")
    told: list[Event] = []
    coded = carry_out(tmp_path / "coded", told.append, compress_up="int8", compress_down="fp16")
    for one, other in zip(coded.rounds, plain.rounds, strict=True):
        assert other.bytes_up / 4 < one.bytes_up < other.bytes_up * 0.3
        assert other.bytes_down / 2 < one.bytes_down < other.bytes_down * 0.55
        assert one.compression_error_up is not None
        assert one.compression_error_down is not None
        assert 0 < one.compression_error_down < 2**-11 < one.compression_error_up < 0.1
    errors = [event["compression_error_up"] for event in told if event["event"] == "round"]
    assert errors == [r.compression_error_up for r in coded.rounds]
    accuracy = [run.of("train")[-1].measures["holdout_accuracy"] for run in (plain, coded)]
    assert accuracy[1] == pytest.approx(accuracy[0], abs=0.1)


def test_top_k_sends_its_error_with_the_next_update_unless_disabled(tmp_path: Path) -> None:
    settings = {"owing": "share=0.1", "without": "share=0.1,feedback=false"}
    one, other = (carry_out(tmp_path / n, compress_up="top-k", compress_settings=t) for n, t in settings.items())
    assert [r.loss for r in one.rounds[:2]] == [r.loss for r in other.rounds[:2]], "the second round has the same start"
    assert one.rounds[2].loss != other.rounds[2].loss
    assert kept(tmp_path / "owing")
    assert not kept(tmp_path / "without")
