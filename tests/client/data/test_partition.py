"""Splits: every sample to one client, the same for the same seed, and mistakes told up front."""

import json
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedquit.client.data.partition import SCHEMES, label_counts, partition
from fedquit.client.data.partition_file import load_partition, save_partition
from fedquit.errors import FedquitError, InputError

LABELS = np.random.default_rng(0).integers(0, 10, 1203)
COLUMN = np.array([f"writer {n}" for n in np.random.default_rng(1).integers(0, 7, len(LABELS))])


def split(scheme: str, **changed: Any) -> list[NDArray[np.int64]]:
    request: dict[str, Any] = {"clients": 7, "column": COLUMN} | changed
    return partition(LABELS, scheme=scheme, **request)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_is_partition(parts: list[NDArray[np.int64]], size: int) -> None:
    together = np.concatenate(parts)
    assert len(together) == len(np.unique(together)) == size
    assert all(part.dtype == np.int64 and len(part) and (np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("num_samples", [None, 500])
def test_every_sample_goes_to_one_client(scheme: str, num_samples: int | None) -> None:
    parts = split(scheme, num_samples=num_samples)
    assert len(parts) == 7
    assert_is_partition(parts, num_samples or len(LABELS))


@settings(max_examples=40)
@given(
    scheme=st.sampled_from(["iid", "dirichlet", "shards", "pathological"]),
    size=st.integers(1, 80),
    classes=st.integers(1, 5),
    clients=st.integers(1, 8),
    each=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_any_request_gives_a_partition_or_one_clear_line(
    scheme: str, size: int, classes: int, clients: int, each: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, size)
    try:
        parts = partition(
            labels, clients=clients, scheme=scheme, shards_per_client=each, classes_per_client=each, seed=seed
        )
    except InputError as refused:
        event("refused")
        line = str(refused)
    else:
        event("split")
        assert len(parts) == clients
        assert_is_partition(parts, size)
        return
    assert "\n" not in line


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_seed_gives_the_same_split_and_another_another(scheme: str) -> None:
    first, again, other = (split(scheme, seed=seed, num_samples=600) for seed in (5, 5, 6))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    np.random.seed(1)  # noqa: NPY002 - it is the one in question
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    split("dirichlet")
    assert np.random.random() == expected  # noqa: NPY002


def test_iid_clients_are_alike() -> None:
    parts = split("iid")
    assert {len(part) for part in parts} <= {171, 172}
    assert label_counts(LABELS, parts, 10).min() > 3


def test_the_lower_alpha_the_more_clients_differ() -> None:
    def spread(alpha: float) -> float:
        counts = label_counts(LABELS, split("dirichlet", alpha=alpha), 10)
        return float((counts / counts.sum(1, keepdims=True)).std(0).mean())

    assert spread(0.1) > spread(1.0) > spread(100.0)


@pytest.mark.parametrize(("clients", "shards"), [(7, 2), (10, 3), (200, 5)])
def test_shards_leave_nothing_over_and_few_classes_each(clients: int, shards: int) -> None:
    parts = split("shards", clients=clients, shards_per_client=shards)
    assert_is_partition(parts, len(LABELS))
    held = (label_counts(LABELS, parts, 10) > 0).sum(1)
    assert held.max() <= 2 * shards
    assert len(parts[0]) >= len(LABELS) // (clients * shards) * shards


@pytest.mark.parametrize(("clients", "classes"), [(5, 2), (7, 2), (10, 2), (23, 3), (4, 10), (3, 4)])
def test_pathological_clients_hold_the_set_number_of_classes_and_none_is_lost(clients: int, classes: int) -> None:
    held = label_counts(LABELS, split("pathological", clients=clients, classes_per_client=classes), 10) > 0
    assert (held.sum(1) == classes).all()
    assert held.any(0).all()


def test_the_seed_decides_which_classes_are_dealt_to_whom() -> None:
    held = [label_counts(LABELS, split("pathological", clients=5, seed=seed), 10) > 0 for seed in (0, 1)]
    assert (held[0] != held[1]).any()


def test_a_column_gives_one_client_per_value_in_order() -> None:
    for client, part in enumerate(split("column")):
        assert set(COLUMN[part]) == {f"writer {client}"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_contacted_shown_or_left_changed(
    scheme: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a partition needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    stderr, filters = sys.stderr, list(warnings.filters)
    threads = [threading.Thread(target=split, args=(scheme,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capfd.readouterr() == ("", "")
    assert sys.stderr is stderr
    assert list(warnings.filters) == filters


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"scheme": "dirichlett"},
            "unknown partition scheme 'dirichlett' (did you mean 'dirichlet'?); known: iid, dirichlet",
        ),
        ({"clients": 0}, "0 clients; at least 1 is needed"),
        ({"clients": 2000}, "2000 clients cannot share 1203 samples; lower clients or raise samples"),
        ({"clients": 8, "num_samples": 5}, "8 clients cannot share 5 samples"),
        ({"num_samples": 1204}, "cannot take 1204 of the training set's 1203 samples; give 1 to 1203"),
        ({"num_samples": 0}, "cannot take 0 of the training set's 1203 samples"),
        ({"seed": -1}, "the seed must not be negative"),
        ({"alpha": 0.0}, "alpha must be a positive number, not 0.0"),
        ({"alpha": -1.0}, "alpha must be a positive number"),
        ({"alpha": float("nan")}, "alpha must be a positive number"),
        ({"alpha": 1e-6, "clients": 50}, "raise alpha, lower clients or use iid"),
        ({"scheme": "shards", "shards_per_client": 0}, "7 clients x 0 shards cannot be cut from 1203 samples"),
        ({"scheme": "shards", "shards_per_client": 172}, "lower clients or shards-per-client"),
        ({"scheme": "pathological", "classes_per_client": 11}, "7 clients x 11 classes cannot hold 10 classes"),
        ({"scheme": "pathological", "classes_per_client": 1}, "change classes-per-client or clients"),
        ({"scheme": "pathological", "clients": 900, "classes_per_client": 5}, "a class has fewer samples than clients"),
        ({"scheme": "column", "column": None}, "needs a column of the dataset"),
        ({"scheme": "column", "column": COLUMN[:5]}, "the column has shape (5,), but there are 1203 training samples"),
        ({"scheme": "column", "clients": 5}, "the column has 7 distinct values, so clients must be 7, not 5"),
    ],
)
def test_a_split_that_cannot_be_says_what_to_change(changed: dict[str, Any], text: str) -> None:
    assert text in refusal(lambda: split(**({"scheme": "dirichlet"} | changed)))


def test_labels_are_counted_per_client() -> None:
    counts = label_counts(LABELS, split("dirichlet"), 12)
    assert counts.shape == (7, 12)
    assert counts.sum(0).tolist() == np.bincount(LABELS, minlength=12).tolist()


# the file


def test_a_saved_split_given_again_is_the_same(tmp_path: Path) -> None:
    parts = split("dirichlet", num_samples=700)
    save_partition(tmp_path / "partition.json", parts)
    again = load_partition(tmp_path / "partition.json", len(LABELS))
    assert all(np.array_equal(one, two) for one, two in zip(parts, again, strict=True))
    assert again[0].dtype == np.int64
    assert [path.name for path in tmp_path.iterdir()] == ["partition.json"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "partition.json"
    file.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FedquitError, match=r"cannot write .*partition.json: No space left on device") as caught:
        save_partition(file, [np.array([0])])
    assert caught.value.exit_code == 1
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["partition.json"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedquitError, match="No such file or directory"):
        save_partition(tmp_path / "no" / "partition.json", [np.array([0])])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "is not JSON"),
        ('{"0": [1', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[[0], [1]]", 'is not a split; write {"0": [indices]'),
        ("{}", "is not a split"),
        ('{"0": [0], "2": [1]}', "clients are 0, 2; number them 0 to 1"),
        ('{"0": [0], "0": [1]}', "client 0 is given twice"),
        ('{"0": [0], "1": []}', "client 1 has no list of indices"),
        ('{"0": [0], "1": 3}', "client 1 has no list of indices"),
        ('{"0": [0, 1.0]}', "client 0 holds 1.0, which is not an index"),
        ('{"0": [0, true]}', "client 0 holds true, which is not an index"),
        ('{"0": [0, "1"]}', 'client 0 holds "1", which is not an index'),
        ('{"0": [-1]}', "client 0 holds -1, but the training set has samples 0 to 9"),
        ('{"0": [10]}', "client 0 holds 10, but the training set has samples 0 to 9"),
        ('{"0": [99999999999999999999]}', "client 0 holds 99999999999999999999, but"),
        ('{"0": [4, 4]}', "client 0 holds sample 4 twice"),
        ('{"0": [4], "1": [3, 4]}', "client 1 holds sample 4 and so does client 0"),
    ],
)
def test_every_mistake_in_a_given_split_is_named(content: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "partition.json"
    file.write_text(content)
    said = refusal(lambda: load_partition(file, 10))
    assert said.startswith(str(file))
    assert text in said


def test_an_unreadable_split_is_named(tmp_path: Path) -> None:
    assert "cannot read the split" in refusal(lambda: load_partition(tmp_path / "no.json", 10))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\0")
    assert "is not JSON" in refusal(lambda: load_partition(tmp_path / "binary.json", 10))


def test_a_split_written_by_hand_may_leave_samples_out_and_be_unsorted(tmp_path: Path) -> None:
    file = tmp_path / "partition.json"
    file.write_text(json.dumps({"1": [7, 2], "0": [5]}))
    assert [part.tolist() for part in load_partition(file, 10)] == [[5], [2, 7]]


@pytest.mark.parametrize(("size", "clients"), [(1203, 7), (1203, 1203), (10, 3), (5, 1)])
def test_iid_parts_are_those_of_flowers_partitioner(size: int, clients: int) -> None:
    import datasets
    from flwr_datasets.partitioner import IidPartitioner

    oracle = IidPartitioner(num_partitions=clients)
    oracle.dataset = datasets.Dataset.from_dict({"index": np.random.default_rng(3).permutation(len(LABELS))[:size]})
    parts = split("iid", clients=clients, num_samples=size, seed=3)
    for number in range(clients):
        assert parts[number].tolist() == sorted(oracle.load_partition(number)["index"][:])


def test_many_iid_clients_need_no_data_set_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    parts = partition(np.zeros(200_000, dtype=np.int64), clients=100_000, scheme="iid")
    assert len(parts) == 100_000
    assert {len(part) for part in parts} == {2}
