"""Make the receipt of a request from what the ledger holds."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedquit import __version__
from fedquit.client.receipts import sealed, statement
from fedquit.client.receipts.statement import limits_of
from fedquit.client.requests.signed_request import read_ask
from fedquit.errors import InputError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger, Request, Step, StepLine

MeasuresByStage = Mapping[str, Mapping[str, float]]
NOT_TESTED: Mapping[str, Any] = {"name": "none", "level": None, "power": None}
"""Where no retrained model is there to compare with, no test says how far the model is from one."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request, as far as the ledger does not know it.

    Attributes:
        unlearned: SHA-256 of the model right after forgetting.
        model: SHA-256 of the model after recovery.
        status: "done", or "unrecovered" if the model is not back at its goal.
        adopted: how other devices got the asking device's model: "direct", "deferred"; "none": there was none.
        clip: the norm to which the asking device was told to clip its step; 0: none. `noise`: the standard deviation of
            the noise that it was told to add to each weight, as a multiple of `clip`.
        exact: whether the method promises that these models never met the data; the ledger is asked whether it is so.
        settings: of the method, as given and as the run's local training fills them in.
        fallback: why another method than the federation's was used; "" if it was not.
        measures: by stage ("before", "unlearned", "after", ...), each by name.
        verdict: in words.
        thresholds: of the verdict.
        test: which test told the model from retrained ones, its level and its power, as `Verdict.test` has it.
        purged: SHA-256 of the models that were removed.
        kept: model -> why it was not removed.
        messages: what is left in Flower's database of messages, which carry models: see `message_store.Remains`; empty:
            there is no such database, or there was nothing to remove.
    """

    unlearned: str
    model: str
    status: str = "done"
    exact: bool = False
    adopted: str = "none"
    clip: float = 0.0
    noise: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    fallback: str = ""
    measures: MeasuresByStage = field(default_factory=dict)
    verdict: str = "not judged"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, Any] = field(default_factory=lambda: NOT_TESTED)
    purged: Sequence[str] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    messages: Mapping[str, Any] = field(default_factory=dict)


def make_receipt(
    ledger: Ledger, request_id: str, *, federation: Federation, key: Ed25519PrivateKey, outcome: Outcome, now: float
) -> bytes:
    """Return the signed receipt of a request that has recovered.

    Args:
        ledger: with the request and every step up to now.
        request_id: which request.
        federation: the server's config.
        key: of receipts.
        outcome: what the ledger does not know.
        now: Unix seconds.

    Raises:
        FedquitError: the outcome is called exact, and a model of it descends from the data.
    """
    request, own = ledger.request(request_id), ledger.steps(request=request_id)
    for model in (outcome.unlearned, outcome.model) if outcome.exact else ():
        ledger.check_exact(request, model)
    number, digest = ledger.head()
    predicate = {
        "federation": federation.name,
        "fedquit": __version__,
        "request": _asked(ledger, request, now),
        "status": outcome.status,
        "method": {
            "name": request.method,
            "settings": dict(outcome.settings),
            "fallback": outcome.fallback,
            "exact": outcome.exact,
            "adopted": outcome.adopted,
            "forget_clip": outcome.clip,
            "forget_noise": outcome.noise,
        },
        "models": {"before": request.model_before, "unlearned": outcome.unlearned, "after": outcome.model},
        "descendants": [_descendant(step) for step in ledger.descendants(request)],
        "purged": {"models": sorted(outcome.purged), "kept": dict(outcome.kept), "messages": dict(outcome.messages)},
        "costs": _costs(own),
        "measures": {stage: dict(values) for stage, values in outcome.measures.items()},
        "verdict": {
            "text": outcome.verdict,
            "recovered": outcome.status == "done",
            "thresholds": dict(outcome.thresholds),
            "test": dict(outcome.test),
        },
        "limits": limits_of(outcome.adopted, outcome.clip, outcome.noise, ask=read_ask(request.ask)),
        "log": {"event": number, "digest": digest},
    }
    return sealed(statement(outcome.model, predicate), key)


def read_receipts_key(path: Path) -> Ed25519PrivateKey:
    """Return the key that receipts are signed with.

    Raises:
        InputError: it is missing, or is another kind of key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; `fedquit provision` makes it") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not an Ed25519 key")
    return key


def _asked(ledger: Ledger, request: Request, now: float) -> dict[str, Any]:
    replaced, asker = ledger.replaced_keys(), ledger.member_by_key(request.asked_by)
    if asker is None and request.asked_by not in replaced:
        raise InputError(f"request {request.id[:16]}: the ledger does not know the key that asked")
    key = asker.key if asker else replaced[request.asked_by][1]
    void = asker is None or asker.status == "revoked"
    return {
        "id": request.id,
        "subject": _subject(ledger, request, replaced),
        "asked_by": request.asked_by,
        "granularity": request.granularity,
        "classes": list(request.classes),
        "samples_count": request.samples_count,
        "samples_digest": request.samples_digest,
        "asked_at": request.asked_at,
        "deadline": request.deadline,
        "done_at": now,
        "ask": base64.b64encode(request.ask).decode(),
        "signature": base64.b64encode(request.signature).decode(),
        "key": base64.b64encode(key).decode(),
        "key_revoked_at": ledger.revocations().get(request.asked_by) if void else None,
    }


def _subject(ledger: Ledger, request: Request, replaced: Mapping[str, tuple[int, bytes]]) -> str:
    """Return the fingerprint of whose data it is about: the one in the ask, though it may have been replaced since."""
    if replaced:
        ask = read_ask(request.ask)
        named = ask.subject or ask.identity
        if named in replaced and replaced[named][0] == request.subject:
            return named
    return ledger.member(request.subject).fingerprint


def _descendant(step: StepLine) -> dict[str, Any]:
    return {"step": step.number, "phase": step.phase, "model": step.model_after}


def _costs(steps: Sequence[Step]) -> dict[str, float]:
    return {
        "rounds": sum(step.phase == "recover" for step in steps),
        "bytes_down": sum(step.bytes_down for step in steps),
        "bytes_up": sum(step.bytes_up for step in steps),
        "seconds": round(sum(step.seconds for step in steps), 3),
        "device_seconds": round(sum(step.device_seconds for step in steps), 3),
    }
