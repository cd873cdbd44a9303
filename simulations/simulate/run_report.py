"""The report of a finished run: every stage measured on D_f, D_r and D_t, every phase costed, and a verdict.

`report.json` is what other programs read; its keys are described in docs/report.md.
"""

import copy
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import fedquit
from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.data.evaluation_sets import Sets, sets_of
from fedquit.client.data.forget_sets import askers
from fedquit.client.personal.personal_evaluation import STAGE, mean_document
from fedquit.client.training.build_objective import objective_of
from fedquit.client.training.evaluate_model import measure, outputs_of
from fedquit.documents import Document
from fedquit.errors import FedquitError
from fedquit.files import explained, write_json
from fedquit.server.run.personal_reports import measures_by_client
from fedquit.server.run.phases import is_trained_on, matched_name, nth, phases, reference_name
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.simulate.leak_of_run import leak_of_run
from fedquit.simulations.simulate.verdict_of_run import judge, memorised, score_text
from fedquit.unlearning.tensors.accelerator import placed
from fedquit.unlearning.tensors.convert import load_arrays

SCHEMA_VERSION = 3
STAGES = ("original", "unlearned", "recovered", "later", "retrained", "control")
WAY_OUT = "--references 5"
ERRORS = ("compression_error_down", "compression_error_up")
PHASES = ("train", "forget", "recover", "later", "retrain")


def write_report(folder: RunFolder, *, leak: bool = False) -> Document:
    """Measure the models of a finished run; write models, figures and report.json; return the report.

    A run in which the guard refused a method's model is finished with that.

    Args:
        folder: of the run.
        leak: whether to attack what the last request showed; takes a while.

    Raises:
        FedquitError: the run is not finished.
    """
    from fedquit.simulations.simulate.run_figures import draw_all

    state = folder.load_state()
    left = [phase.name for phase in phases(folder.settings(), matches=state.matches) if phase.name not in state.ended]
    if left and not state.refused:
        raise FedquitError(
            f"the run in {folder.path} is not finished ({left[0]} is left): "
            f"fedquit simulate --resume --out {folder.path}"
        )
    document = make_report(folder, state)
    if leak and not state.refused:
        document["leak"] = leak_of_run(folder)
    _write_models(folder, state)
    draw_all(folder, state, document)
    write_json(folder.path / "report.json", document)
    return document


def make_report(folder: RunFolder, state: State) -> Document:
    """Return the report as a document; of a run that is not finished, what there is so far.

    Where requests came one after the other, stages and phases are those of the last; `requests` has them all.
    """
    settings = folder.settings()
    sets, last = sets_of(settings), settings.num_requests - 1
    measured = _measured(folder, state, settings, sets)
    stages = {name: measured.get(nth(name, last) if name in ("unlearned", "recovered") else name) for name in STAGES}
    costs = {name: _costs(state, nth(name, last) if name in ("forget", "recover") else name) for name in PHASES}
    references = [measured[name] for name in map(reference_name, range(settings.references)) if name in measured]
    matched = [measured[name] for name in map(matched_name, range(settings.references)) if name in measured]
    samples = {name: len(getattr(sets, name)) for name in ("forget", "retain", "holdout", "test")}
    return {
        "schema_version": SCHEMA_VERSION,
        "config": {**settings.run_config(), "partition": str(folder.partition_file.name)},
        "versions": _versions(folder.computed_with()),
        "samples": samples,
        "stages": stages,
        "references": [{"seed": settings.seed + number, **stage} for number, stage in enumerate(references)],
        "matched": [{"seed": settings.seed + number, **stage} for number, stage in enumerate(matched)],
        "trained_on": {name: found for name, found in measured.items() if is_trained_on(name)},
        "rounds_since_training": state.rounds_since_training(settings.num_requests),
        "requests": [_request(i, settings, sets, state, measured) for i in range(settings.num_requests)],
        "phases": costs,
        "ended": {
            name: {"reason": reason, "goal_reached": state.reached[name]} for name, reason in state.ended.items()
        },
        "ratios_to_retraining": _ratios(costs),
        "memorised": memorised(stages, matched or references),
        "verdict": judge(stages, matched or references, samples, way_out=WAY_OUT) if stages["recovered"] else None,
        "leak": None,
    }


def refusal(document: Document) -> str | None:
    """Return why the guard refused the model of one of a run's requests; None: it refused none.

    Args:
        document: the report.
    """
    for number, request in enumerate(document["requests"], start=1):
        if request["guard"] and request["guard"]["verdict"] == "refuse":
            method, off = document["config"]["method"], request["guard"]["off"]
            return (
                f"request {number}: the guard refused the model of {method}: {off}; recovery and the retrained models "
                "were left out. --guard adopt adopts it all the same, --guard clip a shorter step where that mends it"
            )
    return None


def _measured(folder: RunFolder, state: State, settings: Settings, sets: Sets) -> dict[str, Document]:
    """Return the measures of every stage: of its model, or the mean over devices; and what devices said of theirs."""
    models = {name: sha256 for name, sha256 in state.models.items() if not name.startswith("initial")}
    if objective_of(settings).needs().shares == "model":
        found = {sha256: _measure(folder, sha256, settings, sets) for sha256 in dict.fromkeys(models.values())}
        measured = {name: found[sha256] for name, sha256 in models.items()}
    else:
        measured = {
            name: {**mean_document(measures_by_client(state.devices[name])), "model_sha256": sha256}
            for name, sha256 in models.items()
        }
    return {
        name: {**document, "devices": _devices(state.devices[name])} if name in state.devices else document
        for name, document in measured.items()
    }


def _devices(said: Mapping[str, Any]) -> Document:
    """Return, for each device, its model and the accuracies that it said."""
    return {
        client: {
            "model": own["model"],
            "model_sha256": own["model_sha256"],
            **{name: own["measures"][name] for name in STAGE if name.endswith("accuracy")},
        }
        for client, own in said.items()
    }


def _measure(folder: RunFolder, name: str, settings: Settings, sets: Sets) -> Document:
    """Return what is measured of one model."""
    model = placed(load_arrays(copy.deepcopy(empty_model(settings.key())), folder.load_model(name)))
    outputs = outputs_of(model, sets)
    return {**measure(outputs, sets), "scores": score_text(outputs), "model_sha256": name}


def _request(number: int, settings: Settings, sets: Sets, state: State, measured: Mapping[str, Document]) -> Document:
    """Return who asked, how many samples it was about, what it cost, and what each model since knows of them."""
    mine = sets.requests == number
    return {
        "clients": list(askers(settings, number)),
        "samples": int(mine.sum()),
        "guard": state.guard.get(nth("forget", number)),
        "phases": {name: _costs(state, nth(name, number)) for name in ("forget", "recover")},
        "forget_accuracy": {
            stage: found["forget_accuracy_by_request"][number]
            for stage, found in measured.items()
            if not is_trained_on(stage)
        },
    }


def _costs(state: State, phase: str) -> Document | None:
    rounds = state.of(phase)
    if not rounds:
        return None
    return {
        "rounds": sum(r.exchanges for r in rounds),
        "bytes_down": sum(r.bytes_down for r in rounds),
        "bytes_up": sum(r.bytes_up for r in rounds),
        "seconds": sum(r.seconds for r in rounds),
        "device_seconds": sum(r.device_seconds for r in rounds),
        **{name: _mean([getattr(r, name) for r in rounds]) for name in ERRORS},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _ratios(costs: Mapping[str, Document | None]) -> dict[str, float] | None:
    """Return what forgetting and recovery cost together, as shares of what retraining costs."""
    retrain = costs["retrain"]
    if retrain is None:
        return None
    spent = [costs[name] or {} for name in ("forget", "recover")]

    def total(cost: Document, key: str) -> float:
        return float(cost.get("bytes_down", 0) + cost.get("bytes_up", 0) if key == "bytes" else cost.get(key, 0))

    names = ("bytes", "rounds", "seconds", "device_seconds")
    return {name: sum(total(cost, name) for cost in spent) / total(retrain, name) for name in names}


def _versions(computed_with: Mapping[str, str]) -> dict[str, str]:
    packages = ("flwr", "torch", "torchvision", "numpy")
    return {
        "fedquit": fedquit.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        **computed_with,
    }


def _write_models(folder: RunFolder, state: State) -> None:
    """Put the models of the stages next to the report under names that people know."""
    target = folder.path / "models"
    with explained(target):
        target.mkdir(exist_ok=True)
        for stage, name in state.models.items():
            if not stage.startswith("initial") and not is_trained_on(stage):
                shutil.copyfile(folder.checkpoint(name), Path(target) / f"{stage}.safetensors")
