"""Who holds what: the training set split among clients as flwr-datasets' partitioners do.

The training set is put into an order drawn from the seed first, cut to `num_samples`, and only labels and positions
are handed to the partitioner, in memory; nothing is downloaded or written.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedquit.errors import InputError, unknown

Indices = NDArray[np.int64]
SCHEMES = ("iid", "dirichlet", "shards", "pathological", "column")
_one_at_a_time = threading.Lock()


def partition(
    labels: NDArray[Any],
    *,
    clients: int,
    scheme: str = "dirichlet",
    alpha: float = 0.3,
    shards_per_client: int = 2,
    classes_per_client: int = 2,
    column: NDArray[Any] | None = None,
    num_samples: int | None = None,
    seed: int = 0,
) -> list[Indices]:
    """Split the training set: one sorted index array per client, disjoint, together all samples (or `num_samples`).

    Args:
        labels: Training labels [N].
        clients: Number of clients.
        scheme: `iid`; `dirichlet`: each class divided in proportions drawn from Dirichlet(alpha); `shards`: sorted by
            label, cut up, `shards_per_client` pieces each; `pathological`: `classes_per_client` classes each;
            `column`: one client per distinct value of `column`, in sorted order.
        alpha: Concentration; the lower, the more the clients differ.
        shards_per_client: For `shards`; the few samples left over join clients that hold their label.
        classes_per_client: For `pathological`.
        column: For `column`: one value per training sample [N].
        num_samples: Split a random subset of this size instead of all N.
        seed: Decides subset and split.

    Raises:
        InputError: If no such split exists; it says what to change.

    >>> parts = partition(np.array([0, 1] * 4), clients=2, scheme="iid")
    >>> [len(part) for part in parts], np.sort(np.concatenate(parts)).tolist()
    ([4, 4], [0, 1, 2, 3, 4, 5, 6, 7])
    """
    size = checked_size(len(labels), clients, scheme, num_samples, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))[:size]
    ordered, inner_seed = np.asarray(labels)[order], int(rng.integers(2**31))
    if scheme == "iid":
        parts = np.array_split(np.arange(size), clients)  # as IidPartitioner does, without a data set for each client
    elif scheme == "dirichlet":
        parts = _dirichlet(ordered, clients, alpha, inner_seed)
    elif scheme == "shards":
        parts = _shards(ordered, clients, shards_per_client, inner_seed)
    elif scheme == "pathological":
        parts = _pathological(ordered, clients, classes_per_client, inner_seed)
    else:
        parts = _by_column(_checked_column(column, len(labels))[order], clients)
    return [np.sort(order[part]) for part in parts]


def checked_size(available: int, clients: int, scheme: str, num_samples: int | None, seed: int) -> int:
    """Return how many samples to split.

    Raises:
        InputError: what is asked makes no sense, whatever the labels are.

    >>> checked_size(1438, clients=5, scheme="iid", num_samples=None, seed=0)
    1438
    """
    if scheme not in SCHEMES:
        raise unknown("partition scheme", scheme, SCHEMES)
    size = available if num_samples is None else num_samples
    if not 1 <= size <= available:
        raise InputError(f"cannot take {size} of the training set's {available} samples; give 1 to {available}")
    if clients < 1:
        raise InputError(f"{clients} clients; at least 1 is needed")
    if clients > size:
        raise InputError(f"{clients} clients cannot share {size} samples; lower clients or raise samples")
    if seed < 0:
        raise InputError(f"the seed must not be negative, not {seed}")
    return size


def _run(kind: str, values: NDArray[Any], **settings: Any) -> list[Indices]:
    """Run one of flwr-datasets' partitioners on `values` [M]; return the positions of each part."""
    import datasets
    from flwr_datasets import partitioner

    made = getattr(partitioner, kind)(**settings)
    # One partitioner warns of each draw, another always shows a bar; to hush them is not thread-safe.
    with _one_at_a_time, warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
        made.dataset = datasets.Dataset.from_dict({"index": np.arange(len(values)), "label": values})
        return [np.array(made.load_partition(part)["index"][:]) for part in range(made.num_partitions)]


def _dirichlet(labels: NDArray[Any], clients: int, alpha: float, seed: int) -> list[Indices]:
    """Divide each class by Dirichlet(alpha), again until each client has a quarter of its even share, at most ten."""
    if not 0 < alpha < float("inf"):
        raise InputError(f"alpha must be a positive number, not {alpha}")
    least = max(1, min(10, len(labels) // (4 * clients)))
    settings = {"alpha": float(alpha), "min_partition_size": least, "shuffle": False, "seed": seed}
    try:
        return _run("DirichletPartitioner", labels, num_partitions=clients, partition_by="label", **settings)
    except ValueError as error:
        raise InputError(
            f"no Dirichlet split with alpha {alpha} gave each of {clients} clients {least} of {len(labels)} samples; "
            "raise alpha, lower clients or use iid"
        ) from error


def _shards(labels: NDArray[Any], clients: int, each: int, seed: int) -> list[Indices]:
    """Cut equal shards; what does not divide goes to the smallest client that holds its label already."""
    if each < 1 or clients * each > len(labels):
        raise InputError(
            f"{clients} clients x {each} shards cannot be cut from {len(labels)} samples; "
            "lower clients or shards-per-client"
        )
    whole = len(labels) - len(labels) % (clients * each)
    settings = {"num_shards_per_partition": each, "shuffle": False, "seed": seed}
    parts = _run("ShardPartitioner", labels[:whole], num_partitions=clients, partition_by="label", **settings)
    for left in range(whole, len(labels)):
        holders = [client for client in range(clients) if labels[left] in labels[parts[client]]]
        smallest = min(holders or range(clients), key=lambda client: len(parts[client]))
        parts[smallest] = np.append(parts[smallest], left)
    return parts


def _pathological(labels: NDArray[Any], clients: int, each: int, seed: int) -> list[Indices]:
    """Give each client samples of `each` classes, and every class to someone.

    Drawn classes may leave one out where there are fewer clients than classes: then the classes are dealt in a row.
    """
    names, codes = np.unique(labels, return_inverse=True)
    if not 1 <= each <= len(names) or clients * each < len(names):
        raise InputError(
            f"{clients} clients x {each} classes cannot hold {len(names)} classes, each once per client; "
            "change classes-per-client or clients"
        )
    dealt = each if clients < len(names) else 1
    shuffled = np.random.default_rng(seed).permutation(len(names))[codes]
    settings = {"class_assignment_mode": "first-deterministic", "shuffle": False, "seed": seed}
    settings |= {"num_partitions": clients * dealt, "num_classes_per_partition": each // dealt}
    try:
        parts = _run("PathologicalPartitioner", shuffled, partition_by="label", **settings)
    except ValueError as error:
        raise InputError(
            f"{clients} clients x {each} classes: a class has fewer samples than clients that want it; "
            "lower clients or classes-per-client"
        ) from error
    return [np.concatenate(parts[first : first + dealt]) for first in range(0, len(parts), dealt)]


def _checked_column(column: NDArray[Any] | None, size: int) -> NDArray[Any]:
    if column is None:
        raise InputError("scheme 'column' needs a column of the dataset; name one, or use another scheme")
    if np.shape(column) != (size,):
        raise InputError(f"the column has shape {np.shape(column)}, but there are {size} training samples")
    return np.asarray(column)


def _by_column(column: NDArray[Any], clients: int) -> list[Indices]:
    values, codes = np.unique(column, return_inverse=True)
    if len(values) != clients:
        raise InputError(
            f"the column has {len(values)} distinct values, so clients must be {len(values)}, not {clients}"
        )
    return [np.flatnonzero(codes == code) for code in range(clients)]


def label_counts(labels: NDArray[Any], parts: Sequence[Indices], num_classes: int) -> Indices:
    """Count each client's labels: [clients, num_classes].

    >>> label_counts(np.array([0, 1, 1, 2]), [np.array([0, 1]), np.array([2, 3])], 3).tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    return np.stack([np.bincount(labels[part], minlength=num_classes) for part in parts]).astype(np.int64)
