"""What a receipt states, as an in-toto statement: its subject is the model, its predicate the request and its outcome.

The payload is JSON; see docs/receipts.md for every field. A receipt carries the signed ask itself, so that whoever
asked can see that nothing else was done in their name.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedquit.client.device.local_data.samples_commitment import commitment, set_digest
from fedquit.client.receipts.agreement import check_agreement
from fedquit.client.receipts.envelope import canonical, unsealed
from fedquit.client.receipts.game_bound import game_bound
from fedquit.client.requests.proto.forget_pb2 import Ask
from fedquit.client.requests.signed_request import PLAIN, SALTED, read_ask
from fedquit.errors import BadReceiptError

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:fedquit:receipt:v1"
"""The kind of statement that a receipt is."""
REQUIRED = ("federation", "request", "method", "models", "descendants", "costs", "measures", "verdict", "limits", "log")

LIMITS = (
    "Forgetting is approximate: this is evidence that the model was changed as stated, not a proof that nothing of the "
    "data is left in it.",
    "Whoever kept a model from before the request still has it; this federation removed its own copies as listed.",
    "The figures measured on devices are what those devices reported.",
    "The signature shows who states this and that it was not altered since, not that the signer is honest.",
)
"""What a receipt cannot promise, in words; every receipt says it."""
SEEN_BY_SERVER = (
    "The server saw the model before the request and what the asking device returned. From the two it could tell "
    "which classes were forgotten, roughly how many samples of each, and, of candidates, which."
)
NOISY = (
    "The asking device was told to clip its step to the norm {clip:g} and to add Gaussian noise of {noise:g} times "
    "that to each weight. From that model alone nobody, the server included, then tells which of two candidate sets "
    "was forgotten with an area under the ROC curve above {bound:.2f} (0.5: guessing). This is not differential "
    "privacy of the samples, and that the noise was added rests on the device."
)
"""In place of `SEEN_BY_SERVER` where the device adds noise."""
SEEN_IN_ASK = {
    SALTED: "The digest of the samples is salted: without the salt, which the device keeps, nobody can tell from it "
    "which they were, even if they have them. Whoever reads the ask or this receipt learns how many there were.",
    PLAIN: "The digest of the samples is a plain SHA-256 (ask of version 1): whoever reads the ask or this receipt, "
    "and has the very bytes of the candidates, can tell which of them were forgotten.",
}
"""What the ask itself tells where it is about samples, by its version."""
SEEN_BY_DEVICES = {
    "direct": "Every device of the first round of recovery was sent what came of that, and could tell as much.",
    "deferred": "Other devices were sent the sum of that and a round of training. With FedQUIT this hides the classes "
    "from a device that only looks; with some other methods it does not. It does not hide which of a few candidates "
    "was forgotten from a device that has them.",
    "none": "",
}
"""Who could tell what was forgotten, by how the model was adopted; "none": nothing was handed back."""


def limits_of(adopted: str, clip: float = 0.0, noise: float = 0.0, *, ask: Ask | None = None) -> list[str]:
    """Return what a receipt cannot promise.

    Args:
        adopted: a key of `SEEN_BY_DEVICES`.
        clip: the norm to which the asking device clipped its step; 0: it did not.
        noise: standard deviation of the noise that it added to each weight, as a multiple of `clip`.
        ask: what was asked; it may hold a digest of samples.

    >>> len(limits_of("direct")) - len(limits_of("none"))
    2
    >>> "above 0.64" in limits_of("direct", clip=0.1, noise=4.0)[-2]
    True
    """
    limits = [*LIMITS, SEEN_IN_ASK[ask.version]] if ask and ask.samples_digest else list(LIMITS)
    if adopted == "none":
        return limits
    seen = NOISY.format(clip=clip, noise=noise, bound=game_bound(noise)) if noise else SEEN_BY_SERVER
    return [*limits, seen, SEEN_BY_DEVICES[adopted]]


def statement(model: str, predicate: Mapping[str, Any]) -> bytes:
    """Return the payload of a receipt.

    Args:
        model: SHA-256 of the file of the model that the request ended with.
        predicate: everything else.

    >>> json.loads(statement("00", {"federation": "clinics"}))["subject"]
    [{'digest': {'sha256': '00'}, 'name': 'model'}]
    """
    return canonical(
        {
            "_type": STATEMENT,
            "subject": [{"name": "model", "digest": {"sha256": model}}],
            "predicateType": PREDICATE,
            "predicate": dict(predicate),
        }
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt that verified.

    Attributes:
        model: SHA-256 of the model that the request ended with.
        predicate: what was asked, what was done, what it cost, what was measured, and what that cannot promise.
    """

    model: str
    predicate: Mapping[str, Any]

    @property
    def request(self) -> Mapping[str, Any]:
        """What was asked."""
        request: Mapping[str, Any] = self.predicate["request"]
        return request

    def __str__(self) -> str:
        """Return what the receipt says, as lines for people."""
        from fedquit.client.receipts.receipt_text import lines

        return "\n".join(lines(self))

    @property
    def salted(self) -> bool:
        """Whether the digest of the samples in it is salted: in asks of version 2."""
        return read_ask(base64.b64decode(self.request["ask"])).version == SALTED

    def check_samples(self, digests: Collection[bytes], salt: bytes) -> None:
        """Check that the request was about exactly these samples.

        Args:
            digests: of the samples, 32 bytes each.
            salt: that the device drew for them; not used where the digest in the receipt is not salted.

        Raises:
            BadReceiptError: it was about others, or not about samples.
        """
        held = self.request["samples_digest"]
        if not held:
            raise BadReceiptError(
                f"the receipt is about a {self.request['granularity']}, not about samples: leave out --samples"
            )
        found = commitment(digests, salt) if self.salted else set_digest(digests)
        if found != held:
            kind = "salted digest" if self.salted else "digest"
            raise BadReceiptError(
                f"the receipt is not about these {len(set(digests))} samples: their {kind} is {found}, and the receipt "
                f"has {held}"
            )

    def check_model(self, content: bytes) -> None:
        """Check that a file is the model of this receipt.

        Raises:
            BadReceiptError: it is another one.
        """
        found = hashlib.sha256(content).hexdigest()
        if found != self.model:
            raise BadReceiptError(f"the model's SHA-256 is {found}, and the receipt is for {self.model}")


def read_receipt(envelope: bytes, key: Ed25519PublicKey) -> Receipt:
    """Return what a receipt says, once it is known to be whole and signed by `key`.

    Raises:
        BadReceiptError: it does not verify, is the receipt of something else, or contradicts the ask that it carries.
    """
    try:
        document = json.loads(unsealed(envelope, key))
        kind, written, predicate = document["predicateType"], document["_type"], dict(document["predicate"])
        (subject,) = document["subject"]
        model, missing = subject["digest"]["sha256"], [name for name in REQUIRED if name not in predicate]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadReceiptError("what was signed is not a statement about one model") from None
    if kind != PREDICATE or written != STATEMENT:
        raise BadReceiptError(f"this is a statement of another kind ({kind}); a newer fedquit may read it")
    if missing:
        raise BadReceiptError(f"the receipt does not say: {', '.join(missing)}")
    receipt = Receipt(str(model), predicate)
    check_agreement(receipt.model, predicate)
    return receipt
