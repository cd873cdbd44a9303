"""A sample is the same sample in whatever form it is stored: what was retired in one form trains in none."""

import io
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from fedquit.client.data.build_data_and_model import Form
from fedquit.client.device.local_data.gather import gather, open_data
from fedquit.client.device.local_data.image_source import image_item
from fedquit.client.device.local_data.npz_source import rows
from fedquit.client.device.local_data.sample_content import Content
from fedquit.client.device.record import Mark, Record
from fedquit.client.models.architectures import InputShape

Picture = NDArray[np.uint8]
Values = NDArray[Any]
BEFORE = Path(__file__).parent / "fixtures" / "record_before_contents.sql"

SCALED: dict[str, Callable[[Picture], Values]] = {
    "levels": lambda x: x,
    "levels as float64": lambda x: x.astype(np.float64),
    "levels as float16": lambda x: x.astype(np.float16),
    "levels as float32": lambda x: x.astype(np.float32),
    "big-endian": lambda x: x.astype(">f4"),
    "0..1": lambda x: x.astype(np.float32) / 255,
    "0..1, times a fraction": lambda x: x.astype(np.float32) * np.float32(1 / 255),
    "0..1 in float64": lambda x: x / 255,
    "0..1 in float16": lambda x: (x / 255).astype(np.float16),
    "-1..1": lambda x: x.astype(np.float32) / np.float32(127.5) - 1,
    "-1..1 in float64": lambda x: x / 127.5 - 1,
    "-1..1 as torchvision": lambda x: (x.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.5),
    "-1..1 in float16": lambda x: (x / 127.5 - 1).astype(np.float16),
}
SHAPED: dict[str, Callable[[Values], Values]] = {
    "channels first": lambda x: x,
    "channels last": lambda x: x.transpose(1, 2, 0),
    "row": lambda x: x.reshape(-1),
    "square": lambda x: x[0] if len(x) == 1 else x,
}
ENCODED = ("png", "bmp", "tiff", "webp")


def of_array(stored: Values, shape: InputShape) -> Content:
    (item,) = rows(np.ascontiguousarray(stored)[None], np.array([1]), 0, "x")
    return item.open(shape)[0]


def encoded(picture: Picture, kind: str, mode: str = "") -> bytes:
    image = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0))
    file = io.BytesIO()
    options = {"lossless": True, "exact": True} if kind == "webp" else {}
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def of_image(content: bytes, shape: InputShape) -> Content:
    return image_item("a.png", "1", content, "a.png").open(shape)[0]


def every_form(picture: Picture) -> dict[str, Content]:
    shape = (len(picture), *picture.shape[1:])
    found = {
        f"{scale}, {layout}": of_array(arrange(convert(picture)), shape)
        for scale, convert in SCALED.items()
        for layout, arrange in SHAPED.items()
    }
    found |= {kind: of_image(encoded(picture, kind), shape) for kind in ENCODED}
    if len(picture) == 1:
        three = np.repeat(picture, 3, axis=0)
        found |= {f"as RGB, {layout}": of_array(SHAPED[layout](three), (3, *shape[1:])) for layout in SHAPED}
        found |= {
            "png as RGB": of_image(encoded(picture, "png", "RGB"), shape),
            "0..1 as RGB": of_array(three / 255, (3, *shape[1:])),
        }
    return found


LEVELS = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 254, 255]))


def pictures() -> st.SearchStrategy[Picture]:
    side = st.sampled_from([2, 4, 5])
    shape = st.tuples(st.sampled_from([1, 3]), side, side)
    return shape.flatmap(lambda it: arrays(np.uint8, it, elements=LEVELS))


@settings(max_examples=40)
@given(pictures())
def test_a_lossless_change_of_form_makes_no_other_sample(picture: Picture) -> None:
    forms = every_form(picture)
    for one, first in forms.items():
        for other, second in forms.items():
            assert first.digests & second.digests, f"{one} and {other} of {picture.tolist()}"


@settings(max_examples=40)
@given(pictures())
def test_it_is_known_again_from_a_mark_made_before_the_models_shape_was_known(picture: Picture) -> None:
    shape = (len(picture), *picture.shape[1:])
    (item,) = rows(picture.reshape(1, -1), np.array([1]), 0, "x")
    assert item.open(None)[0].digests & of_image(encoded(picture, "png"), shape).digests


@settings(max_examples=200)
@given(st.data(), st.sampled_from([*SCALED]))
def test_different_pictures_stay_different(data: st.DataObject, scale: str) -> None:
    one = data.draw(pictures())
    other = data.draw(arrays(np.uint8, one.shape, elements=LEVELS))
    assume(not np.array_equal(one, other))
    first, second = (of_array(SCALED[scale](each), one.shape).digests for each in (one, other))
    assume(len(first) == len(second) == 1)  # 0s and 1s are a picture on two scales
    assert not first & second


def test_a_picture_that_differs_in_one_level_by_one_is_another() -> None:
    picture = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    for place in np.ndindex(picture.shape):
        other = picture.copy()
        other[place] += 1
        for name, content in every_form(other).items():
            assert not content.digests & of_array(picture, (1, 4, 4)).digests, name


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100)
@given(arrays(np.float32, 3, elements=FLOATS))
def test_a_row_is_its_numbers_whatever_their_type(row: Values) -> None:
    first = of_array(row, (1, 1, 3)).digests
    assert first & of_array(row.astype(np.float64), (1, 1, 3)).digests
    assert first & of_array(np.where(row == 0, -row, row), (1, 1, 3)).digests  # 0 is -0
    assert first & of_array(row[None], (1, 1, 3)).digests


@settings(max_examples=100)
@given(arrays(np.uint8, 3))
def test_a_row_of_bytes_is_its_numbers_and_what_training_sees(row: Picture) -> None:
    first = of_array(row, (1, 1, 3)).digests
    assert first & of_array(row.astype(np.float32), (1, 1, 3)).digests
    assert first & of_array(row.astype(np.float32) / np.float32(127.5) - 1, (1, 1, 3)).digests


SMALL = st.sampled_from([-1.0, 0.0, 1.0, 255.0, float(np.float32(1e-7)), 0.5])


@settings(max_examples=200)
@given(*[arrays(np.float32, 3, elements=st.one_of(FLOATS, SMALL))] * 2)
def test_different_rows_stay_different(one: Values, other: Values) -> None:
    assume(not np.array_equal(one, other))
    assert not of_array(one, (1, 1, 3)).digests & of_array(other, (1, 1, 3)).digests


@settings(max_examples=200)
@given(*[arrays(np.uint8, 2)] * 2)
def test_different_rows_of_bytes_stay_different(one: Picture, other: Picture) -> None:
    assume(not np.array_equal(one, other))
    assert not of_array(one, (1, 1, 2)).digests & of_array(other, (1, 1, 2)).digests


@settings(max_examples=100)
@given(*[arrays(np.float32, (1, 2, 2), elements=st.floats(256, width=32, allow_infinity=False))] * 2)
def test_pictures_on_no_scale_are_their_values(one: Values, other: Values) -> None:
    first, second = of_array(one, (1, 2, 2)).digests, of_array(other, (1, 2, 2)).digests
    assert first & of_array(one.reshape(-1).astype(np.float64), (1, 2, 2)).digests
    assert bool(first & second) == np.array_equal(one, other)


@pytest.mark.parametrize("change", ["jpeg", "smaller", "cropped", "turned"])
def test_what_the_document_calls_another_sample_is_one(change: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    image: Image.Image = Image.fromarray(picture.transpose(1, 2, 0))
    changed: dict[str, Image.Image] = {
        "jpeg": Image.open(io.BytesIO(encoded(picture, "jpeg"))),
        "smaller": image.resize((8, 8)),
        "cropped": image.crop((0, 0, 15, 16)),
        "turned": image.rotate(90),
    }
    file = io.BytesIO()
    changed[change].save(file, "png")
    shape = (3, 16, 16)
    assert not of_image(file.getvalue(), shape).digests & of_array(picture, shape).digests


# A record that was written before contents were noted


def of_before(number: int, channels: int = 1) -> Picture:
    """Return the picture that the record of the fixture has under this number."""
    return ((np.arange(16 * channels).reshape(channels, 4, 4) * 7 + number * 31 + 3) % 256).astype(np.uint8)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    with sqlite3.connect(tmp_path / "record.db") as database:
        database.executescript(BEFORE.read_text(encoding="utf-8"))
    database.close()
    return Record(tmp_path / "record.db")


STORED_AS = {0: "uint8 [4, 4]", 1: "float32 0..1", 2: "float64 levels in a row", 3: "png", 4: "png in colour"}


@pytest.mark.parametrize("number", STORED_AS)
def test_a_record_of_before_keeps_what_it_retired_from_training_in_every_form(record: Record, number: int) -> None:
    keep, channels = record.keeps(), 3 if number == 4 else 1
    for name, content in every_form(of_before(number, channels)).items():
        assert not keep(b"\0" * 32, content, "2"), f"{STORED_AS[number]} trains again as {name}"
    for name, content in every_form(of_before(number + 20, channels)).items():
        assert keep(b"\0" * 32, content, "2"), f"another picture does not train as {name}"


def test_so_it_does_with_a_sample_that_was_not_there_and_is_an_array(record: Record) -> None:
    for scale, convert in SCALED.items():
        for arrange in SHAPED.values():
            assert not record.keeps()(b"\0" * 32, of_array(arrange(convert(of_before(5))), (1, 4, 4)), "2"), scale


def test_so_it_does_with_values_on_no_scale(record: Record) -> None:
    values = of_before(6).astype(np.float32) / 7 - 3
    for arrange in SHAPED.values():
        for kind in (np.float32, np.float64):
            assert not record.keeps()(b"\0" * 32, of_array(arrange(values).astype(kind), (1, 4, 4)), "0")


def test_a_record_of_before_is_read_by_its_digests_too(record: Record, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=of_before(0), y=[0])
    assert not len(gather(tmp_path / "own.npz", Form((1, 4, 4), 3), record.keeps()))
    assert len(record.retired()) == 7


def test_what_is_retired_now_is_known_without_a_search_through_former_forms(tmp_path: Path) -> None:
    record, content = Record(tmp_path / "record.db"), of_array(of_before(0), (1, 4, 4))
    record.retire(Mark("5ba1", "sample", digests=(b"a" * 32,)), [(b"a" * 32, content.digests)])

    class Asked:
        digests = of_array(of_before(9), (1, 4, 4)).digests

        def former(self, label: str) -> frozenset[bytes]:
            raise AssertionError(label)

    assert record.keeps()(b"b" * 32, Asked(), "0")


# Files


def test_files_of_every_kind_hold_the_same_samples(tmp_path: Path) -> None:
    pictures = np.stack([of_before(number) for number in range(3)])
    labels = [0, 1, 2]
    np.savez(tmp_path / "square.npz", x=pictures[:, 0], y=labels)
    np.savez(tmp_path / "row.npz", x=(pictures / 255).reshape(3, -1), y=np.array(labels, dtype=np.uint8))
    nested = pa.array(pictures[:, 0].astype(np.float32).tolist(), pa.list_(pa.list_(pa.float32())))
    pq.write_table(pa.table({"x": nested, "y": ["0", "1", "2"]}), tmp_path / "nested.parquet")
    files = [encoded(picture, "png") for picture in pictures]
    pq.write_table(pa.table({"image": files, "label": labels}), tmp_path / "encoded.parquet")
    for label, content in zip(labels, files, strict=True):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        (tmp_path / "images" / str(label) / "a.png").write_bytes(content)
    found = [
        gather(tmp_path / name, Form((1, 4, 4), 3), lambda *_: True).contents
        for name in ("square.npz", "row.npz", "nested.parquet", "encoded.parquet", "images")
    ]
    for contents in found[1:]:
        assert all(one & other for one, other in zip(found[0], contents, strict=True))
    assert len(list(open_data(tmp_path / "images"))) == 3
