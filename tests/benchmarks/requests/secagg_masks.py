"""Read a device's model out of a round of Flower's SecAgg+, as a server can that follows the protocol.

    python -m tests.benchmarks.requests.secagg_masks [--out docs/results/secure_aggregation.md]

Three devices take part and one drops out. The protocol gives the server everything but the mask between the other two.
Flower's `pseudo_rand_gen` makes that from 32 bits: the XOR of the words of a key of 44 base64 characters, so the
highest bit of each byte is 0 and 2^28 seeds are left. The server tries them all.
"""

import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from numpy.typing import NDArray

from tests.benchmarks.requests.secagg_round import (
    CLIPPING_RANGE,
    MAX_WEIGHT,
    MODULUS,
    NUM_EXAMPLES,
    TARGET_RANGE,
    Received,
    honest_round,
    models,
)

SEEDS = 2**28
CHUNK = 2**14
"""Seeds tried at once: their state fits into the processor's cache."""
SIZE = 100_000
WEIGHT = round(NUM_EXAMPLES / MAX_WEIGHT * TARGET_RANGE)
"""What Flower's mod puts before the model; the reply carries the number of samples in the clear."""
PAGE = """# Flower's secure aggregation, attacked

Made by `python -m tests.benchmarks.requests.secagg_masks` on {date}: one core of {machine}, flwr {flwr}, NumPy {numpy}.
Do not edit: run it again.

One round of SecAgg+ between three devices that run Flower's `secaggplus_mod` with the defaults of its workflow; one
drops out after the keys are agreed. The server follows the protocol, and then tries the seeds of the one mask that is
left between the other two:

| | |
|---|---|
| seeds that there are | {seeds:,} (2^28) |
| tried in a second of processor time | {rate:,.0f} |
| all of them | {all:.0f} s |
| until the right one was found | {seconds:.0f} s |
| model of {size:,} numbers of one device, read by the server: largest error | {error:.1e} |
| what quantisation alone costs | {step:.1e} |

Measured with three devices of which one drops out. With more devices left, several masks hide a model at once, and this
search does not find them.
"""


def fold(key: bytes) -> int:
    """Return the 32 bits that Flower's `pseudo_rand_gen` makes of a key.

    >>> fold(bytes([1, 0, 0, 0, 3, 0, 0, 0]))
    2
    """
    words = np.frombuffer(key, dtype="<u4")
    return int(np.bitwise_xor.reduce(words))


def spread(index: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the seeds numbered `index`, below 2^28: those in which the highest bit of each byte is 0.

    >>> [hex(seed) for seed in spread(np.array([0x7F, 0x80, 2**28 - 1], dtype=np.uint32))]
    ['0x7f', '0x100', '0x7f7f7f7f']
    """
    seeds = np.zeros_like(index)
    for byte in range(4):
        seeds |= ((index >> np.uint32(7 * byte)) & np.uint32(0x7F)) << np.uint32(8 * byte)
    return seeds


def first_words(seeds: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the first word that `numpy.random.RandomState` draws after each seed (MT19937, Matsumoto 1998).

    >>> int(first_words(np.array([7], dtype=np.uint32))[0]) == int(np.random.RandomState(7).randint(2**32, dtype="i8"))
    True
    """
    state, shifted = seeds.copy(), np.empty_like(seeds)
    first = seeds
    for index in range(1, 398):
        np.right_shift(state, np.uint32(30), out=shifted)
        np.bitwise_xor(state, shifted, out=state)
        np.multiply(state, np.uint32(1812433253), out=state)
        np.add(state, np.uint32(index), out=state)
        if index == 1:
            first = (seeds & np.uint32(0x80000000)) | (state & np.uint32(0x7FFFFFFF))
    word = state ^ (first >> np.uint32(1)) ^ (first & np.uint32(1)) * np.uint32(0x9908B0DF)
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    found: NDArray[np.uint32] = word ^ (word >> np.uint32(18))
    return found


def seeds_of(word: int, begin: int = 0, end: int = SEEDS) -> Iterator[int]:
    """Yield the seeds, numbered from `begin` to `end` as in `spread`, whose mask begins with a word."""
    for start in range(begin, end, CHUNK):
        seeds = spread(np.arange(start, min(start + CHUNK, end), dtype=np.uint32))
        yield from (int(seed) for seed in seeds[first_words(seeds) == word])


def without_known_masks(received: Received, node: int) -> list[NDArray[np.int64]]:
    """Return what a device sent, minus its private mask and those that it shares with devices that dropped out."""
    arrays = received.masked[node]
    known = [(1, received.seeds[node])]
    for other, secret in received.secrets.items():
        key = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(received.keys[node][0]))
        known.append((sign(node, other), key))
    for factor, seed in known:
        masks = pseudo_rand_gen(seed, MODULUS, [array.shape for array in arrays])
        arrays = [array - factor * mask for array, mask in zip(arrays, masks, strict=True)]
    return [array % MODULUS for array in arrays]


def sign(node: int, other: int) -> int:
    """Return with which sign a device adds the mask that it shares with another."""
    return 1 if node > other else -1


def model_with(seed: int, left: list[NDArray[np.int64]], factor: int) -> NDArray[np.float64]:
    """Return the model of a device from what it sent and the seed of the last mask."""
    masks = pseudo_rand_gen(seed.to_bytes(4, "little"), MODULUS, [array.shape for array in left])
    numbers = (left[1] - factor * masks[1]) % MODULUS
    found: NDArray[np.float64] = dequantize([numbers], CLIPPING_RANGE, TARGET_RANGE)[0]
    return found * TARGET_RANGE / WEIGHT


def is_plausible(model: NDArray[np.float64]) -> bool:
    """Say whether numbers can be a model: after a wrong seed most are outside the range of quantisation."""
    return bool(np.abs(model).max() <= CLIPPING_RANGE * TARGET_RANGE / WEIGHT)


def first_of_mask(left: list[NDArray[np.int64]], factor: int) -> int:
    """Return the first word of the last mask: the weight that it hides is known."""
    return int(factor * (int(left[0][0]) - WEIGHT) % MODULUS)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="write the page there")
def main(out: Path | None) -> None:
    """Play a round, and read a device's model."""
    devices = models(3, SIZE)
    received = honest_round(devices, dropped=3)
    left, factor = without_known_masks(received, node=1), sign(1, 2)
    word = first_of_mask(left, factor)
    started = time.process_time()
    found = []
    for seed in seeds_of(word):
        model = model_with(seed, left, factor)
        if is_plausible(model):
            found.append((model, time.process_time() - started))
    whole = time.process_time() - started
    (model, seconds), *others = found
    if others:
        raise click.ClickException(f"{len(found)} seeds give what can be a model")
    error = float(np.abs(model - devices[0].model).max())
    step = 2 * CLIPPING_RANGE / TARGET_RANGE * TARGET_RANGE / WEIGHT
    versions = {"flwr": version("flwr"), "numpy": version("numpy"), "machine": platform.machine()}
    said = PAGE.format(
        **versions,
        date=time.strftime("%Y-%m-%d"),
        seeds=SEEDS,
        rate=SEEDS / whole,
        all=whole,
        seconds=seconds,
        size=SIZE,
        error=error,
        step=step,
    )
    click.echo(said)
    if out:
        out.write_text(said, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
