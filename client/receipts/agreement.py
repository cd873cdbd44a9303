"""Does a receipt agree with the ask that it carries, and with itself?

Its signature shows who states it, not that the signer is honest. What was asked is fixed by somebody else's signature:
the ask in the receipt fixes the federation, whose data, by whom, what, and when. What the server alone states must at
least fit together: one model, one order of times, and a model that is none of those that contained the data.
"""

import base64
import math
from collections.abc import Iterator, Mapping
from typing import Any

from fedquit.client.receipts.envelope import canonical
from fedquit.client.requests.keys import fingerprint
from fedquit.client.requests.proto.forget_pb2 import Ask
from fedquit.client.requests.signed_request import LONGEST_FRESH, Signed, is_from, read_ask
from fedquit.errors import BadReceiptError

MISMATCH = "the receipt says {name} {stated!r}, and what was asked says {asked!r}"


def check_agreement(model: str, predicate: Mapping[str, Any]) -> None:
    """Check a receipt against the ask that it carries, and against itself.

    Args:
        model: SHA-256 of the model that the statement is about.
        predicate: all else that it states.

    Raises:
        BadReceiptError: naming the first thing that does not fit.
    """
    ask = _ask_in(predicate)
    try:
        wrong = next(_wrong(model, predicate, ask), "")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadReceiptError(f"the receipt says other things than this version reads ({error!r})") from None
    if wrong:
        raise BadReceiptError(wrong)


def _ask_in(predicate: Mapping[str, Any]) -> Ask:
    """Return the ask in a receipt, once it is known to be signed by the one who is said to have asked."""
    try:
        stated = dict(predicate["request"])
        exact, signature, key = (base64.b64decode(stated[name], validate=True) for name in ("ask", "signature", "key"))
        ask = read_ask(exact)
    except (ValueError, KeyError, TypeError) as error:
        raise BadReceiptError(f"the receipt carries no ask that can be read: {error}") from None
    signed = Signed(exact, signature)
    if signed.id != stated.get("id"):
        raise BadReceiptError("the ask in the receipt is not the request that the receipt is for")
    if fingerprint(key) != ask.identity or not is_from(signed, key):
        raise BadReceiptError("the ask in the receipt is not signed by the one who is said to have asked")
    return ask


def _wrong(model: str, predicate: Mapping[str, Any], ask: Ask) -> Iterator[str]:
    """Say what does not fit."""
    request = predicate["request"]
    fixed = {
        "federation": (predicate["federation"], ask.federation),
        "subject": (request["subject"], ask.subject or ask.identity),
        "asked_by": (request["asked_by"], ask.identity),
        "granularity": (request["granularity"], ask.granularity),
        "classes": (request["classes"], list(ask.classes)),
        "samples_count": (request["samples_count"], ask.samples_count),
        "samples_digest": (request["samples_digest"], ask.samples_digest),
    }
    for name, (stated, asked) in fixed.items():
        if canonical(stated) != canonical(asked):
            yield MISMATCH.format(name=name, stated=stated, asked=asked)
    yield from _wrong_times(request, ask.created_at)
    yield from _wrong_models(model, predicate)


def _wrong_times(request: Mapping[str, Any], signed_at: int) -> Iterator[str]:
    """Say which times cannot be: an ask is taken soon after it was signed, must be done later, and is done later."""
    times = {name: request[name] for name in ("asked_at", "deadline", "done_at")}
    if request.get("key_revoked_at") is not None:  # receipts of 0.1.0 do not say
        times["key_revoked_at"] = request["key_revoked_at"]
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield f"the receipt says {name} {value!r}, which is no time"
            return
    off = times["asked_at"] - signed_at
    if abs(off) > LONGEST_FRESH:
        when = "later" if off > 0 else "earlier"
        yield (
            f"the receipt says that the ask was taken {abs(off):.0f} s {when} than it was signed; "
            f"no server takes one that is more than {LONGEST_FRESH:.0f} s off"
        )
    revoked = times.get("key_revoked_at", math.inf)
    if revoked <= times["asked_at"]:
        yield f"the key that asked was revoked at {revoked!r}, and the ask taken at {times['asked_at']!r}"
    for name in ("deadline", "done_at"):
        if times[name] < times["asked_at"]:
            yield f"the receipt says {name} {times[name]!r}, which is before it was asked ({times['asked_at']!r})"


def _wrong_models(model: str, predicate: Mapping[str, Any]) -> Iterator[str]:
    """Say which models cannot be: the one that is handed over contains nothing of the data and was not removed."""
    models, purged = predicate["models"], predicate["purged"]
    steps = [(step["step"], step["model"]) for step in predicate["descendants"]]
    numbers, contained = [number for number, _ in steps], [name for _, name in steps]
    if models["after"] != model:
        yield f"the receipt is for model {model}, and says that the request ended with {models['after']!r}"
    if any(type(number) is not int or number < 1 for number in numbers) or numbers != sorted(set(numbers)):
        yield "the steps whose models contained the data are not in their order"
    if contained and models["before"] != contained[-1]:
        yield f"the model before the request is {models['before']!r}, and the last that contained it {contained[-1]!r}"
    if model in contained:
        yield f"the request ended with model {model}, which is one of those that contained the data"
    if model in purged["models"]:
        yield f"the request ended with model {model}, which the receipt says was removed"
    both = sorted(set(purged["models"]) & set(purged["kept"]))
    if both:
        yield f"the receipt says of model {both[0]} that it was removed and that it was kept"
