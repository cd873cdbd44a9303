"""A split kept in a file, to be given again: JSON of client -> indices into the training set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedquit.client.data.partition import Indices
from fedquit.errors import InputError
from fedquit.files import write_whole


def save_partition(path: Path, parts: Sequence[Indices]) -> None:
    """Write `{"0": [indices of client 0], …}` whole or not at all.

    Raises:
        FedquitError: If the file cannot be written; what was there stays as it was.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name) / "partition.json"
    >>> save_partition(file, [np.array([0, 2]), np.array([1])])
    >>> json.loads(file.read_text())
    {'0': [0, 2], '1': [1]}
    >>> folder.cleanup()
    """
    split = {str(client): part.tolist() for client, part in enumerate(parts)}
    write_whole(path, (json.dumps(split) + "\n").encode())


def load_partition(path: Path, num_train: int) -> list[Indices]:
    """Read a split that `save_partition` or a person wrote, and check that it is one.

    Args:
        path: JSON of client -> indices into the training set; indices may be left out but not given twice.
        num_train: Size of the training set.

    Raises:
        InputError: Naming the file and the client with the mistake.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = Path(folder.name) / "partition.json"
    >>> _ = file.write_text('{"0": [2, 0], "1": [1]}')
    >>> load_partition(file, num_train=3)
    [array([0, 2]), array([1])]
    >>> folder.cleanup()
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise InputError(f"cannot read the split {path} ({error.strerror or error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f'{path} is not a split; write {{"0": [indices], "1": [indices], …}}')
    if set(content) != {str(client) for client in range(len(content))}:
        raise InputError(f"{path}: clients are {', '.join(content)}; number them 0 to {len(content) - 1}")
    owner = np.full(num_train, -1, dtype=np.int64)
    return [_checked_part(path, client, content[str(client)], owner) for client in range(len(content))]


def _checked_part(path: Path, client: int, given: Any, owner: Indices) -> Indices:
    """Check one client's indices and mark them as its own in `owner` [num_train]."""
    if not isinstance(given, list) or not given:
        raise InputError(f"{path}: client {client} has no list of indices")
    for index in given:
        if type(index) is not int:
            raise InputError(f"{path}: client {client} holds {json.dumps(index)}, which is not an index")
        if not 0 <= index < len(owner):
            raise InputError(
                f"{path}: client {client} holds {index}, but the training set has samples 0 to {len(owner) - 1}"
            )
        if owner[index] >= 0:
            how = "twice" if owner[index] == client else f"and so does client {owner[index]}"
            raise InputError(f"{path}: client {client} holds sample {index} {how}")
        owner[index] = client
    return np.sort(np.array(given, dtype=np.int64))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise InputError(f"client {next(key for key in keys if keys.count(key) > 1)} is given twice")
    return content
