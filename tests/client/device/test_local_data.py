"""A device's own data: every form gives the samples that are there now, and digests that anyone can recompute."""

import hashlib
import json
import re
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedquit.client.data.build_data_and_model import Form
from fedquit.client.device.local_data.gather import Gathered, count, find, gather, open_data
from fedquit.client.device.local_data.sample_digest import content_digest, sample_digest
from fedquit.client.device.local_data.samples_commitment import set_digest
from fedquit.errors import InputError

GREY = Form((1, 8, 8), 3)
NAMED = Form((1, 8, 8), 2, ("ill", "well"))

STRUCT = pa.struct([("bytes", pa.binary())])


def everything(path: Path, form: Form = GREY) -> Gathered:
    return gather(path, form, lambda *_: True)


def values(n: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def save_image(path: Path, seed: int, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values(1, *size, seed=seed)[0]).save(path)
    return path


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def save_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("ill/a.png", "ill/b.png", "well/a.png", "well/deep/c.png")):
        save_image(tmp_path / "images" / name, number)
    return tmp_path / "images"


def test_an_image_has_the_digest_that_its_owner_computes_from_the_file_alone(folder: Path) -> None:
    content = (folder / "ill" / "b.png").read_bytes()
    by_hand = hashlib.sha256(json.dumps(["file", [len(content)], "ill"]).encode() + b"\n" + content).digest()
    assert find(folder, ["ill/b.png"]) == {"ill/b.png": by_hand}
    assert by_hand in everything(folder, NAMED).digests


def test_a_row_has_the_digest_that_its_owner_computes_from_the_array_alone(tmp_path: Path) -> None:
    x = values(3, 8, 8).astype(">f4") / 255
    path = save_npz(tmp_path / "own.npz", x=x, y=[0, 2, 1])
    by_hand = hashlib.sha256(b'["float32", [8, 8], "2"]\n' + x[1].astype("<f4").tobytes()).digest()
    assert find(path, ["1"]) == {"1": by_hand}
    assert everything(path).digests[1] == by_hand


def test_an_image_stored_in_parquet_is_the_same_sample_as_its_file(folder: Path, tmp_path: Path) -> None:
    encoded = [(folder / name).read_bytes() for name in ("ill/a.png", "well/a.png")]
    bare = save_parquet(tmp_path / "bare.parquet", image=encoded, label=["ill", "well"])
    struct = [{"bytes": each, "path": "x.png"} for each in encoded]
    nested = save_parquet(tmp_path / "nested.parquet", image=struct, label=["ill", "well"])
    expected = list(find(folder, ["ill/a.png", "well/a.png"]).values())
    for path in (bare, nested):
        assert list(everything(path, NAMED).digests) == expected


def test_all_forms_give_the_same_tensors(tmp_path: Path) -> None:
    x, y = values(3, 8, 8), [2, 0, 1]
    flat, square = x.reshape(3, 64), x[:, None]
    for number, label in enumerate(y):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        Image.fromarray(x[number]).save(tmp_path / "images" / str(label) / "x.png")
    paths = [
        save_npz(tmp_path / "square.npz", x=square, y=y),
        save_npz(tmp_path / "flat.npz", x=flat, y=np.array(y, dtype=np.uint8)),
        save_parquet(tmp_path / "flat.parquet", x=pa.array(flat.tolist(), pa.list_(pa.uint8())), y=y),
        save_parquet(tmp_path / "nested.parquet", x=pa.array(x.tolist(), pa.list_(pa.list_(pa.uint8()))), y=y),
    ]
    for path in paths:
        made = everything(path).samples
        assert made.inputs.dtype == everything(paths[0]).samples.inputs.dtype
        assert made.inputs.numpy().tobytes() == square.tobytes()
        assert made.labels.tolist() == y
    images = everything(tmp_path / "images").samples
    assert images.labels.tolist() == [0, 1, 2]
    assert images.inputs.numpy().tobytes() == square[[1, 2, 0]].tobytes()


def test_images_are_given_the_channels_and_the_size_that_the_model_takes(folder: Path) -> None:
    save_image(folder / "ill" / "large.png", 9, (20, 31))
    assert everything(folder, Form((3, 16, 12), 2, ("ill", "well"))).samples.inputs.shape == (5, 3, 16, 12)


def test_what_is_added_or_removed_is_noticed_at_once(folder: Path) -> None:
    before = everything(folder, NAMED)
    save_image(folder / "well" / "new.png", 7)
    (folder / "ill" / "a.png").unlink()
    after = everything(folder, NAMED)
    assert len(after) == len(before) == 4
    assert before.digests[0] not in after.digests
    assert sum(digest not in before.digests for digest in after.digests) == 1


def test_a_file_that_goes_while_the_folder_is_read_is_left_out(folder: Path) -> None:
    source = iter(open_data(folder))
    assert next(source).name == "ill/a.png"
    (folder / "ill" / "b.png").unlink()
    assert [item.name for item in source] == ["well/a.png", "well/deep/c.png"]


def test_content_matches_an_image_stored_again_or_under_another_label(folder: Path) -> None:
    image = Image.open(folder / "ill" / "a.png")
    image.save(folder / "well" / "z.bmp")
    image.convert("RGB").save(folder / "well" / "zz.png", compress_level=1)
    made = everything(folder, NAMED)
    assert len(set(made.digests)) == 6
    assert [number for number, each in enumerate(made.contents) if each & made.contents[0]] == [0, 4, 5]


def test_what_is_not_kept_is_not_decoded(folder: Path) -> None:
    (folder / "well" / "broken.png").write_bytes(b"no image")
    broken = find(folder, ["broken.png"])["broken.png"]
    assert len(gather(folder, NAMED, lambda digest, _content, _label: digest != broken)) == 4


def test_a_name_alone_is_enough_where_there_is_one_such_file(folder: Path) -> None:
    assert find(folder, ["c.png"]) == {"c.png": find(folder, ["well/deep/c.png"])["well/deep/c.png"]}
    with pytest.raises(InputError, match=r"several a\.png: say ill/a\.png or well/a\.png"):
        find(folder, ["a.png"])
    with pytest.raises(InputError, match=r"no sample d\.png"):
        find(folder, ["d.png"])


def test_every_sample_is_read_and_counted_by_label(folder: Path) -> None:
    assert count(folder) == {"ill": 2, "well": 2}
    (folder / "ill" / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read the image .*broken\.png"):
        count(folder)


def broken_zip(path: Path) -> Path:
    save_npz(path, x=values(3, 8, 8), y=[0, 1, 2])
    path.write_bytes(path.read_bytes()[:200])
    return path


def lying(path: Path) -> Path:
    save_npz(path, y=[0] * 1000)
    with zipfile.ZipFile(path, "a") as archive, archive.open("x.npy", "w") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (1000, 1 << 30)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 100)
    return path


WRONG: dict[str, tuple[Any, str]] = {
    "nothing there": (lambda p: p / "none.npz", r"no such file: .*none\.npz"),
    "nowhere": (lambda p: p / "none", r"none is not there; the data is a folder with one"),
    "another kind": (lambda p: (p / "x.csv").touch() or p / "x.csv", "of no known form; the data is a folder"),
    "no classes": (lambda p: p, "no sub-folders; put the images into one sub-folder per class"),
    "no y": (lambda p: save_npz(p / "a.npz", x=values(1, 8, 8)), r"no 'y' \(it holds x\); give x, y"),
    "labels": (lambda p: save_npz(p / "a.npz", x=values(1, 8, 8), y=[0.5]), r"y is float64 \(1,\); labels are"),
    "lengths": (lambda p: save_npz(p / "a.npz", x=values(1, 8, 8), y=[0, 1]), "x holds 1 samples but y holds 2"),
    "shape": (lambda p: save_npz(p / "a.npz", x=values(1, 9, 9), y=[0]), "inputs of 1x9x9; .* model takes 1x8x8"),
    "class": (lambda p: save_npz(p / "a.npz", x=values(1, 8, 8), y=[3]), "sample 0 has label '3'; .* numbers 0 to 2"),
    "NaN": (lambda p: save_npz(p / "a.npz", x=np.full((1, 8, 8), np.nan), y=[0]), "x holds NaN"),
    "order": (lambda p: save_npz(p / "a.npz", x=np.asfortranarray(values(2, 8, 8)), y=[0, 1]), "ascontiguousarray"),
    "pickles": (lambda p: save_npz(p / "a.npz", x=np.array([{}, {}]), y=[0, 1]), r"x is object \(2,\), not one input"),
    "cut off": (lambda p: broken_zip(p / "a.npz"), r"cannot read .*a\.npz as \.npz"),
    "lies": (lambda p: lying(p / "a.npz"), r"declares \(1000, 1073741824\) of uint8 but holds 100 bytes"),
    "no parquet": (lambda p: (p / "a.parquet").write_bytes(b"PAR1") and p / "a.parquet", "as Parquet"),
    "columns": (lambda p: save_parquet(p / "a.parquet", z=[1], y=[1]), "no column of inputs: call it image"),
    "missing": (lambda p: save_parquet(p / "a.parquet", image=[b"", None], y=[1, 1]), "of rows 0 to 1 is missing"),
    "ragged": (lambda p: save_parquet(p / "a.parquet", x=[[1], [1, 2]], y=[1, 1]), "lists of numbers of one length"),
    "text": (lambda p: save_parquet(p / "a.parquet", x=["a"], y=[1]), "neither encoded images nor lists of numbers"),
    "no image": (lambda p: save_parquet(p / "a.parquet", image=[b"a"], y=[1]), "cannot read the image .*image: row 0"),
    "path only": (
        lambda p: save_parquet(p / "a.parquet", image=pa.array([{"bytes": None}], STRUCT), y=[1]),
        "row 0 has no bytes, only a path",
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", WRONG)
def test_what_cannot_be_read_is_named_in_one_line_with_the_way_out(make: str, tmp_path: Path) -> None:
    path, told = WRONG[make]
    with pytest.raises(InputError, match=told) as refused:
        everything(path(tmp_path))
    assert "\n" not in str(refused.value)


def test_a_class_that_the_federation_does_not_name_is_refused(folder: Path) -> None:
    save_image(folder / "cats" / "a.png", 1)
    with pytest.raises(
        InputError, match=r"sample cats/a\.png has label 'cats'; the federation's classes are ill, well"
    ):
        everything(folder, NAMED)


def test_reading_takes_the_memory_of_what_is_kept_and_little_more(tmp_path: Path) -> None:
    size = 20_000_000
    path = save_npz(tmp_path / "large.npz", x=np.zeros((size // 10_000, 100, 100), np.uint8), y=[0] * (size // 10_000))
    tracemalloc.start()
    try:
        for _ in open_data(path):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size / 3


def test_decoding_warns_of_nothing(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        everything(folder, NAMED)


def test_a_set_has_one_digest_whatever_the_order_and_the_repetitions() -> None:
    a, b = sample_digest(b"a", "1"), sample_digest(b"b", "1")
    assert set_digest([a, b, a]) == set_digest([b, a]) == hashlib.sha256(b"".join(sorted([a, b]))).hexdigest()


def test_type_shape_label_and_values_all_count() -> None:
    x = np.zeros((2, 2), np.uint8)
    others = [(x.reshape(4), "1"), (x.astype(np.int8), "1"), (x, "2"), (x + 1, "1"), (x.tobytes(), "1")]
    assert len({sample_digest(*other) for other in [(x, "1"), *others]}) == 6  # type: ignore[arg-type]
    assert content_digest(x) != content_digest(x.reshape(4))


def test_the_documents_tell_an_owner_how_to_compute_a_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "device.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    x, y = values(18, 8, 8), np.arange(18) % 3
    save_image(tmp_path / "ill" / "scan-17.png", 3)
    monkeypatch.chdir(tmp_path)
    exec(example, {"x": x, "y": y})
    path = save_npz(tmp_path / "own.npz", x=x, y=y)
    expected = [find(tmp_path, ["scan-17.png"])["scan-17.png"], find(path, ["17"])["17"]]
    assert capsys.readouterr().out.split() == [digest.hex() for digest in expected]
