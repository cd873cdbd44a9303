"""Data: what is on disk is what is loaded, and what cannot be loaded is told in one line."""

import pickle
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fedquit.client.data.datasets import DATASETS, Dataset, load_dataset, user_dataset
from fedquit.client.data.datasets.checked_arrays import as_inputs
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


class Evil:
    """Unpickled the ordinary way, it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


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


def test_a_flipped_bit_in_an_npz_is_reported(tmp_path: Path) -> None:
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
from fedquit.client.data.datasets import Dataset
from fedquit.unlearning.samples import Samples
x, y = np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]
def arrays(): return x, y, torch.zeros(4, 8, 8, dtype=torch.uint8), y
def whole():
    samples = Samples(torch.zeros(4, 1, 8, 8), torch.tensor(y))
    return Dataset("mine", samples, samples, 2)
def broken(): raise KeyError("oops")
def three(): return x, y, x
def part_of_another():
    from fedquit.client.data.datasets import load_dataset
    digits = load_dataset("digits")
    return Dataset("some digits", digits.train.subset(torch.arange(100)), digits.test, digits.num_classes)
def itself():
    from fedquit.client.data.datasets import load_dataset
    return load_dataset("made_here:itself")
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
def test_a_factory_may_load_another_data_set_by_name() -> None:
    made: list[Dataset] = []
    thread = threading.Thread(target=lambda: made.append(load_dataset("made_here:part_of_another")), daemon=True)
    thread.start()
    thread.join(timeout=60)  # behind a lock that its holder cannot take again, it would wait for itself for ever
    assert [len(dataset.train) for dataset in made] == [100]


@pytest.mark.usefixtures("beside")
def test_a_factory_that_loads_itself_is_named() -> None:
    assert "factory 'made_here:itself' failed (RecursionError" in refusal(lambda: load_dataset("made_here:itself"))


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
    assert text.startswith("unknown dataset 'digit' (did you mean 'digits'?); known: digits, digits-wrong-labels, ")
    assert text.endswith("cifar100, the path of an image folder or .npz file, or package.module:factory")


def test_missing_paths_are_named_in_the_error(tmp_path: Path) -> None:
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


def test_a_dataset_knows_its_input_shape() -> None:
    samples = Samples(torch.zeros(2, 3, 5, 7), torch.tensor([0, 1]))
    assert Dataset("made", samples, samples, 2).input_shape == (3, 5, 7)


def made_by_hand(name: str) -> Dataset:
    x, y = torch.rand(6, 12), torch.arange(6) % 3
    good, four = Samples(x, y), (x.reshape(6, 2, 2, 3), y)
    pixels = torch.full((6, 2, 2, 3), 255, dtype=torch.uint8)
    return {
        "rows": Dataset("mine", good, good, 3),
        "two channels": Dataset("mine", Samples(x.reshape(6, 2, 2, 3), y), Samples(x.reshape(6, 2, 2, 3), y), 3),
        "doubles": Dataset("mine", Samples(x.double(), y), good, 3),
        "a label out of range": Dataset("mine", good, Samples(x, y + 1), 3),
        "not finite": Dataset("mine", Samples(x.log() * float("inf"), y), good, 3),
        "no samples": Dataset("mine", (x, y), good, 3),  # type: ignore[arg-type]
        "arrays": Dataset("mine", Samples(x.reshape(6, 2, 2, 3).numpy(), y.numpy()), Samples(*four), 3),  # type: ignore[arg-type]
        "lists": Dataset("mine", Samples(x.tolist(), y.tolist()), good, 3, {"w": [1] * 6}),  # type: ignore[arg-type,dict-item]
        "bytes": Dataset("mine", Samples(pixels, y), Samples(pixels, y), 3),
        "uneven lists": Dataset("mine", Samples([[1.0], [2.0, 3.0]], y), good, 3),  # type: ignore[arg-type]
        "nothing": Dataset("mine", Samples(torch.zeros(0, 2, 2, 3), y[:0]), good, 3),
        "a number for a column": Dataset("mine", good, good, 3, {"w": 5}),  # type: ignore[dict-item]
        "a short column": Dataset("mine", good, good, 3, {"client": np.zeros(5)}),
    }[name]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rows", (1, 1, 12)),
        ("two channels", (2, 2, 3)),
        ("doubles", (1, 1, 12)),
        ("arrays", (2, 2, 3)),
        ("lists", (1, 1, 12)),
        ("bytes", (2, 2, 3)),
    ],
)
def test_a_dataset_put_together_by_hand_gets_the_form_of_loaded_ones(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{user_dataset.__name__}.import_factory", lambda _spec: lambda: made_by_hand(name))
    made = user_dataset.load_factory("mine:make")
    inputs, _ = made.train.batch(slice(0, 6))
    assert (made.input_shape, inputs.dtype) == (shape, torch.float32)
    assert inputs.abs().max() <= 1, "bytes are put on -1..1 like all others"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a label out of range", "'mine:make': label 3 is out of range; mine has 3 classes"),
        ("not finite", "'mine:make': x_train holds NaN"),
        ("no samples", "'mine:make' gave a Dataset whose samples are a tuple; give Samples"),
        ("uneven lists", "'mine:make': x_train is not an array"),
        ("nothing", "'mine:make': x_train is empty"),
        ("a number for a column", "'mine:make': column 'w' has shape (); give a value for each training sample"),
        ("a short column", "'mine:make': column 'client' holds 5 values for 6 training samples"),
    ],
)
def test_a_dataset_put_together_wrongly_is_refused_in_one_line(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{user_dataset.__name__}.import_factory", lambda _spec: lambda: made_by_hand(name))
    with pytest.raises(InputError, match=re.escape(told)):
        user_dataset.load_factory("mine:make")
