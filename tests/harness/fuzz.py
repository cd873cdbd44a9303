"""Give every reader of what strangers send bytes that no test thought of: it answers, or refuses with an error of ours.

make fuzz SECONDS=60      a minute for each reader, steered by coverage (atheris, libFuzzer), as a table

Anything else that comes out is a finding: another exception, a hang of five seconds, memory without bound.
"""

import base64
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedquit.client.compression.codecs import Slot, chain_of, read_npy, slot_of
from fedquit.client.models.model_file import arrays_in, model_bytes
from fedquit.client.receipts import LIMITS, read_receipt, sealed, statement
from fedquit.client.receipts.receipt_text import lines
from fedquit.client.requests.keys import fingerprint, new_key, public_der
from fedquit.client.requests.signed_request import Signed, is_from, make_ask, read_ask, read_signed
from fedquit.errors import BadReplyError, FedquitError
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.guard.reply_checks import ask_in, checked_arrays, checked_metrics, samples_digest_in

LONGEST = 4096
"""Bytes of an input."""
KEY, ASKER = Ed25519PrivateKey.from_private_bytes(b"k" * 32), new_key()
CHAINS = ("fp16", "int8", "zstd", "top-k", "svd", "top-k+fp16+zstd", "svd+int8+zstd")
MODEL = {
    "w": np.outer(np.arange(6.0), np.arange(4.0)).astype(np.float32),
    "b": np.ones(4, np.float32),
    "counter": np.array(7),
}
SLOTS = {name: slot_of(array) for name, array in MODEL.items()}


@dataclass(frozen=True, slots=True)
class Target:
    """A reader.

    Attributes:
        what: it reads.
        read: reads an input; raises an error of ours, or none.
        seeds: good inputs to begin with.
    """

    what: str
    read: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]

    def takes(self, data: bytes) -> bool:
        """Say whether the reader takes these bytes; any exception but a refusal comes out."""
        try:
            self.read(data)
        except (FedquitError, BadReplyError):
            return False
        return True


def _ask(data: bytes) -> None:
    with suppress(FedquitError):
        signed = read_signed(data)
        is_from(signed, public_der(ASKER))
        read_ask(signed.ask)
    is_from(Signed(data[:-96], data[-96:]), data)
    read_ask(data)


def _asks() -> Iterable[bytes]:
    signed = make_ask(ASKER, "clinics", "sample", samples=[b"d" * 32], salt=b"s" * 32, note="please", now=1e9)
    return signed.ask, signed.serialised(), make_ask(ASKER, "clinics", "class", classes=[1, 300], now=1e9).ask


def _receipt(data: bytes) -> None:
    read_receipt(data, KEY.public_key())


def _signed_statement(data: bytes) -> None:
    lines(read_receipt(sealed(data, KEY), KEY.public_key()), model_checked=False)


def _statements() -> Iterable[bytes]:
    signed, der = make_ask(ASKER, "clinics", now=1e9), public_der(ASKER)
    asked = {"granularity": "client", "classes": [], "samples_count": 0, "samples_digest": ""}
    carried = {"ask": signed.ask, "signature": signed.signature, "key": der}
    times = {"asked_at": 1e9, "done_at": 1e9, "deadline": 2e9}
    request = {
        **{name: base64.b64encode(value).decode() for name, value in carried.items()},
        **asked,
        **times,
        "id": signed.id,
        "asked_by": fingerprint(der),
        "subject": fingerprint(der),
    }
    predicate = {
        "federation": "clinics",
        "request": request,
        "method": {"name": "fedquit", "settings": {}, "fallback": ""},
        "models": {"before": "0", "unlearned": "1", "after": "2"},
        "descendants": [{"step": 1, "model": "0"}],
        "purged": {"models": ["0"], "kept": {}},
        "costs": {"rounds": 1, "bytes_down": 1, "bytes_up": 1, "seconds": 1.0, "device_seconds": 1.0},
        "measures": {"after": {"accuracy": 0.5}},
        "verdict": {"text": "fine", "thresholds": {}},
        "limits": LIMITS[:1],
        "log": {"number": 1, "digest": "0"},
    }
    return (statement("2", predicate),)


def _checkpoint(data: bytes) -> None:
    arrays_in(data, "the file")


def _npy(data: bytes) -> None:
    for slot in (Slot("float32", (6, 4)), Slot("uint8", None), Slot("int64", ())):
        with suppress(FedquitError):
            read_npy("w", data, slot)
    read_npy("w", data, Slot("float32", (4,)))


def _coded(data: bytes) -> None:
    """Decode the parts of a model; the first byte names the chain, two before each part its length."""
    chain = chain_of(CHAINS[data[0] % len(CHAINS)] if data else CHAINS[0], {"share": 0.5})
    given, at = dict[str, bytes](), 1
    for name in chain.encode(MODEL).arrays:
        size = int.from_bytes(data[at : at + 2], "big")
        given[name], at = data[at + 2 : at + 2 + size], at + 2 + size
    got = chain.decode(given, SLOTS, MODEL)
    assert {name: slot_of(array) for name, array in got.items()} == SLOTS


def _parcels() -> Iterable[bytes]:
    for number, name in enumerate(CHAINS):
        parts = [npy(array) for array in chain_of(name, {"share": 0.5}).encode(MODEL).arrays.values()]
        yield bytes([number]) + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _reply(data: bytes) -> None:
    """Check a reply whose arrays, claims and metrics are what the bytes say, piece by piece."""
    become_server_task(1)
    pieces = data.split(b"|", 5)
    text = [piece.decode("latin-1") for piece in pieces] + [""] * 6
    expected = ArrayRecord({"w": Array(MODEL["b"])})
    shape = tuple(ord(character) for character in text[1])
    told: dict[str, Any] = {"num-examples": _number(text[3]), "loss": _number(text[4])}
    claimed = Array(dtype=text[0], shape=shape, stype=text[2], data=pieces[-1])
    reply = Message(
        RecordDict(
            {
                "arrays": ArrayRecord({"w": claimed}),
                "metrics": MetricRecord(told),
                "ask": ConfigRecord({"ask": pieces[-1], "signature": text[3], "samples-digest": text[4]}),
            }
        ),
        reply_to=Message(RecordDict(), 1, "train"),
    )
    samples_digest_in(reply)
    for check in (ask_in, checked_metrics):
        with suppress(BadReplyError):
            check(reply)
    checked_arrays(reply, expected)


def _number(text: str) -> int | float:
    with suppress(ValueError):
        return int(text[:40])
    with suppress(ValueError):
        return float(text)
    return len(text)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """Return an array as a `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


TARGETS = {
    "ask": Target("an ask, and an ask with its signature", _ask, _asks),
    "receipt": Target("a receipt", _receipt, lambda: [sealed(payload, KEY) for payload in _statements()]),
    "statement": Target(
        "what a receipt says, rightly signed, as `fedquit verify` prints it", _signed_statement, _statements
    ),
    "checkpoint": Target("a model file (safetensors)", _checkpoint, lambda: [model_bytes(MODEL), model_bytes({})]),
    "npy": Target("an array in a message (.npy)", _npy, lambda: [npy(array) for array in MODEL.values()]),
    "coded": Target("a coded model, by seven chains of codecs", _coded, _parcels),
    "reply": Target(
        "a reply: arrays, claims, counts", _reply, lambda: [b"float32|\x04|numpy.ndarray|12|0.5|" + npy(MODEL["b"])]
    ),
}
CHILD = """
import atheris
with atheris.instrument_imports(include=["fedquit.client", "fedquit.strategies.guard", "numpy.lib", "json"]):
    from tests.harness import fuzz
atheris.Setup(__import__("sys").argv[:1] + __import__("sys").argv[2:], fuzz.TARGETS[__import__("sys").argv[1]].takes)
atheris.Fuzz()
"""


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """What came of it: how many inputs, in how many seconds, places in the code reached; and what was found, if so."""

    runs: int
    seconds: int
    reached: int
    finding: str = ""


def fuzz(name: str, seconds: int, folder: Path) -> Fuzzed:
    """Fuzz a target in a process of its own; what it finds stays in `folder`."""
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = (f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=5", "-rss_limit_mb=2048")
    command = [sys.executable, "-c", CHILD, name, str(corpus), f"-artifact_prefix={folder}/{name}-", *limits]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = done.stderr + done.stdout
    at = [int(number) for number in re.findall(r"^#(\d+)", told, re.MULTILINE)]
    reached = [int(number) for number in re.findall(r" cov: (\d+)", told)]
    ended = re.search(r"Done (\d+) runs in (\d+) second", told)
    finding = "" if ended and done.returncode == 0 else told[-3000:]
    runs, took = (int(ended[1]), int(ended[2])) if ended else (max(at, default=0), 0)
    return Fuzzed(runs, took, max(reached, default=0), finding)


@click.command()
@click.option("--seconds", type=click.IntRange(min=1), default=60, show_default=True, help="for each target")
@click.option("--target", "names", type=click.Choice(list(TARGETS)), multiple=True, help="these only")
@click.option("--out", type=click.Path(path_type=Path), help="folder for inputs; else a temporary one")
def main(seconds: int, names: tuple[str, ...], out: Path | None) -> None:
    """Fuzz every reader, and print a table; exits with 1 if anything was found."""
    found = dict[str, Fuzzed]()
    with tempfile.TemporaryDirectory() as temporary:
        for name in names or TARGETS:
            found[name] = fuzz(name, seconds, out or Path(temporary))
            click.echo(f"{name}: {found[name].runs:,} inputs", err=True)
    click.echo("| reader | inputs | seconds | places reached | findings |\n|---|---|---|---|---|")
    for name, told in found.items():
        click.echo(
            f"| {TARGETS[name].what} | {told.runs:,} | {told.seconds} | {told.reached:,} | {int(bool(told.finding))} |"
        )
    for name, told in found.items():
        if told.finding:
            click.echo(f"\n{name}:\n{told.finding}", err=True)
    sys.exit(any(told.finding for told in found.values()))
