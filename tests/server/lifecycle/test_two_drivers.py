"""One lifecycle under two drivers: a simulation's loop and a deployment's coordinator make the same models.

Both train two rounds on the same devices, get the same request and recover. They derive seeds and number rounds
differently, as a deployment counts the step that forgets too; so both are given the same seeds here, and the simulation
the deployment's numbers. The guard adopts whatever is a model, so that every method comes to recovery; what it found is
compared, and so is what the run's folder and the ledger have of each round.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedquit.client.data.build_data_and_model import form_of
from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.device.local_data.gather import gather
from fedquit.errors import InputError
from fedquit.server.coordinator import Workplace
from fedquit.server.ledger import Step
from fedquit.server.lifecycle.request_seeds import RequestSeeds
from fedquit.server.lifecycle.rounds.round_order import Order
from fedquit.server.provision.check_methods import TRAINS_ON_IT
from fedquit.server.run.loop import Loop
from fedquit.server.run.phase_request import PhaseRequest
from fedquit.server.run.phase_rounds import PhaseRounds
from fedquit.server.run.run_folder import RunFolder
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.unlearning.methods.base import GRANULARITIES, METHODS
from tests.harness.rehearsal import Rehearsal, rehearse

ROUNDS, RECOVERS = 2, 2
LABEL = 3
SEEDS = RequestSeeds.of_id(7, "one request")
TRAINING: dict[str, Any] = {
    "model": "mlp", "lr": 0.1, "seed": 7, "weight-cap": 3.0, "clip-steps": 1.5, "accuracy-floor": 0.5,
}  # fmt: skip
FORGETTING: dict[str, Any] = {"tolerance": 0.0, "patience": 9, "recover-rounds": RECOVERS, "guard": "adopt"}
OPTIONS: Mapping[str, dict[str, Any]] = {
    "mode": {"rounds": 2, "guidance_rounds": 1},
    "orthogonal": {"rounds": 2},
    "federaser": {"interval": 1},
}
REQUESTS: Mapping[str, dict[str, Any]] = {
    "client": {"forget": "0"},
    "sample": {"forget": "0", "granularity": "sample", "forget-samples": f"{__name__}:of_the_label"},
    "class": {"granularity": "class", "forget-class": str(LABEL)},
}
PAIRS = [(name, g) for name, cls in METHODS.items() for g in GRANULARITIES if g in cls.traits.granularities]
SERVED = [(name, granularity) for name, granularity in PAIRS if name not in TRAINS_ON_IT]
"""Every method and granularity that both drivers serve; a deployed device trains on nothing that is to be forgotten."""


def of_the_label(inputs: torch.Tensor, labels: torch.Tensor) -> np.ndarray[Any, Any]:
    """Say which samples the request is about."""
    del inputs
    return (labels == LABEL).numpy()


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


def simulated_settings(method: str, granularity: str, adopt: str = "direct") -> Settings:
    return Settings.read({
        "adopt": adopt, **TRAINING, **FORGETTING, **REQUESTS[granularity], "method": method,
        "method-settings": OPTIONS.get(method, {}), "clients": 4, "scheme": "iid", "samples": 160, "split-seed": 0,
        "rounds": ROUNDS, "reference": "none",
    })  # fmt: skip


@pytest.fixture(autouse=True)
def same_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give both drivers the request's seeds, and the simulation's rounds of recovery the deployment's numbers.

    A deployed request draws from its id, which follows from keys made for the test.
    """
    case, order = PhaseRequest.case, PhaseRounds.order

    def as_deployed(rounds: PhaseRounds, number: int) -> Order:
        made = order(rounds, number)
        recovers = rounds.phase.kind == "recover"
        return replace(made, seed=SEEDS.recovery, number=ROUNDS + 1 + made.nth) if recovers else made

    monkeypatch.setattr(Workplace, "seeds", lambda _place, _request: SEEDS)
    monkeypatch.setattr(PhaseRequest, "case", lambda request, trained: replace(case(request, trained), seeds=SEEDS))
    monkeypatch.setattr(PhaseRounds, "order", as_deployed)


def simulate(path: Path, settings: Settings) -> tuple[list[tuple[str, str]], Any, list[Any]]:
    """Return the phase and the model of each round of a simulation, what its guard found, and figures."""
    made: list[tuple[str, str]] = []

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] == "round":
            made.append((event["phase"], event["model_sha256"]))

    folder = RunFolder.create(path, settings)
    try:
        with InProcessGrid(settings.clients, settings.run_config()) as engine:
            state = Loop(MeteredGrid(engine, patience=600), settings, folder, hear).run()
    finally:
        folder.release()
    figures = [
        (
            one.participants,
            one.refused,
            one.measures["holdout_accuracy"],
            one.update_norm if one.phase == "train" else None,
        )
        for one in state.rounds
    ]
    return made, state.guard["forget"]["findings"], figures


def deploy(path: Path, settings: Settings, granularity: str) -> tuple[list[tuple[str, str]], Any, list[Any]]:
    """Return the phase and the model of each step of a deployment, what its guard found, and figures."""
    forgetting = {
        "method": settings.method, "method-settings": settings.method_settings, "fallback": [], "adopt": settings.adopt,
    }  # fmt: skip
    tables = {
        "training": TRAINING,
        "forgetting": {**FORGETTING, **forgetting},
        "trusted": {"data": "trusted.npz"},
        "schedule": {"rounds": ROUNDS, "exclude-rounds": 0},
    }
    rehearsal = rehearse(path, tables, devices=settings.clients, samples=settings.samples)
    held = sets_of(settings).holdout
    np.savez(rehearsal.server / "trusted.npz", x=held.inputs.numpy(), y=held.labels.numpy())
    with rehearsal.grid() as grid:
        rehearsal.run(grid, rounds=ROUNDS)
        request = ask(rehearsal, granularity)
        rehearsal.run(grid, rounds=ROUNDS)
    with rehearsal.ledger() as ledger:
        found = ledger.request(request)
        log = [(event.kind, event.facts) for event in ledger.events(request=request)]
        assert found.status in ("done", "unrecovered"), log
        [findings] = [facts["findings"] for kind, facts in log if kind == "quarantined"]
        steps = ledger.steps()
    return [(step.phase, step.model_after) for step in steps], findings, [figures_of(step) for step in steps]


def figures_of(step: Step) -> tuple[Any, ...]:
    """Return of a step what a simulation has of its rounds; norms of training alone, which is all that it needs."""
    accuracy = step.measures["accuracy_after" if step.phase == "forget" else "accuracy"]
    norm = step.measures["update_norm"] if step.phase == "train" else None
    return tuple(given.member for given in step.contributions), step.refused, accuracy, norm


def ask(rehearsal: Rehearsal, granularity: str) -> str:
    """Have the deployment take the request that the simulation has, and return its id."""
    if granularity == "class":
        return rehearsal.ask_for_class(LABEL).id
    about: list[bytes] = []
    if granularity == "sample":
        kit, form = rehearsal.kits()[0], form_of(rehearsal.federation.settings())
        about = list(gather(kit.path(kit.data), form, lambda _digest, _content, label: label == str(LABEL)).digests)
    return rehearsal.ask(rehearsal.signed(0, about)).id


@pytest.mark.parametrize(("method", "granularity"), SERVED)
def test_the_same_request_makes_the_same_models_under_both_drivers(
    tmp_path: Path, method: str, granularity: str
) -> None:
    settings = simulated_settings(method, granularity)
    deployed, found, in_ledger = deploy(tmp_path / "deployed", settings, granularity)
    simulated, found_in_simulation, in_folder = simulate(tmp_path / "simulated", settings)
    assert [phase for phase, _ in deployed] == ["train"] * ROUNDS + ["forget"] + ["recover"] * RECOVERS
    assert simulated == deployed
    assert found_in_simulation == found
    assert in_folder == in_ledger


@pytest.mark.parametrize(("method", "granularity"), [("fedquit", g) for g in GRANULARITIES] + [("ascent", "client")])
def test_deferred_adoption_makes_the_same_models_under_both_drivers(
    tmp_path: Path, method: str, granularity: str
) -> None:
    settings = simulated_settings(method, granularity, "deferred")
    deployed, found, in_ledger = deploy(tmp_path / "deployed", settings, granularity)
    simulated, found_in_simulation, in_folder = simulate(tmp_path / "simulated", settings)
    assert [phase for phase, _ in deployed] == ["train"] * ROUNDS + ["forget"] + ["recover"] * RECOVERS
    assert simulated == deployed
    assert found_in_simulation == found
    assert in_folder == in_ledger
    if granularity == "client":
        directly, _, _ = simulate(tmp_path / "direct", simulated_settings(method, granularity))
        assert directly[: ROUNDS + 1] == simulated[: ROUNDS + 1]  # the same step of the same device ...
        assert directly[ROUNDS + 1] != simulated[ROUNDS + 1]  # ... adopted in another way


@pytest.mark.parametrize("method", ["fedquit", "retrain"])
def test_recovery_has_the_same_strategy_under_both_drivers(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _, _ = simulate(tmp_path / "plain", simulated_settings(method, "client"))
    monkeypatch.setitem(TRAINING, "recover-strategy", "fedmedian")
    settings = simulated_settings(method, "client")
    deployed, _, _ = deploy(tmp_path / "deployed", settings, "client")
    simulated, _, _ = simulate(tmp_path / "simulated", settings)
    assert simulated == deployed
    assert (simulated == plain) == (method == "retrain")  # whose rounds train again


@pytest.mark.parametrize("method", sorted({name for name, _ in PAIRS} - {name for name, _ in SERVED}))
def test_a_method_that_only_a_simulation_serves_is_refused_with_the_reason(tmp_path: Path, method: str) -> None:
    with pytest.raises(InputError, match=f"'{method}' has the device train on what is to be forgotten"):
        _ = rehearse(tmp_path / "deployed", {"forgetting": {"method": method}}).federation
