"""Compression on a device: what its settings allow, what it sends, and what it refuses to read."""

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedquit.client.app import app
from fedquit.client.compression.build_compression import Compression, compression_of
from fedquit.client.compression.codecs import chain_of, slot_of
from fedquit.client.data.build_data_and_model import initial_model
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.grid.array_record import arrays_of_record, record_of

SETTINGS: dict[str, Any] = {"clients": 3, "model": "mlp", "samples": 90, "scheme": "iid"}
START = {name: tensor.numpy() for name, tensor in initial_model(Settings(**SETTINGS), 0).state_dict().items()}


def ask(arrays: dict[str, Any], kind: str = "train", clipping_norm: float = 0.0, **changed: Any) -> RecordDict:
    become_server_task(1)
    settings = Settings.read({**SETTINGS, **changed})
    record = record_of(arrays)
    clipping = {"clipping_norm": clipping_norm} if clipping_norm else {}
    config = ConfigRecord({"seed": 5, "lr": 0.1, "server-round": 1, **clipping})
    context = Context(1, 1000, {"partition-id": 0, "num-partitions": 3}, RecordDict(), settings.run_config())
    return app(Message(RecordDict({"arrays": record, "config": config}), 1000, kind), context).content


def model_in(content: RecordDict) -> dict[str, Any]:
    return arrays_of_record(content.array_records["arrays"])


def test_no_compression_is_the_default() -> None:
    assert compression_of(Settings()) == Compression()
    assert set(ask(START).metric_records["metrics"]) == {"num-examples", "loss", "cpu-seconds"}


@pytest.mark.parametrize("kind", ["train", "train.forget"])
def test_a_device_sends_what_became_of_the_model_that_it_read(kind: str) -> None:
    down, up = chain_of("fp16+zstd"), chain_of("int8")
    coded = down.encode(START)
    reply = ask(coded.arrays, kind, compress_down="fp16+zstd", compress_up="int8")
    plain = model_in(ask(coded.received, kind))
    got = up.decode(model_in(reply), {name: slot_of(array) for name, array in START.items()}, coded.received)
    lost = np.sqrt(sum(np.square(got[name] - plain[name], dtype=np.float64).sum() for name in got))
    moved = np.sqrt(
        sum(np.square(plain[n] - coded.received[n], dtype=np.float64).sum() for n in got if got[n].ndim > 1)
    )
    assert reply.metric_records["metrics"]["compression-error"] == pytest.approx(lost / moved, rel=1e-3)
    assert 0 < lost / moved < 0.05


def test_evaluation_uses_the_compressed_model_too() -> None:
    coded = chain_of("zstd").encode(START).arrays
    assert dict(ask(coded, "evaluate", compress_down="zstd").metric_records["metrics"]) == dict(
        ask(START, "evaluate").metric_records["metrics"]
    )


def test_a_server_that_sends_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="is missing"):
        ask({}, compress_down="fp16")
    with pytest.raises(InputError, match=r"is float32 .* not float16"):
        ask(START, compress_down="fp16")
    huge = chain_of("zstd").encode({name: np.zeros((10**3, 10**3)) for name in START}).arrays
    with pytest.raises(InputError, match="8,000,000"):
        ask(huge, compress_down="zstd")


def test_a_model_that_has_diverged_is_named_by_its_device() -> None:
    with pytest.raises(InputError, match="holds NaN or infinity"):
        ask({name: np.full_like(array, np.nan) for name, array in START.items()}, compress_up="int8")


def test_an_impossible_combination_is_refused_before_anything_runs() -> None:
    for wrong, message in [
        ({"compress-up": "int9"}, r"unknown codec 'int9' \(did you mean 'int8'\?\)"),
        ({"compress-down": "top-k"}, "compress-down: top-k leaves most of a model out"),
        ({"compress-up": "fp16", "compress-settings": "share=0.1"}, "share has no effect without a codec"),
        ({"compress-settings": "share=0.1"}, "share has no effect without a codec; set compress-up"),
        ({"compress-up": "top-k", "compress-settings": "shares=0.1"}, r"unknown setting of compression 'shares'"),
        ({"compress-up": "top-k", "compress-settings": "share=2"}, "share is 2"),
        (
            {"compress-up": "int8+zstd", "dp": "client-fixed"},
            r"dp 'client-fixed' bounds the norm of client updates, but int8\+zstd is lossy",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            compression_of(Settings.read(wrong))


def test_an_objective_that_sends_no_model_cannot_be_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from fedquit.client.objectives import OBJECTIVES

    cls = OBJECTIVES["fedavg"]
    for way in ("up", "down"):
        told = {"up": "model", way: "prototypes"}
        monkeypatch.setattr(cls, "traits", replace(cls.traits, up=told["up"], down=told.get("down", "model")))
        with pytest.raises(InputError, match=f"compress-{way}: objective 'fedavg' .* prototypes"):
            compression_of(Settings.read({f"compress-{way}": "fp16"}))


@pytest.mark.parametrize("dp", ["client-fixed", "client-adaptive"])
def test_clipping_precedes_compression(dp: str) -> None:
    plain = model_in(ask(START, clipping_norm=0.01, dp=dp))
    coded = chain_of("zstd").encode(START).arrays
    packed = model_in(ask(coded, clipping_norm=0.01, dp=dp, compress_up="zstd", compress_down="zstd"))
    got = chain_of("zstd").decode(packed, {name: slot_of(array) for name, array in START.items()})
    assert {name: array.tobytes() for name, array in got.items()} == {n: a.tobytes() for n, a in plain.items()}
    moved = np.sqrt(sum(np.square(got[name] - START[name], dtype=np.float64).sum() for name in got))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_tensors_of_the_received_model_are_the_devices_own() -> None:
    coded = chain_of("zstd").encode(START)
    before = {name: array.tobytes() for name, array in coded.arrays.items()}
    ask(coded.arrays, compress_down="zstd")
    assert {name: array.tobytes() for name, array in coded.arrays.items()} == before
    assert torch.equal(torch.from_numpy(START["1.bias"]), torch.from_numpy(coded.received["1.bias"]))
