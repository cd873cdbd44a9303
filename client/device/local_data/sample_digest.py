r"""Digests by which the owner of a sample and the device mean the same one, whatever its file is called.

The digest of a sample is SHA-256 over one line of JSON and the bytes of the input as they are stored:

    ["file", [LENGTH], "LABEL"]\n          an encoded image, in a file or in a column of Parquet
    ["uint8", [28, 28], "LABEL"]\n         an array: its type, its shape, then its values, C order, little-endian

LABEL is the label as it is stored: the name of the image's folder, or the number or text beside the array. An owner
can recompute it with nothing but SHA-256. It names a sample in one form; what knows the sample again in another form,
or under another label, is its content: see `fedquit.client.device.local_data.sample_content`.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Stored = bytes | NDArray[np.generic]


def sample_digest(stored: Stored, label: str) -> bytes:
    r"""Return the digest (32 bytes) of a sample.

    Args:
        stored: an encoded image, or an array.
        label: as it is stored, as text.

    >>> sample_digest(b"\x89PNG", "ill") == hashlib.sha256(b'["file", [4], "ill"]\n\x89PNG').digest()
    True
    """
    return _hashed(stored, label)


def content_digest(stored: Stored) -> bytes:
    """Return the digest (32 bytes) of an input without its label: the first version of what a record compares.

    >>> content_digest(np.zeros(2, np.uint8)) == hashlib.sha256(b'["uint8", [2]]' + bytes([10, 0, 0])).digest()
    True
    """
    return _hashed(stored)


def _hashed(stored: Stored, *label: str) -> bytes:
    if isinstance(stored, bytes):
        kind, shape, content = "file", [len(stored)], stored
    else:
        little = np.asarray(stored, dtype=stored.dtype.newbyteorder("<"), order="C")
        kind, shape, content = stored.dtype.name, list(stored.shape), little.tobytes()
    return hashlib.sha256(line([kind, shape, *label]) + content).digest()


def line(values: Sequence[object]) -> bytes:
    r"""Return what a digest is taken over before the values.

    >>> line(["file", [4], "ill"])
    b'["file", [4], "ill"]\n'
    """
    return (json.dumps(values) + "\n").encode()
