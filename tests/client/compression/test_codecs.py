"""Codecs: what comes out is what went in, nearly; and what a stranger sends is one error, before it costs anything."""

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedquit.client.compression.codecs import CODECS, FP16, SVD, Chain, Int8, Slot, TopK, Zstd, chain_of, slot_of
from fedquit.client.compression.codecs.npy_reader import Parcel
from fedquit.errors import InputError

Model = dict[str, NDArray[Any]]
CHAINS = ("fp16", "int8", "zstd", "top-k", "svd", "top-k+fp16+zstd", "top-k+int8", "svd+int8+zstd", "fp16+zstd")
MEBIBYTE = 2**20


def model_of(seed: int, scale: float = 1.0, dtype: str = "float32") -> Model:
    """Return a small model with everything that models have: a kernel, a low-rank matrix, vectors and a counter."""
    draw = np.random.default_rng(seed)
    model = {
        "conv": draw.normal(size=(4, 3, 2, 2)),
        "linear": np.outer(draw.normal(size=12), draw.normal(size=20)),
        "bias": draw.normal(size=12),
        "variance": draw.uniform(size=4) * 1e-6,
        "empty": np.zeros((0, 3)),
    }
    return {name: (scale * array).astype(dtype) for name, array in model.items()} | {"counter": np.array(7)}


START = model_of(0)
SLOTS = {name: slot_of(array) for name, array in START.items()}
LOSSY = {"conv", "linear"}


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def sent(chain: Chain, model: Model | None = None) -> dict[str, bytes]:
    return {name: npy(array) for name, array in chain.encode(model or model_of(1), START).arrays.items()}


def refusal(chain: Chain, given_: dict[str, bytes]) -> str:
    with pytest.raises(InputError) as caught:
        chain.decode(given_, SLOTS, START)
    return str(caught.value)


def assert_same(one: Model, other: Model) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert slot_of(one[name]) == slot_of(other[name])
        assert one[name].tobytes() == other[name].tobytes()


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("with_reference", [True, False])
def test_the_receiver_decodes_what_the_sender_reports(text: str, dtype: str, with_reference: bool) -> None:
    chain, model = chain_of(text, {"share": 0.2}), model_of(1, dtype=dtype)
    reference = model_of(0, dtype=dtype) if with_reference else None
    coded = chain.encode(model, reference)
    got = chain.decode(
        {name: npy(array) for name, array in coded.arrays.items()},
        {name: slot_of(array) for name, array in model.items()},
        reference,
    )
    assert_same(got, coded.received)
    unharmed = model.keys() if chain.exact else model.keys() - LOSSY
    assert_same({name: got[name] for name in unharmed}, {name: model[name] for name in unharmed})
    assert (coded.error > 0) == (not chain.exact and (text[:4], dtype) != ("fp16", "float16"))


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.floats(-6, 3))
def test_each_codec_stays_within_its_stated_error(seed: int, exponent: float) -> None:
    update = model_of(seed, 10**exponent)
    for text, most in (
        ("zstd", 0.0),
        ("svd", 0.05**0.5),
        ("int8", 12**0.5 / 2),
        ("fp16", 2.0**-11 + 3e-8 / 10**exponent),
    ):
        assert chain_of(text).encode(update).error <= most * 1.001, text
    steps = {name: np.abs(update[name].reshape(len(update[name]), -1)).max(axis=1) / 127 for name in LOSSY}
    coded = chain_of("int8").encode(update)
    for name in LOSSY:
        lost = np.abs(coded.owed[name].reshape(len(update[name]), -1))
        assert (lost <= steps[name][:, None] * 0.501).all(), "half a step of its channel"


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, -2.0, 3.5]), min_size=1, max_size=40), st.floats(0.01, 0.5))
def test_the_largest_entries_travel_and_of_equal_ones_the_first(values: list[float], share: float) -> None:
    array, codec = np.array(values), TopK(share=share)
    order = sorted(range(len(values)), key=lambda index: (-abs(values[index]), index))
    chosen = sorted(order[: codec.count(len(values))])
    coded = codec.encode("w", array)
    assert coded["w/indices"].tolist() == chosen
    got = codec.decode("w", slot_of(array), Parcel(coded).take)
    assert got.tolist() == [value if index in chosen else 0.0 for index, value in enumerate(values)]


def test_a_matrix_of_low_rank_travels_as_its_factors_and_another_whole() -> None:
    coded = SVD(energy=0.95).encode("w", START["linear"])
    assert (int(coded["w/rank"]), coded["w/left"].shape, coded["w/right"].shape) == (1, (1, 12), (1, 20))
    whole = SVD(energy=0.95).encode("w", np.eye(8))
    assert int(whole["w/rank"]) == 0
    assert whole["w"].shape == (8, 8)


def test_error_feedback_is_sent_eventually() -> None:
    chain, update, owed = chain_of("top-k+fp16", {"share": 0.1}), model_of(3), dict[str, NDArray[Any]]()
    rounds, total = 60, dict.fromkeys(LOSSY, np.zeros(()))
    for _ in range(rounds):
        coded = chain.encode(update, None, owed or None)
        owed = coded.owed
        total = {name: total[name] + coded.received[name] for name in LOSSY}
    for name in LOSSY:
        np.testing.assert_allclose(total[name] + owed[name], rounds * update[name], rtol=1e-3, atol=1e-3)
        gap = np.linalg.norm(total[name] / rounds - update[name]) / np.linalg.norm(update[name])
        assert gap < 0.2, "the mean of what came is near the update"


def test_fp16_saturates_out_of_range_values_and_the_error_shows_it() -> None:
    update = {"w": np.array([[1e6, 1.0]], np.float32)}
    coded = chain_of("fp16").encode(update)
    assert coded.received["w"].tolist() == [[65504.0, 1.0]]
    assert coded.error > 0.9


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_model_that_is_not_finite_is_named_before_it_travels(text: str, bad: float) -> None:
    for name in ("conv", "bias"):
        model = model_of(1)
        model[name].flat[1] = bad
        with pytest.raises(InputError, match=f"'{name}' holds NaN or infinity"):
            chain_of(text).encode(model, START)


@pytest.mark.parametrize("text", ["fp16", "int8", "top-k"])
def test_a_channel_of_tiny_values_is_compressed(text: str) -> None:
    for tiny in (0.0, 1e-45, 1e-40):
        update = {"w": np.array([[tiny, -tiny], [1.0, -1.0]], np.float32)}
        got = chain_of(text, {"share": 0.5}).encode(update).received["w"]
        np.testing.assert_allclose(got, update["w"], atol=1e-38)


TERABYTE = 2**40
ONE = [
    ("fp16", "conv", header((TERABYTE,), "<f2"), "not float16 (4, 3, 2, 2)"),
    ("fp16", "conv", header((-4, 3, 2, 2), "<f2"), "not float16 (4, 3, 2, 2)"),
    ("fp16", "conv", header((4, 3, 2, 2), "<f2"), "has 0 bytes, not 96"),
    ("fp16", "conv", npy(START["conv"]), "is float32"),
    ("fp16", "conv", npy(np.ones((4, 3, 2, 2), ">f2")), "is >f2"),
    ("fp16", "conv", b"", "cannot be read"),
    ("fp16", "conv", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "cannot be read"),
    ("fp16", "conv", npy(np.array(["a"], dtype=object)), "is object"),
    ("fp16", "counter", npy(np.array(7, np.int32)), "'counter' is int32"),
    ("int8", "conv/steps", npy(np.array([1, np.nan, 1, 1], np.float32)), "must be finite and non-negative"),
    ("int8", "conv/steps", npy(np.array([1, np.inf, 1, 1], np.float32)), "must be finite and non-negative"),
    ("int8", "conv/steps", npy(np.array([1, -1, 1, 1], np.float32)), "must be finite and non-negative"),
    ("int8", "conv/steps", npy(np.full(4, 3e38, np.float32)), "holds NaN or infinity"),
    ("int8", "conv/steps", npy(np.ones(1, np.float32)), "not float32 (4,)"),
    ("int8", "conv/levels", npy(np.ones((4, 12), np.int8)), "not int8 (4, 3, 2, 2)"),
    ("top-k", "linear/indices", npy(np.array([0, 240, 241], np.uint32)), "does not grow"),
    ("top-k", "linear/indices", npy(np.array([0, 2, 2], np.uint32)), "does not grow"),
    ("top-k", "linear/indices", npy(np.array([2, 1, 3], np.uint32)), "does not grow"),
    ("top-k", "linear/indices", npy(np.array([-1, 1, 3], np.int32)), "is int32"),
    ("top-k", "linear/indices", npy(np.arange(4, dtype=np.uint32)), "not uint32 (3,)"),
    ("top-k", "linear/values", npy(np.ones(4, np.float32)), "not float32 (3,)"),
    ("svd", "linear/rank", npy(np.array(-1, np.int32)), "no rank of factors"),
    ("svd", "linear/rank", npy(np.array(2**31 - 1, np.int32)), "no rank of factors"),
    ("svd", "linear/rank", npy(np.array(3, np.int32)), "not float32 (3, 12)"),
    ("svd", "linear/rank", npy(np.array(0, np.int32)), "'linear' is missing"),
    ("zstd", "conv", npy(np.frombuffer(b"no frame", np.uint8)), "'conv'"),
    ("zstd", "conv", npy(np.zeros((2, 2), np.uint8)), "of any length"),
    ("zstd", "conv", header((TERABYTE,), "|u1"), "has 0 bytes"),
    ("zstd", "conv", header((-1,), "|u1"), "of any length"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "bad", "why"), ONE, ids=lambda part: part if isinstance(part, str) else "")
def test_a_malicious_part_is_one_error_that_names_it(text: str, name: str, bad: bytes, why: str) -> None:
    chain = chain_of(text)
    told = refusal(chain, sent(chain) | {name: bad})
    assert why in told
    assert "\n" not in told


@pytest.mark.parametrize("text", CHAINS)
def test_what_is_missing_and_what_was_not_asked_for_is_named(text: str) -> None:
    chain = chain_of(text)
    parts = sent(chain)
    for name in parts:
        assert "is missing" in refusal(chain, {other: data for other, data in parts.items() if other != name})
    assert "unexpected: more" in refusal(chain, parts | {"more": npy(np.ones(1))})


def frame(plain: bytes, declared: int | None) -> bytes:
    """Return what zstd makes of bytes, its header saying that they are `declared` many (None: saying nothing)."""
    body = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(plain)
    assert body[4] & 0b11100000 == 0, "a window and no size"
    if declared is None:
        return body
    return body[:4] + bytes([body[4] | 0b11000000]) + body[5:6] + declared.to_bytes(8, "little") + body[6:]


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        (None, "does not say how many"),
        (TERABYTE, "1,099,511,627,776"),
        (64 * MEBIBYTE, "67,108,864"),
        (192, "cannot be inflated"),
    ],
    ids=["says nothing", "a terabyte", "the truth", "a lie"],
)
def test_a_bomb_is_refused_without_going_off(declared: int | None, why: str) -> None:
    bomb = frame(bytes(64 * MEBIBYTE), declared)
    assert len(bomb) < 10_000
    parts = sent(chain_of("zstd")) | {"conv": npy(np.frombuffer(bomb, np.uint8))}
    tracemalloc.start()
    assert why in refusal(chain_of("zstd"), parts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEBIBYTE


@pytest.mark.parametrize("text", CHAINS)
@settings(max_examples=60)
@given(st.data())
def test_mutated_parts_give_a_model_or_an_input_error_and_cost_little(text: str, data: st.DataObject) -> None:
    chain = chain_of(text, {"share": 0.2})
    parts = sent(chain)
    for _ in range(data.draw(st.integers(1, 3))):
        name, other = (data.draw(st.sampled_from(sorted(parts))) for _ in range(2))
        bad, place = bytearray(parts[name]), data.draw(st.integers(0, len(parts[name])))
        kind = data.draw(st.sampled_from(["flip", "cut", "add", "swap", "insert"]))
        if kind == "flip" and place < len(bad):
            bad[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del bad[place:]
        elif kind == "add":
            bad += data.draw(st.binary(max_size=64))
        elif kind == "insert":
            bad[place:place] = data.draw(st.binary(max_size=16))
        parts[name] = parts[other] if kind == "swap" else bytes(bad)
    tracemalloc.start()
    try:
        got = chain.decode(parts, SLOTS, START)
    except InputError:
        pass
    else:
        assert {name: slot_of(array) for name, array in got.items()} == SLOTS
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEBIBYTE


def test_decoding_takes_a_few_times_the_model_at_most() -> None:
    model = {"w": np.random.default_rng(0).normal(size=(1024, 512)).astype(np.float32)}
    slots = {"w": slot_of(model["w"])}
    for text in ("fp16", "int8", "zstd", "top-k", "top-k+fp16+zstd", "int8+zstd"):
        parts = {name: npy(array) for name, array in chain_of(text).encode(model).arrays.items()}
        tracemalloc.start()
        chain_of(text).decode(parts, slots)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 * model["w"].nbytes, text


def test_a_chain_is_named_in_the_order_in_which_arrays_pass_it() -> None:
    assert chain_of(" top-k + fp16+zstd").name == "top-k+fp16+zstd"
    assert chain_of("top-k+zstd", {"share": 0.5, "feedback": False, "level": 9}).codecs == (
        TopK(share=0.5, feedback=False),
        Zstd(level=9),
    )
    for text in ("fp16+top-k", "zstd+fp16", "top-k+svd", "fp16+int8", "zstd+zstd"):
        with pytest.raises(InputError, match="at most one of top-k, svd, then of fp16, int8, then zstd"):
            chain_of(text)
    with pytest.raises(InputError, match=r"unknown codec 'topk' \(did you mean 'top-k'\?\)"):
        chain_of("topk")
    with pytest.raises(InputError, match="unknown codec ''"):
        chain_of("fp16+")


@pytest.mark.parametrize(
    ("codec", "wrong"),
    [
        (TopK, {"share": 0.0}),
        (TopK, {"share": 0.6}),
        (TopK, {"share": "x"}),
        (TopK, {"feedback": 1}),
        (SVD, {"energy": 0.0}),
        (SVD, {"energy": 1.5}),
        (Zstd, {"level": 0}),
        (Zstd, {"level": 20}),
        (Zstd, {"level": 2.5}),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_named(codec: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is "):
        codec(**wrong)


def test_every_codec_is_described_and_all_are_there() -> None:
    assert set(CODECS.values()) == {TopK, SVD, FP16, Int8, Zstd}
    assert [name for name, cls in CODECS.items() if cls.traits.exact] == ["zstd"]
    assert [name for name, cls in CODECS.items() if cls.traits.for_updates] == ["top-k"]
    assert Slot("float32", (2, 3)).is_lossy
    assert not Slot("float32", (6,)).is_lossy
    assert not Slot("int64", (2, 3)).is_lossy
