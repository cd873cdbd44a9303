"""The command `fedquit verify`: checks a receipt on this machine, without asking anyone."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedquit.client.kit import Kit
from fedquit.client.receipts import Receipt, read_receipt
from fedquit.client.receipts.revocations import read_revocations
from fedquit.errors import BadReceiptError, InputError

STAGES = ("before", "unlearned", "after")
WHAT = {"client": "all its data", "sample": "{samples_count} samples", "class": "class {classes}"}


@click.command()
@click.argument("receipt", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), help="receipts.pub of the federation")
@click.option("--kit", type=click.Path(path_type=Path), help="a kit, which has that key in it")
@click.option("--model", type=click.Path(path_type=Path), help="a model file: is it the one of the receipt?")
@click.option("--revoked", type=click.Path(path_type=Path), help="the federation's signed list of revoked keys")
@click.option("--json", "as_json", is_flag=True, help="print what the receipt says as JSON, and nothing else")
def verify(
    receipt: Path, key: Path | None, kit: Path | None, model: Path | None, revoked: Path | None, as_json: bool
) -> None:
    """Check a receipt offline: who signed it, that no byte was changed, that it answers the ask that it carries.

    Exits with 0 if it verifies, with 1 and the reason if it does not.
    """
    if (key is None) == (kit is None):
        raise InputError("give --key FILE (the federation's receipts.pub) or --kit KIT")
    public = receipts_key(key or Kit.read(kit or Path()).receipts_key_file)
    read = read_receipt(content_of(receipt), public)
    if kit is not None and read.predicate["federation"] != Kit.read(kit).federation:
        raise BadReceiptError(f"the receipt is of the federation '{read.predicate['federation']}', not the kit's")
    if revoked is not None:
        read_revocations(content_of(revoked), public).check(read.predicate)
    if model is not None:
        read.check_model(content_of(model))
    if as_json:
        click.echo(json.dumps({"model": read.model, **read.predicate}, indent=1))
        return
    for line in lines(read, model_checked=model is not None):
        click.echo(line)


def lines(receipt: Receipt, *, model_checked: bool) -> list[str]:
    """Return what a receipt says, for people.

    Raises:
        BadReceiptError: it says something else than receipts of this version do.
    """
    try:
        return _lines(receipt, model_checked=model_checked)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError):
        text = "the receipt is signed and unaltered, but says other things than this version reads; try a newer fedquit"
        raise BadReceiptError(text) from None


def _lines(receipt: Receipt, *, model_checked: bool) -> list[str]:
    predicate, request = receipt.predicate, receipt.request
    what = WHAT[request["granularity"]].format(**{**request, "classes": ", ".join(map(str, request["classes"]))})
    late = "after" if request["done_at"] > request["deadline"] else "before"
    method, costs = predicate["method"], predicate["costs"]
    exact = "; exact: neither model ever met the data" if method.get("exact") else ""
    ended = "forgotten, not recovered," if predicate.get("status") == "unrecovered" else "done      "
    return [
        f"verified: signed by the federation '{predicate['federation']}', and unaltered",
        f"request    {request['id']}",
        f"asked      {_when(request['asked_at'])} by {request['asked_by'][:16]}: "
        f"forget {what} of {request['subject'][:16]}",
        f"{ended} {_when(request['done_at'])}, {late} the deadline {_when(request['deadline'])}",
        f"method     {method['name']}" + (f" ({method['fallback']})" if method["fallback"] else "") + exact,
        f"model      before {predicate['models']['before']}",
        f"           after  {receipt.model}" + (" (the given file)" if model_checked else ""),
        f"contained  in the models of {len(predicate['descendants'])} steps; "
        f"{len(predicate['purged']['models'])} removed, {len(predicate['purged']['kept'])} kept",
        *_messages(predicate["purged"].get("messages", {})),
        f"cost       {costs['rounds']} rounds of recovery, {costs['bytes_down'] + costs['bytes_up']} bytes",
        *(
            f"measured   {stage}: {_measures(predicate['measures'][stage])}"
            for stage in sorted(predicate["measures"], key=_order)
        ),
        f"verdict    {predicate['verdict']['text']}",
        *_test(predicate["verdict"].get("test")),
        *(f"limit      {text}" for text in predicate["limits"]),
    ]


def _test(test: Mapping[str, Any] | None) -> list[str]:
    """Return how the model was told from retrained ones; older receipts do not say, and were not tested either."""
    if not test or test["level"] is None:
        return ["test       none: nothing says how far the model is from one that never saw the data"]
    return [f"test       {test['name']}, level {test['level']:g}, power {test['power']:g}"]


def _messages(left: Mapping[str, Any]) -> list[str]:
    """Return what is left of messages in the server's database; older receipts do not say."""
    if not left:
        return []
    if left["remaining"] == 0 and left["overwritten"]:
        return ["messages   none is left in the server's database"]
    return [f"messages   parts of old ones may be left in the server's database: {left['reason']}"]


def _order(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def _measures(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in sorted(values.items()))


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def content_of(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def receipts_key(path: Path) -> Ed25519PublicKey:
    """Return the public key that a federation's receipts are signed with.

    Raises:
        InputError: it cannot be read, or is another kind of key.
    """
    try:
        key = load_pem_public_key(content_of(path))
    except ValueError as error:
        raise InputError(f"{path} is no public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} is not an Ed25519 key; the federation's is called receipts.pub")
    return key
