"""What a device's record says, a row at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Content(Protocol):
    """What a sample is, in whatever form it is stored; see `fedquit.client.device.local_data.sample_content`."""

    @property
    def digests(self) -> frozenset[bytes]:
        """One of these is another sample's too where both are the same."""
        ...

    def former(self, label: str) -> frozenset[bytes]:
        """Return the digests that a record of before contents were noted may have of it."""
        ...


@dataclass(frozen=True, slots=True)
class Round:
    """A round that this device trained in.

    Attributes:
        federation: its name.
        run: Flower's number of the run.
        phase: "train", "recover", …
        number: the round's, as the server counts.
        model_in: SHA-256 of the model that came, as a safetensors file.
        model_out: of the model that was trained.
        num_examples: how many samples it was trained on.
        samples_digest: see `set_digest`; what the server got is the commitment to the same samples.
        at: Unix seconds.
    """

    federation: str
    run: str
    phase: str
    number: int
    model_in: str
    model_out: str
    num_examples: int
    samples_digest: str
    at: float


@dataclass(frozen=True, slots=True)
class Mark:
    """What a request is about, as far as this device goes.

    Attributes:
        request: its id.
        granularity: "client", "sample" or "class".
        digests: of the samples, for "sample".
        labels: the classes, as they are stored beside the samples, for "class".
        marked_at: Unix seconds.
        retired_at: when this device retired all of it; None: not yet.
    """

    request: str
    granularity: str
    digests: tuple[bytes, ...] = ()
    labels: tuple[str, ...] = ()
    marked_at: float = 0.0
    retired_at: float | None = None


PASSING = ("", "quota", "stale")
"""Refusals after which a later try may be taken; "": the server has not refused it."""
SIGNINGS = 6
"""How often an ask is signed before the device gives up."""


@dataclass(frozen=True, slots=True)
class Ask:
    """An ask that waits to ride in a reply.

    Attributes:
        number: in the order they were put.
        granularity: "client" or "sample".
        digests: of the samples.
        note: for people.
        put_at: Unix seconds.
        request: the id that it has since it was signed; "" before.
        ask: its exact bytes since then.
        signature: over them.
        signed_at: Unix seconds.
        signings: how often it was signed again, because the server did not acknowledge it.
        refused: why the server did not take it, a code of docs/asking.md; "": it has not said.
    """

    number: int
    granularity: str
    digests: tuple[bytes, ...]
    note: str
    put_at: float
    request: str = ""
    ask: bytes = b""
    signature: bytes = b""
    signed_at: float = 0.0
    signings: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The result of a forget step: the model, and what is reported of it to the server.

    Attributes:
        state: the model.
        num_examples: samples that were forgotten.
        loss: of the last epoch.
        metrics: further numbers.
    """

    state: "Mapping[str, Tensor]"
    num_examples: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
