"""What a receipt says, as lines for people."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fedquit.client.receipts.statement import Receipt
from fedquit.documents import counted
from fedquit.errors import BadReceiptError

STAGES = ("before", "unlearned", "after")
WHAT = {"client": "all its data", "sample": "{samples}", "class": "class {classes}"}


def lines(receipt: Receipt, *, model_checked: bool = False, samples_checked: bool = False) -> list[str]:
    """Return what a receipt says, for people.

    Args:
        receipt: that verified.
        model_checked: whether the model's file was compared with it.
        samples_checked: whether a list of samples was.

    Raises:
        BadReceiptError: its contents are not those of receipts of this version.
    """
    try:
        return _lines(receipt, model_checked=model_checked, samples_checked=samples_checked)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError):
        text = "the receipt is signed and unaltered, but this version cannot read all that it says; try a newer fedquit"
        raise BadReceiptError(text) from None


def _lines(receipt: Receipt, *, model_checked: bool, samples_checked: bool) -> list[str]:
    predicate, request = receipt.predicate, receipt.request
    what = WHAT[request["granularity"]].format(
        samples=counted(int(request["samples_count"]), "sample"), classes=", ".join(map(str, request["classes"]))
    )
    late = "after" if request["done_at"] > request["deadline"] else "before"
    method, costs = predicate["method"], predicate["costs"]
    exact = "; exact: neither model ever met the data" if method.get("exact") else ""
    ended = "forgotten, not recovered," if predicate.get("status") == "unrecovered" else "done      "
    return [
        f"verified: signed by the federation '{predicate['federation']}', and unaltered",
        f"request    {request['id']}",
        f"asked      {_when(request['asked_at'])} by {request['asked_by'][:16]}: "
        f"forget {what} of {request['subject'][:16]}" + (" (the given samples)" if samples_checked else ""),
        f"{ended} {_when(request['done_at'])}, {late} the deadline {_when(request['deadline'])}",
        f"method     {method['name']}" + (f" ({method['fallback']})" if method["fallback"] else "") + exact,
        f"model      before {predicate['models']['before']}",
        f"           after  {receipt.model}" + (" (the given file)" if model_checked else ""),
        f"contained  in the models of {counted(len(predicate['descendants']), 'step')}; "
        f"{len(predicate['purged']['models'])} removed, {len(predicate['purged']['kept'])} kept",
        *_messages(predicate["purged"].get("messages", {})),
        f"cost       {counted(costs['rounds'], 'round')} of recovery, {costs['bytes_down'] + costs['bytes_up']} bytes",
        *(
            f"measured   {stage}: {_measures(predicate['measures'][stage])}"
            for stage in sorted(predicate["measures"], key=_order)
        ),
        f"verdict    {predicate['verdict']['text']}",
        *_test(predicate["verdict"].get("test")),
        *(f"limit      {text}" for text in predicate["limits"]),
    ]


def _test(test: Mapping[str, Any] | None) -> list[str]:
    """Return which test compared the model with retrained ones; older receipts do not say, and had no test either."""
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
