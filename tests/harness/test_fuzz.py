"""What fuzzing found stays mended, and every reader is given over a thousand bad inputs in each run of the tests."""

import json
import random
import tracemalloc

import pytest

from tests.harness.fuzz import LONGEST, TARGETS

PARTS = (b"\x00", b"\xff" * 8, b"{", b'"', b"[" * 40, b"9" * 20, b"null", b"1e999", b"-1", b"(1,)", b"|", b"\x93NUMPY")
FOUND = [
    ("checkpoint", b""),
    ("checkpoint", b"\x02\x00\x00\x00\x00\x00\x00\x00[]"),
    ("statement", b"[" * 100_000),
    ("statement", b'{"predicateType":"","predicate":{},"subject":[{"digest":{"sha256":""}}]}'),
    ("statement", b'{"_type":"","predicateType":"","predicate":1,"subject":[{"digest":{"sha256":""}}]}'),
]


def mutated(seed: bytes, rng: random.Random) -> bytes:
    """Return a good input with one to four changes."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.randint(0, len(data)) for _ in range(2))
        change = rng.choice(("flip", "cut", "put", "copy"))
        if change == "flip" and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del data[at : min(to, at + 40)]
        else:
            data[at:at] = rng.choice(PARTS) if change == "put" else data[at:to][:64]
    return bytes(data[:LONGEST])


@pytest.mark.parametrize("name", TARGETS)
def test_every_reader_returns_or_raises_our_error_within_bounded_memory(name: str) -> None:
    target, rng = TARGETS[name], random.Random(name)
    seeds = list(target.seeds())
    inputs = [*seeds, *(mutated(rng.choice(seeds), rng) for _ in range(200)), b"", bytes(LONGEST)]
    taken = [target.takes(data) for data in inputs]
    assert any(taken[: len(seeds)])
    assert not all(taken)
    tracemalloc.start()
    for data in inputs[:: len(inputs) // 40]:
        target.takes(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_is_refused(name: str, data: bytes) -> None:
    assert not TARGETS[name].takes(data)


@pytest.mark.parametrize("told", [b"5", b'"x"', b"[]", b"null", b"{}"])
@pytest.mark.parametrize("part", ["predicate", "request", "method", "measures", "verdict", "purged", "limits"])
def test_a_receipt_with_a_wrong_part_is_refused_in_one_line(part: str, told: bytes) -> None:
    [payload] = TARGETS["statement"].seeds()
    document = json.loads(payload)
    holder = document if part == "predicate" else document["predicate"]
    holder[part] = json.loads(told)
    assert not TARGETS["statement"].takes(json.dumps(document).encode()) or part in ("measures", "limits")


def test_a_receipt_without_a_figure_is_refused_in_one_line() -> None:
    [payload] = TARGETS["statement"].seeds()
    assert TARGETS["statement"].takes(payload)
    assert not TARGETS["statement"].takes(payload.replace(b'"bytes_down"', b'"bytes_dowm"'))
