"""The official code beside ours: the same samples, weights in the right order, a page made from the figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedquit.client.data.datasets import load_dataset
from tests.benchmarks.others.exported_run import as_torch
from tests.benchmarks.paper import official_run

SMALL: dict[str, Any] = {"clients": 3, "rounds": 2, "holdout": 60, "guard": "adopt"}


def test_keras_weights_in_pytorchs_order_give_the_same_outputs() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 5, 4, generator=draw)
    kernel = torch.rand(3, 3, 3, 2, generator=draw)  # height, width, inputs, outputs
    matrix = torch.rand(5 * 4 * 3, 7, generator=draw)
    ours = torch.nn.functional.conv2d(images, torch.tensor(as_torch(kernel.numpy(), (5, 4, 3))))
    theirs = torch.einsum("nchwij,ijco->nohw", images.unfold(2, 3, 1).unfold(3, 3, 1), kernel)
    assert torch.allclose(ours, theirs, atol=1e-5)
    rows = images.permute(0, 2, 3, 1).flatten(1) @ matrix  # Keras flattens channels last
    assert torch.allclose(images.flatten(1) @ torch.tensor(as_torch(matrix.numpy(), (5, 4, 3))).T, rows, atol=1e-5)


def test_the_same_samples_go_to_both_and_all_models_are_measured_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = load_dataset("digits")
    monkeypatch.setattr(official_run, "load_dataset", lambda _name: digits)
    monkeypatch.setattr(official_run, "SAMPLES", 150)
    monkeypatch.setattr(official_run, "OTHER_STARTS", {"default": {"init": "default"}})
    monkeypatch.setattr(official_run, "SETTINGS", {**official_run.SETTINGS, **SMALL, "model": "mlp"})
    official_run.ours(tmp_path, 0)
    with np.load(tmp_path / "0.npz", allow_pickle=False) as exported:
        assert exported["train_inputs"].min() == 0
        assert exported["train_inputs"].max() == 1
        names, original = exported["names"], {name: exported[f"original/{name}"] for name in exported["names"]}
        assert not exported[f"initial/{names[-1]}"].any(), "init glorot: biases of zero"
    theirs = tmp_path / "0-theirs"
    theirs.mkdir()
    for stage in official_run.STAGES:
        np.savez(theirs / f"{stage}.npz", **original)
    (theirs / "rounds.json").write_text('{"recovery": 4}')
    rows = official_run.make_results(tmp_path)["rows"]
    by_model = {(row[1], row[2]): row[3:] for row in rows}
    assert by_model["theirs", "original"] == by_model["ours", "original"], "the same weights"
    assert by_model["theirs", "recovered"][-1] == "4"
    assert by_model["ours on theirs", "unlearned"] == by_model["ours", "unlearned"], "the same pass"
    assert len(rows) == 10


def test_the_page_of_the_official_code_is_made_from_its_published_figures() -> None:
    document = json.loads(official_run.JSON.read_text(encoding="utf-8"))
    assert official_run.PAGE.read_text(encoding="utf-8") == official_run.make_page(document)
