"""Data: what is on disk is what is loaded, and what cannot be loaded is told in one line."""

import gzip
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fedquit.client.datasets import DATASETS, Dataset, idx, load_dataset
from fedquit.client.datasets.arrays import as_inputs
from fedquit.client.datasets.idx import FILES, read_idx
from fedquit.errors import InputError
from fedquit.unlearning.samples import Samples

Array = NDArray[Any]


def refusal(load: Callable[[], object]) -> str:
    """Return the one line with which `load` refuses."""
    with pytest.raises(InputError) as caught:
        load()
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    return str(caught.value)


def images(count: int, *shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


# the embedded digits


def test_digits_are_the_real_ones_in_bytes() -> None:
    data = load_dataset("digits")
    assert data.input_shape == (1, 8, 8)
    assert data.num_classes == 10
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.train.inputs.dtype == torch.uint8
    assert (int(data.train.inputs.min()), int(data.train.inputs.max())) == (0, 255)
    assert data.train.labels.dtype == torch.int64
    assert dict(data.columns) == {}


def test_every_class_of_digits_is_in_both_parts_in_proportion() -> None:
    data = load_dataset("digits")
    share = torch.bincount(data.test.labels) / (torch.bincount(data.train.labels) + torch.bincount(data.test.labels))
    assert ((share > 0.19) & (share < 0.21)).all()


def test_the_test_part_does_not_depend_on_any_seed() -> None:
    first = load_dataset("digits")
    np.random.seed(7)  # noqa: NPY002 - the global generators must not matter
    torch.manual_seed(7)
    again = DATASETS["digits"](Path(), False)
    assert torch.equal(first.test.inputs, again.test.inputs)


def test_one_process_decodes_once() -> None:
    assert load_dataset("digits") is load_dataset("digits")


def test_images_take_the_size_asked_for() -> None:
    data = load_dataset("digits", image_size=16)
    assert data.input_shape == (1, 16, 16)
    assert data.train.inputs.dtype == torch.uint8
    assert abs(data.train.inputs.float().mean() - load_dataset("digits").train.inputs.float().mean()) < 3


def test_an_image_size_below_one_is_refused() -> None:
    assert refusal(lambda: load_dataset("digits", image_size=0)) == "--image-size must be at least 1, not 0"


# idx files


def idx_bytes(values: Array) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(folder: Path, pack: bool, count: int = 6) -> list[Array]:
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(count, dtype=np.uint8) % 3
    arrays = [images(count, 28, 28), labels, images(count, 28, 28, seed=1), labels]
    for name, values in zip(FILES, arrays, strict=True):
        content = idx_bytes(values)
        (folder / (name + ".gz" * pack)).write_bytes(gzip.compress(content) if pack else content)
    return arrays


@pytest.fixture
def no_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(idx, "DEBIAN", tmp_path / "no" / "debian")


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "."),
        ("mnist", "MNIST/raw"),
        ("mnist", "mnist"),
    ],
)
def test_idx_files_are_found_in_every_layout(name: str, place: str, pack: bool, tmp_path: Path) -> None:
    arrays = write_idx(tmp_path / place, pack)
    data = load_dataset(name, data_root=tmp_path)
    assert (data.input_shape, data.num_classes) == ((1, 28, 28), 10)
    assert np.array_equal(data.train.inputs[:, 0].numpy(), arrays[0])
    assert np.array_equal(data.test.inputs[:, 0].numpy(), arrays[2])
    assert data.train.labels.tolist() == arrays[1].tolist()


def test_debians_folder_serves_where_the_root_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "debian", pack=True)
    monkeypatch.setattr(idx, "DEBIAN", tmp_path / "debian")
    assert len(load_dataset("fashion-mnist", data_root=tmp_path / "empty").train) == 6


def test_the_data_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "mnist", pack=True)
    monkeypatch.setenv("FEDQUIT_DATA", str(tmp_path))
    assert len(load_dataset("mnist").train) == 6


@pytest.mark.usefixtures("no_debian")
def test_missing_files_say_where_they_were_looked_for_and_the_ways_out(tmp_path: Path) -> None:
    text = refusal(lambda: load_dataset("fashion-mnist", data_root=tmp_path))
    assert str(tmp_path / "FashionMNIST" / "raw") in text
    assert "debian" in text
    assert text.endswith("; install Debian's dataset-fashion-mnist, give --data-root, or allow --download")
    assert refusal(lambda: load_dataset("mnist", data_root=tmp_path)).endswith(
        "; give --data-root, or allow --download"
    )


def test_nothing_is_downloaded_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "torchvision.datasets.MNIST.download", lambda self: write_idx(Path(self.raw_folder), pack=False)
    )
    refusal(lambda: load_dataset("mnist", data_root=tmp_path))
    assert not list(tmp_path.iterdir())
    assert len(load_dataset("mnist", data_root=tmp_path, download=True).train) == 6


def test_cifar_is_downloaded_by_torchvision_with_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(url: str, root: Path, *, filename: str, md5: str) -> None:
        print("what torchvision prints")
        asked.append((filename, md5))
        write_cifar(root / "cifar-100-python", "cifar100")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    assert len(load_dataset("cifar100", data_root=tmp_path, download=True).train) == 4
    assert asked == [("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")]


def test_a_failed_download_is_one_line_and_keeps_stdout_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(_: object) -> None:
        print("Downloading")
        raise RuntimeError("Error downloading:\nTried one mirror\nTried another")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", fetch)
    text = refusal(lambda: load_dataset("mnist", data_root=tmp_path, download=True))
    assert text.startswith("cannot download mnist (Error downloading: Tried one mirror")
    assert capsys.readouterr() == ("", "Downloading\n")


def damaged(content: bytes) -> dict[str, tuple[bytes, str]]:
    packed = gzip.compress(content)
    return {
        "truncated": (content[:-1], "declares 12 values [3, 2, 2] but holds fewer"),
        "too long": (content + b"x", "declares 12 values [3, 2, 2] but holds more"),
        "truncated gz": (packed[:-9], "cannot read"),
        "corrupt gz": (packed[:12] + b"\xff\xff" + packed[14:], "cannot read"),
        "wrong magic": (b"\0\0\x0d\x03" + content[4:], "is not an idx file of bytes (it begins with 00000d03)"),
        "no idx": (b"hello world", "is not an idx file of bytes"),
        "empty": (b"", "is not an idx file of bytes (it begins with nothing)"),
        "half a header": (content[:9], "ends within its header"),
    }


@pytest.mark.parametrize("kind", damaged(b""))
def test_a_damaged_idx_file_is_named(kind: str, tmp_path: Path) -> None:
    content, reason = damaged(idx_bytes(images(3, 2, 2)))[kind]
    file = tmp_path / "broken-idx3-ubyte"
    file.write_bytes(content)
    text = refusal(lambda: read_idx(file))
    assert str(file) in text
    assert reason in text


@pytest.mark.parametrize("pack", [False, True], ids=["plain", "gz"])
def test_a_header_that_lies_costs_no_memory(pack: bool, tmp_path: Path) -> None:
    content = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1_000_000_000, 28, 28) + b"few"
    file = tmp_path / "liar"
    file.write_bytes(gzip.compress(content) if pack else content)
    tracemalloc.start()
    text = refusal(lambda: read_idx(file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "declares 784000000000 values" in text
    assert peak < 5_000_000


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, pack=False)
    (tmp_path / FILES[1]).write_bytes(idx_bytes(np.zeros(5, np.uint8)))
    text = refusal(lambda: load_dataset("mnist", data_root=tmp_path))
    assert text == f"{tmp_path}: {FILES[0]} holds 6 samples but {FILES[1]} holds 5 labels"


# CIFAR


def python2_batch(data: Array, labels: list[int]) -> bytes:
    """Pickle a batch as the published files are: Python 2's strings (T) and NumPy's old names."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR"
    dtype += b"(K\x03" + text(b"|") + b"NNN" + 2 * number(-1) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
    array += b"(K\x01(" + b"".join(map(number, data.shape)) + b"t" + dtype + b"\x89" + text(data.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def write_cifar(folder: Path, name: str, protocol: int = 2, byte_keys: bool = False) -> list[Array]:
    files = {
        "cifar10": [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"],
        "cifar100": ["train", "test"],
    }[name]
    key = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    folder.mkdir(parents=True)
    arrays = []
    for seed, file in enumerate(files):
        data = images(4, 3072, seed=seed)
        batch: dict[Any, Any] = {"data": data, key: [0, 1, 2, 9], "filenames": ["a.png"] * 4}
        if byte_keys:
            batch = {text.encode(): value for text, value in batch.items()}
        (folder / file).write_bytes(pickle.dumps(batch, protocol))
        arrays.append(data)
    return arrays


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    ("name", "place", "classes"),
    [("cifar10", "cifar-10-batches-py", 10), ("cifar100", "cifar100/cifar-100-python", 100)],
)
def test_cifar_batches_are_read_in_order(name: str, place: str, classes: int, protocol: int, tmp_path: Path) -> None:
    arrays = write_cifar(tmp_path / place, name, protocol, byte_keys=protocol == 4)
    data = load_dataset(name, data_root=tmp_path)
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), classes)
    assert np.array_equal(data.train.inputs.flatten(1).numpy(), np.concatenate(arrays[:-1]))
    assert np.array_equal(data.test.inputs.flatten(1).numpy(), arrays[-1])
    assert data.test.labels.tolist() == [0, 1, 2, 9]


def test_batches_pickled_by_python_2_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    arrays = write_cifar(folder, "cifar10")
    (folder / "test_batch").write_bytes(python2_batch(arrays[-1], [3, 1, 2, 9]))
    data = load_dataset("cifar10", data_root=tmp_path)
    assert np.array_equal(data.test.inputs.flatten(1).numpy(), arrays[-1])
    assert data.test.labels.tolist() == [3, 1, 2, 9]


class Evil:
    """Unpickled the ordinary way, it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


class Bomb:
    """Unpickled the ordinary way, it would run a codec of its choice."""

    def __reduce__(self) -> tuple[Any, ...]:
        import _codecs

        return _codecs.encode, ("text", "rot13")


def test_a_pickle_that_asks_for_anything_but_arrays_never_runs(tmp_path: Path) -> None:
    folder, touched = tmp_path / "cifar-100-python", tmp_path / "touched"
    write_cifar(folder, "cifar100")
    (folder / "test").write_bytes(pickle.dumps({"data": Evil(touched), "fine_labels": [0]}))
    text = refusal(lambda: load_dataset("cifar100", data_root=tmp_path))
    assert text.startswith(f"{folder / 'test'} asks for pathlib")
    assert text.endswith("; only arrays are read from it")
    assert not touched.exists()
    (folder / "test").write_bytes(pickle.dumps(Bomb()))
    assert "asks for the encoding 'rot13'" in refusal(lambda: load_dataset("cifar100", data_root=tmp_path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot read"),
        (b"\x80\x04hello", "cannot read"),
        (pickle.dumps([1]), "a list instead of a dictionary"),
        (pickle.dumps({"fine_labels": [1]}), "no 'data'"),
        (pickle.dumps({"data": images(2, 3072)}), "no 'fine_labels'"),
        (pickle.dumps({"data": images(2, 3071), "fine_labels": [0, 1]}), "not bytes of shape [N, 3072]"),
        (pickle.dumps({"data": "x", "fine_labels": [0, 1]}), "not bytes of shape [N, 3072]"),
        (pickle.dumps({"data": images(2, 3072), "fine_labels": [0]}), "holds 2 samples but fine_labels holds 1"),
        (pickle.dumps({"data": images(2, 3072), "fine_labels": [0, 100]}), "label 100 is out of range"),
    ],
)
def test_a_damaged_cifar_file_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    write_cifar(folder, "cifar100")
    (folder / "train").write_bytes(content)
    text = refusal(lambda: load_dataset("cifar100", data_root=tmp_path))
    assert str(folder) in text
    assert reason in text


def test_missing_cifar_says_the_ways_out(tmp_path: Path) -> None:
    text = refusal(lambda: load_dataset("cifar10", data_root=tmp_path))
    assert str(tmp_path / "cifar-10-batches-py") in text
    assert text.endswith("; give --data-root, or allow --download")


# image folders


def write_image(path: Path, values: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_classes(root: Path, *shape: int, count: int = 5) -> None:
    for label, name in enumerate(("cat", "dog")):
        for number in range(count):
            write_image(root / name / f"{number}.png", images(1, *shape, seed=10 * label + number)[0])


def test_a_folder_of_class_folders_is_split_within_each_class(tmp_path: Path) -> None:
    write_classes(tmp_path, 6, 4, 3)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = load_dataset(str(tmp_path))
    assert (data.name, data.input_shape, data.num_classes) == (tmp_path.name, (3, 6, 4), 2)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.test.labels.tolist() == [0, 1]


def test_pixels_are_kept_exactly_and_grey_stays_grey(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6, 4)
    write_classes(tmp_path / "val", 6, 4, count=1)
    data = load_dataset(str(tmp_path))
    assert (data.input_shape, len(data.train), len(data.test)) == ((1, 6, 4), 10, 2)
    assert np.array_equal(data.train.inputs[5, 0].numpy(), images(1, 6, 4, seed=10)[0])


def test_one_colour_image_makes_all_of_them_rgb(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6, 4)
    write_classes(tmp_path / "test", 6, 4, 3)
    data = load_dataset(str(tmp_path))
    assert data.input_shape == (3, 6, 4)
    assert torch.equal(data.train.inputs[:, 0], data.train.inputs[:, 2])


def test_different_sizes_need_an_image_size(tmp_path: Path) -> None:
    write_classes(tmp_path, 6, 6)
    write_image(tmp_path / "dog" / "big.png", images(1, 9, 7)[0])
    text = refusal(lambda: load_dataset(str(tmp_path)))
    assert str(tmp_path / "cat" / "0.png") in text
    assert f"{tmp_path / 'dog' / 'big.png'} is 7x9; give --image-size" in text
    assert load_dataset(str(tmp_path), image_size=5).input_shape == (1, 5, 5)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", images(1, 6, 6)[0])
    text = refusal(lambda: load_dataset(str(tmp_path)))
    assert text == f"{tmp_path} has 0 class folders; put the images into one sub-folder per class"
    write_image(tmp_path / "cat" / "0.png", images(1, 6, 6)[0])
    assert "has 1 class folders" in refusal(lambda: load_dataset(str(tmp_path)))


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path, 6, 6)
    (tmp_path / "emu").mkdir()
    assert refusal(lambda: load_dataset(str(tmp_path))).startswith(f"{tmp_path / 'emu'} holds no images")


def test_a_class_seen_only_in_testing_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 6, 6)
    write_classes(tmp_path / "test", 6, 6)
    write_image(tmp_path / "test" / "emu" / "0.png", images(1, 6, 6)[0])
    assert "class 'emu' is not among the training classes" in refusal(lambda: load_dataset(str(tmp_path)))


@pytest.mark.parametrize("keep", [0, 60], ids=["empty", "truncated"])
def test_an_unreadable_image_is_named(keep: int, tmp_path: Path) -> None:
    write_classes(tmp_path, 16, 16)
    broken = tmp_path / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    assert refusal(lambda: load_dataset(str(tmp_path))).startswith(f"cannot read the image {broken} (")


def test_an_image_of_sixteen_bits_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    write_classes(tmp_path, 6, 6)
    write_image(tmp_path / "cat" / "deep.png", np.full((6, 6), 40_000, dtype=np.uint16))
    assert "deep.png has more than 8 bits" in refusal(lambda: load_dataset(str(tmp_path)))


# .npz


def write_npz(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def good(**changed: Any) -> dict[str, Any]:
    made = {"x_train": images(6, 4, 4), "y_train": [0, 1] * 3, "x_test": images(2, 4, 4), "y_test": [0, 1]}
    return {key: value for key, value in (made | changed).items() if value is not None}


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((5, 4), (1, 5, 4)),
        ((3, 5, 4), (3, 5, 4)),
        ((5, 4, 3), (3, 5, 4)),
        ((1, 5, 4), (1, 5, 4)),
        ((5, 4, 1), (1, 5, 4)),
        ((3, 5, 3), (3, 5, 3)),
        ((7,), (1, 1, 7)),
    ],
)
def test_arrays_are_read_in_every_axis_order(
    shape: tuple[int, ...], seen: tuple[int, int, int], tmp_path: Path
) -> None:
    x = images(10, *shape)
    data = load_dataset(write_npz(tmp_path / "made.npz", x_train=x, y_train=[0, 1] * 5, x_test=x, y_test=[0, 1] * 5))
    assert (data.name, data.input_shape) == ("made", seen)
    expected = np.moveaxis(x, -1, 1) if shape in {(5, 4, 3), (5, 4, 1)} else x
    assert np.array_equal(data.train.inputs.numpy().ravel(), expected.ravel())


def test_floating_point_inputs_stay_as_they_are(tmp_path: Path) -> None:
    x = np.linspace(-3, 3, 60).reshape(10, 6)
    data = load_dataset(write_npz(tmp_path / "made.npz", x=x, y=np.arange(10) % 2))
    assert data.train.inputs.dtype == torch.float32
    seen = torch.cat([data.train.inputs, data.test.inputs]).flatten().sort().values
    assert torch.allclose(seen, torch.tensor(x.ravel(), dtype=torch.float32))


def test_further_arrays_become_columns_of_the_training_part(tmp_path: Path) -> None:
    arrays = {"x": np.arange(20.0).reshape(20, 1), "y": np.arange(20) % 2, "writer": np.arange(20), "size": [1, 2]}
    data = load_dataset(write_npz(tmp_path / "made.npz", **arrays))
    assert list(data.columns) == ["writer"]
    assert data.columns["writer"].tolist() == data.train.inputs.flatten().tolist()
    split = load_dataset(write_npz(tmp_path / "split.npz", **good(writer=list("aabbcc"))))
    assert split.columns["writer"].tolist() == list("aabbcc")


def test_class_numbers_may_have_gaps(tmp_path: Path) -> None:
    assert load_dataset(write_npz(tmp_path / "made.npz", **good(y_train=[0, 5] * 3, y_test=[0, 7]))).num_classes == 8


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"y_train": None}, "no 'y_train' (it holds x_train, x_test, y_test)"),
        ({"x_train": None, "y_train": None}, "no 'x' (it holds x_test, y_test)"),
        ({"x_train": images(0, 4, 4), "y_train": []}, "x_train is empty"),
        ({"y_train": [0, 1]}, "x_train holds 6 samples but y_train holds 2 labels"),
        ({"y_train": [0.5, 1] * 3}, "y_train has type float64; labels are whole numbers"),
        ({"y_train": [0, -1] * 3}, "y_train holds label -1"),
        ({"y_train": [0, 10**9] * 3}, "y_train holds label 1000000000"),
        ({"y_train": np.ones((6, 1), int)}, "y_train has shape (6, 1)"),
        ({"y_train": [1] * 6}, "every training label is 1; at least two classes"),
        ({"y_test": ["a", "b"]}, "y_test has type <U1"),
        ({"y_test": 3}, "'y_test' is a single value"),
        ({"x_train": images(6, 4, 4).astype(int)}, "x_train has type int64; give uint8"),
        ({"x_train": images(6, 2, 4, 4)}, "x_train has shape (6, 2, 4, 4); inputs are [N, F]"),
        (
            {"x_test": images(2, 5, 4)},
            "training inputs are torch.uint8 (1, 4, 4) but test inputs are torch.uint8 (1, 5, 4)",
        ),
        ({"x_test": np.ones((2, 4, 4))}, "test inputs are torch.float32"),
        ({"x_test": np.full((2, 4, 4), np.nan)}, "x_test holds NaN"),
        ({"x_test": np.full((2, 4, 4), 1e300)}, "too large for float32"),
        ({"x_test": np.array([{}, 1])}, "cannot read 'x_test' (Object arrays cannot be loaded"),
    ],
)
def test_every_mistake_in_an_npz_names_the_file_and_the_key(
    changed: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    text = refusal(lambda: load_dataset(write_npz(tmp_path / "made.npz", **good(**changed))))
    assert text.startswith(str(tmp_path / "made.npz"))
    assert reason in text


def test_a_damaged_npz_is_named_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = Path(write_npz(tmp_path / "whole.npz", **good())).read_bytes()
    for keep in range(0, len(whole), 97):
        file = tmp_path / f"{keep}.npz"
        file.write_bytes(whole[:keep])
        assert str(file) in refusal(lambda file=file: load_dataset(str(file)))  # type: ignore[misc]


def test_a_flipped_bit_in_an_npz_is_told(tmp_path: Path) -> None:
    file = Path(write_npz(tmp_path / "made.npz", **good()))
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    assert refusal(lambda: load_dataset(str(file))).startswith(f"{file}: cannot read 'x_train' (")


def test_a_pickle_or_a_single_array_named_npz_is_refused(tmp_path: Path) -> None:
    file, touched = tmp_path / "made.npz", tmp_path / "touched"
    file.write_bytes(pickle.dumps(Evil(touched)))
    assert str(file) in refusal(lambda: load_dataset(str(file)))
    assert not touched.exists()
    single = tmp_path / "single.npz"
    with single.open("wb") as stream:
        np.save(stream, images(2, 2))
    assert "holds a single array" in refusal(lambda: load_dataset(str(single)))


def test_classes_of_one_sample_cannot_be_split(tmp_path: Path) -> None:
    text = refusal(lambda: load_dataset(write_npz(tmp_path / "made.npz", x=images(3, 4, 4), y=[0, 1, 2])))
    assert "no class has the two samples" in text


def test_rows_of_numbers_have_no_image_size(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "made.npz", x=images(10, 7), y=[0, 1] * 5)
    assert "made has no images" in refusal(lambda: load_dataset(file, image_size=8))


def test_read_only_arrays_are_copied() -> None:
    array = np.zeros((2, 3, 3), np.uint8)
    array.flags.writeable = False
    as_inputs(array, "made")[0] = 1
    assert array.sum() == 0


# factories

FACTORIES = """
import numpy as np, torch
from fedquit.client.datasets import Dataset
from fedquit.unlearning.samples import Samples
x, y = np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]
def arrays(): return x, y, torch.zeros(4, 8, 8, dtype=torch.uint8), y
def whole():
    samples = Samples(torch.zeros(4, 1, 8, 8), torch.tensor(y))
    return Dataset("mine", samples, samples, 2)
def broken(): raise KeyError("oops")
def three(): return x, y, x
def nothing(): return None
def ragged(): return [[1], [1, 2]], y, x, y
def short(): return x, y[:3], x, y
number = 3
"""


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module `made_here` into the current folder."""
    (tmp_path / "made_here.py").write_text(FACTORIES)
    (tmp_path / "broken_here.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "made_here", raising=False)


@pytest.mark.usefixtures("beside")
def test_a_factory_gives_arrays_or_a_dataset() -> None:
    data = load_dataset("made_here:arrays")
    assert (data.name, data.input_shape, data.num_classes, len(data.test)) == ("made_here:arrays", (1, 8, 8), 2, 4)
    assert load_dataset("made_here:whole").name == "mine"


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("not_there:load", "cannot import 'not_there' of 'not_there:load' (ModuleNotFoundError"),
        ("broken_here:load", "cannot import 'broken_here' of 'broken_here:load' (ZeroDivisionError"),
        ("made_here:absent", "'made_here:absent': module 'made_here' has no 'absent'"),
        ("made_here:number", "module 'made_here' has no callable 'number'"),
        ("made_here:broken", "dataset factory 'made_here:broken' failed (KeyError: 'oops')"),
        ("made_here:three", "gave a tuple of 3; give a Dataset or (x_train, y_train, x_test, y_test)"),
        ("made_here:nothing", "gave a NoneType"),
        ("made_here:ragged", "'made_here:ragged': x_train is not an array"),
        ("made_here:short", "'made_here:short': x_train holds 4 samples but y_train holds 3 labels"),
    ],
)
def test_every_mistake_in_a_factory_names_it(spec: str, reason: str) -> None:
    assert reason in refusal(lambda: load_dataset(spec))


# anything else


def test_an_unknown_name_lists_the_known_ones_and_the_other_forms() -> None:
    text = refusal(lambda: load_dataset("digit"))
    assert text.startswith(
        "unknown dataset 'digit' (did you mean 'digits'?); known: digits, fashion-mnist, mnist, cifar10"
    )
    assert text.endswith("cifar100, the path of an image folder or .npz file, or package.module:factory")


def test_paths_that_lead_nowhere_are_told_as_paths(tmp_path: Path) -> None:
    assert refusal(lambda: load_dataset(str(tmp_path / "no"))) == f"no such folder: {tmp_path / 'no'}"
    assert refusal(lambda: load_dataset(str(tmp_path / "no.npz"))) == f"no such file: {tmp_path / 'no.npz'}"
    (tmp_path / "data.csv").write_text("1,2")
    assert "neither a folder of images nor a .npz file" in refusal(lambda: load_dataset(str(tmp_path / "data.csv")))


def test_a_relative_path_is_meant_from_where_the_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, count in (("one", 10), ("two", 20)):
        (tmp_path / folder).mkdir()
        write_npz(tmp_path / folder / "made.npz", x=images(count, 4, 4), y=[0, 1] * (count // 2))
    sizes = []
    for folder in ("one", "two"):
        monkeypatch.chdir(tmp_path / folder)
        sizes.append(len(load_dataset("made.npz").train))
    assert sizes == [8, 16]


def test_a_dataset_tells_its_input_shape() -> None:
    samples = Samples(torch.zeros(2, 3, 5, 7), torch.tensor([0, 1]))
    assert Dataset("made", samples, samples, 2).input_shape == (3, 5, 7)
