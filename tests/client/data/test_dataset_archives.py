"""Archives of data sets: IDX files and CIFAR's batches, in every layout, damaged, lying or malicious."""

import gzip
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedquit.client.data.datasets import idx, load_dataset
from fedquit.client.data.datasets.idx import FILES, read_idx
from tests.client.data.test_datasets import Array, Evil, images, refusal

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
