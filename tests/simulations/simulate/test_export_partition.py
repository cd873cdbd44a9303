"""A run for code outside fedquit: the npz file has all it needs, and what it sends back is audited."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.numpy import load_file

from fedquit import InputError, RunResult, audit, simulate
from fedquit.settings import Part, keys_of
from fedquit.simulations.simulate.command import simulate as command

SMALL: dict[str, Any] = {
    "model": "mlp", "clients": 3, "samples": 300, "alpha": 1.0, "rounds": 2, "forget": "1",
    "recover": "budget", "recover_rounds": 1,
}  # fmt: skip

Exported = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Exported]:
    folder = tmp_path_factory.mktemp("export")
    run = simulate(SMALL, references=5, out=folder / "run", workers=1, export_partition=folder / "run.npz")
    with np.load(folder / "run.npz", allow_pickle=False) as file:
        return run, dict(file)


def outside(weights: Exported, inputs: NDArray[Any]) -> NDArray[Any]:
    """Return the answers of the mlp as code that knows nothing of fedquit and PyTorch computes them."""
    values, layers = inputs.reshape(len(inputs), -1), list(weights.values())
    for number in range(0, len(layers), 2):
        values = values @ layers[number].T + layers[number + 1]
        values = np.maximum(values, 0) if number + 2 < len(layers) else values
    answers: NDArray[Any] = values.argmax(axis=1)
    return answers


def of_stage(file: Exported, stage: str) -> Exported:
    return {str(name): file[f"{stage}/{name}"] for name in file["names"]}


def test_code_that_has_only_the_export_measures_what_the_report_says(exported: tuple[RunResult, Exported]) -> None:
    run, file = exported
    original, stage = of_stage(file, "original"), run.stages["original"]
    forget = file["train_forget"]
    for part, wanted in ((forget, stage.forget_accuracy), (~forget, stage.retain_accuracy)):
        right = outside(original, file["train_inputs"][part]) == file["train_labels"][part]
        assert right.mean() == pytest.approx(wanted)
    tested = outside(original, file["test_inputs"]) == file["test_labels"]
    assert tested.mean() == pytest.approx(stage.test_accuracy)


def test_the_export_has_the_split_the_request_and_the_budget(exported: tuple[RunResult, Exported]) -> None:
    run, file = exported
    parts = json.loads((run.folder / "partition.json").read_text())
    assert {str(client): int((file["train_client"] == client).sum()) for client in range(3)} == {
        client: len(part) for client, part in parts.items()
    }
    assert (file["train_forget"] == (file["train_client"] == 1)).all()
    assert (int(file["training_rounds"]), int(file["recovery_rounds"])) == (2, 1)
    settings = json.loads(str(file["settings"]))
    assert settings["batch-size"] == 32
    assert not set(settings) & set(keys_of(Part.PLACE)), "where things lie on this machine is nobody's business"
    names = list(load_file(run.folder / "models" / "original.safetensors"))
    assert sorted(file["names"]) == sorted(names)
    assert {file[f"initial/{name}"].dtype for name in names} == {np.dtype("float32")}


@pytest.mark.parametrize("form", ["names", "order", "doubles"])
def test_the_original_is_recognised_in_whatever_form_it_comes_back(
    exported: tuple[RunResult, Exported], tmp_path: Path, form: str
) -> None:
    run, file = exported
    original = of_stage(file, "original")
    if form == "order":
        np.savez(tmp_path / "back.npz", *original.values())
    else:
        dtype = np.float64 if form == "doubles" else np.float32
        named: dict[str, Any] = {name: array.astype(dtype) for name, array in original.items()}
        np.savez(tmp_path / "back.npz", **named)
    found = audit(tmp_path / "back.npz", run, relearn_steps=1)
    assert found.model.model_sha256 == run.stages["original"].model_sha256
    assert found.verdict.outcome == "not consistent"
    assert "bit for bit" in found.verdict.reason


def test_weights_that_do_not_fit_are_refused_in_one_line(exported: tuple[RunResult, Exported], tmp_path: Path) -> None:
    run, file = exported
    good = of_stage(file, "original")
    first = next(iter(good))
    bad: dict[str, tuple[dict[str, Any], str]] = {
        "missing": ({name: array for name, array in good.items() if name != first}, f"'{first}' is absent"),
        "turned": ({**good, first: good[first].T}, f"'{first}' is"),
        "more": ({**good, "extra": np.zeros(1)}, "'extra' is"),
        "short": ({"arr_0": np.zeros(1)}, "in this order: 1.weight, 1.bias"),
        "words": ({**good, first: np.full(good[first].shape, "x")}, "not numbers"),
        "pickled": ({**good, first: np.array([None])}, "no npz file of numbers"),
        "endless": ({**good, first: np.full_like(good[first], np.inf)}, "NaN or infinity"),
    }
    for name, (arrays, message) in bad.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(InputError, match=message) as raised:
            audit(tmp_path / f"{name}.npz", run)
        assert "\n" not in str(raised.value)
    whole = (tmp_path / "missing.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no npz file of numbers"):
        audit(tmp_path / "cut.npz", run)


def test_damaged_and_hostile_npz_files_are_errors_of_one_line(
    exported: tuple[RunResult, Exported], tmp_path: Path
) -> None:
    run, file = exported
    named: dict[str, Any] = of_stage(file, "original")
    first = next(iter(named))
    packed = io.BytesIO()
    np.savez_compressed(packed, **named)
    spoilt = bytearray(packed.getvalue())
    spoilt[200:300] = bytes(100)
    large = io.BytesIO()
    np.savez_compressed(large, **{**named, first: np.zeros(10_000_000)})
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr(first, "no array")
    for content, message in (
        (bytes(spoilt), "no npz file of numbers"),
        (large.getvalue(), "far more numbers than the model"),
        (foreign.getvalue(), "is no array"),
    ):
        (tmp_path / "back.npz").write_bytes(content)
        with pytest.raises(InputError, match=message) as raised:
            audit(tmp_path / "back.npz", run)
        assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_exported_to_is_refused_before_the_run(tmp_path: Path) -> None:
    for name, message in (("run.json", "call it"), ("none/run.npz", "there is no folder")):
        given = ["--rounds", "1", "--out", str(tmp_path / "run"), "--export-partition", str(tmp_path / name)]
        told = CliRunner().invoke(command, given)
        assert isinstance(told.exception, InputError)
        assert message in str(told.exception)
    assert not (tmp_path / "run").exists()
