"""One training for several requests: what `--start` takes over, and what the report says of each request."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedquit.errors import InputError
from fedquit.server.run.run_folder import read_state
from fedquit.settings import Part, keys_of
from fedquit.simulations.simulate.run_simulation import run_simulation

SMALL = {"model": "mlp", "clients": 4, "samples": 80, "scheme": "iid", "rounds": 5, "recover": "budget",
         "recover_rounds": 1, "reference": "none"}  # fmt: skip
FEDERASER = {"method": "federaser", "forget": "2"}


class Stop(Exception):  # noqa: N818
    """The run is killed here."""


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


def simulate(out: Path, given: Mapping[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    return run_simulation({**SMALL, **(given or {})}, out=out, **{"workers": 1, **how})[1]


def hashes(document: dict[str, Any]) -> dict[str, str]:
    return {stage: found["model_sha256"] for stage, found in document["stages"].items() if found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What federaser makes of a run of its own."""
    return hashes(simulate(tmp_path_factory.mktemp("alone") / "run", FEDERASER))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training whose history was kept for federaser, of a run that will forget otherwise."""
    path = tmp_path_factory.mktemp("base") / "run"
    simulate(path, {"method": "negate"}, only={"train"}, keep=["federaser"])
    return path


def test_a_method_that_replays_history_gets_it_from_the_start(
    base: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    before = sorted(base.rglob("*"))
    assert hashes(simulate(tmp_path / "run", FEDERASER, start=base)) == alone
    assert not (tmp_path / "run" / "history").exists()
    costs = (base / "costs.csv").read_bytes()
    assert (tmp_path / "run" / "costs.csv").read_bytes().startswith(costs), "what training cost comes along"
    assert sorted(base.rglob("*")) == before, "the start keeps its own, for the next one"
    assert hashes(simulate(tmp_path / "again", FEDERASER, start=base)) == alone


def test_a_killed_start_resumes_and_keeps_the_same_history(tmp_path: Path, alone: dict[str, str]) -> None:
    def stop(event: Mapping[str, Any]) -> None:
        if event["event"] == "round" and event["round"] == 2:
            raise Stop

    base = tmp_path / "base"
    with pytest.raises(Stop):
        simulate(base, {"method": "negate"}, only={"train"}, keep=["federaser"], listener=stop)
    run_simulation({}, out=base, resume=True, workers=1, only={"train"}, keep=["federaser"])
    assert hashes(simulate(tmp_path / "run", FEDERASER, start=base)) == alone


def test_killed_between_history_and_state_a_start_is_taken_over_again(
    base: Path, alone: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("fedquit.server.run.run_folder.RunFolder.save_state", killed)
        with pytest.raises(Stop):
            simulate(tmp_path / "run", FEDERASER, start=base)
    again = run_simulation({}, out=tmp_path / "run", resume=True, workers=1, start=base)[1]
    assert hashes(again) == alone


@pytest.mark.parametrize("method", ["federaser", "projected-ascent"])
def test_a_start_without_the_needed_history_is_refused_and_writes_nothing(tmp_path: Path, method: str) -> None:
    simulate(tmp_path / "base", only={"train"})
    with pytest.raises(InputError, match=f"kept nothing of training that method '{method}' .* take another method"):
        simulate(tmp_path / "run", {"method": method}, start=tmp_path / "base")
    assert not (tmp_path / "run").exists()


def test_settings_that_are_not_of_training_change_no_trained_model(tmp_path: Path) -> None:
    other = {
        "granularity": "sample",
        "forget": "1;2",
        "forget-share": 0.5,
        "method": "ascent",
        "method-settings": "lr=0.02",
        "forget-clip": 0.5,
        "forget-noise": 0.1,
        "adopt": "deferred",
        "guard": "clip",
        "blend": 0.25,
        "recover": "utility",
        "tolerance": 0.2,
        "patience": 3,
        "recover-rounds": 2,
        "recover-bytes": 9,
        "budget": 7,
        "recover-strategy": "fedavgm",
        "recover-strategy-settings": "server-momentum=0.5",
        "history-bytes": 10**8,
        "reference": "retrain",
        "references": 3,
    }
    by_samples = {"forget-samples", "forget-class", "teacher"}  # which exclude others of them
    assert set(other) | by_samples == set(keys_of(*Part)) - set(keys_of(Part.TRAINING, Part.PLACE))
    told = [{**SMALL, **{key.replace("-", "_"): value for key, value in other.items()}}, SMALL]
    models = [
        run_simulation(given, out=tmp_path / str(number), workers=1, only={"train"})[1]["stages"]["original"]
        for number, given in enumerate(told)
    ]
    assert models[0]["model_sha256"] == models[1]["model_sha256"]


@pytest.mark.parametrize("key", ["lr", "holdout", "seed"])
def test_a_start_that_trained_otherwise_is_refused_and_the_setting_is_named(
    base: Path, tmp_path: Path, key: str
) -> None:
    with pytest.raises(InputError, match=f"--start: {key} is .* training must be the same"):
        simulate(tmp_path / "run", {key: 1}, start=base)


def test_a_start_is_never_overwritten_by_the_run_that_takes_it_over(tmp_path: Path) -> None:
    simulate(tmp_path / "base", only={"train"})
    with pytest.raises(InputError, match="--start and --out are the same folder"):
        simulate(tmp_path / "base", start=tmp_path / "base", overwrite=True)
    assert (tmp_path / "base" / "state.json").exists()


def test_a_history_with_a_hole_is_refused_and_the_round_is_named(base: Path, tmp_path: Path) -> None:
    def stop(event: Mapping[str, Any]) -> None:
        if event["event"] == "phase":
            raise Stop

    with pytest.raises(Stop):
        simulate(tmp_path / "run", FEDERASER, start=base, listener=stop)
    for file in (tmp_path / "run" / "history" / "3").iterdir():
        file.unlink()
    (tmp_path / "run" / "history" / "3").rmdir()
    with pytest.raises(InputError, match="federaser: the updates of round 3 were not kept"):
        run_simulation({}, out=tmp_path / "run", resume=True, workers=1)


def test_an_interval_of_ones_own_is_kept_and_replayed(tmp_path: Path) -> None:
    exchanges = {}
    for interval in (1, 2, 3):
        simulate(tmp_path / str(interval), {**FEDERASER, "method_settings": {"interval": interval}})
        exchanges[interval] = read_state(tmp_path / str(interval)).of("forget")[0].exchanges
    assert exchanges == {1: 4, 2: 2, 3: 1}, "of rounds 1 to 5; the first is taken as it is"


def test_the_report_has_a_part_for_each_request(tmp_path: Path) -> None:
    document = simulate(tmp_path, {"forget": "0,3;1", "budget": 3, "reference": "retrain", "references": 1})
    first, second = document["requests"]
    assert (first["clients"], second["clients"]) == ([0, 3], [1])
    assert (first["samples"], second["samples"]) == (40, 20)
    assert document["samples"]["forget"] == 60
    for request in (first, second):
        assert request["phases"]["forget"]["rounds"] == request["phases"]["recover"]["rounds"] == 1
        assert set(request["forget_accuracy"]) == {
            "original", "unlearned", "recovered", "unlearned-2", "recovered-2", "later", "retrained",
            "control", "matched",
        }  # fmt: skip
    assert second["phases"] == {name: document["phases"][name] for name in ("forget", "recover")}
    assert first["phases"]["forget"]["bytes_up"] == pytest.approx(2 * second["phases"]["forget"]["bytes_up"], rel=0.01)
    for stage, found in document["stages"].items():
        name = {"unlearned": "unlearned-2", "recovered": "recovered-2"}.get(stage, stage)
        shares = [request["forget_accuracy"][name] for request in (first, second)]
        assert found["forget_accuracy"] == pytest.approx((40 * shares[0] + 20 * shares[1]) / 60)
    assert (tmp_path / "models" / "unlearned-2.safetensors").exists()
