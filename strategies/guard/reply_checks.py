"""What a reply must be before it may touch the model.

Stock FedAvg adopts NaN, infinities, broadcast shapes and absurd sample counts. A reply that fails here is
left out of the round, with its sender and the reason named; the round continues.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import NDArray

from fedquit.client.compression.codecs import Slot, read_npy
from fedquit.errors import BadReplyError, InputError
from fedquit.strategies.message_content import records_of
from fedquit.unlearning.tensors.convert import Shape

SHA256 = re.compile("[0-9a-f]{64}")
MAX_EXAMPLES = 10**9
LARGEST = 1e100
SERIALISED = "numpy.ndarray"
SLACK = 2048
"""Bytes that an array's file may have besides its numbers."""


class HasForm(Protocol):
    """What an array is: an array of Flower's, or what it would be."""

    @property
    def dtype(self) -> Any:
        """Its dtype, or the name of it."""

    @property
    def shape(self) -> Shape:
        """Its shape."""


Forms = Mapping[str, HasForm]


UNAVAILABLE = "unavailable: "
"""How the reason begins where no reply came at all: that is no fault of what it says."""
RAISED = re.compile(r"<class '(?:[\w.]*\.)?(?P<kind>\w+)'>:<'(?P<text>.*)'>")
"""How Flower writes an exception that a ClientApp raised."""
NO_REPLY = frozenset({3, 4, 5, 900})
"""Codes of errors that stand in for a reply: Flower's, of a message or node that is gone, and that of `metered`."""


def checked_content(message: Message) -> None:
    """Refuse an error reply.

    Raises:
        BadReplyError: saying what it says; it begins with `UNAVAILABLE` where it stands in for a reply that never came.
    """
    if message.has_error():
        code, said = message.error.code, " ".join((message.error.reason or "").split())
        raise BadReplyError(f"{UNAVAILABLE if code in NO_REPLY else ''}{_plain(said) or f'error {code}'}")


def _plain(reason: str) -> str:
    """Return the reason of an error reply without Flower's and Python's marks; of our errors, the text says all.

    >>> _plain("<class 'fedquit.errors.InputError'>:<'no data'>"), _plain("<class 'KeyError'>:<''w''>")
    ('no data', "KeyError: 'w'")
    """
    found = RAISED.fullmatch(reason)
    if found is None:
        return reason
    return found["text"] if "'fedquit.errors." in reason[: found.start("text")] else f"{found['kind']}: {found['text']}"


def checked_arrays(
    message: Message, expected: Forms | Callable[[Mapping[str, Shape]], Forms]
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a reply that fit `expected` in names, shapes and dtypes and are finite.

    Args:
        message: the reply.
        expected: what they must be; or from the shapes that they claim to that, where a sender has a choice.

    Raises:
        BadReplyError: an error reply, or arrays that do not fit.
    """
    checked_content(message)
    records = records_of(message, ArrayRecord)
    if len(records) != 1:
        raise BadReplyError(f"{len(records)} array records where one is expected")
    record = records[0]
    forms = expected({name: tuple(array.shape) for name, array in record.items()}) if callable(expected) else expected
    check_names(record, forms)
    return {name: _checked(name, record[name], form) for name, form in forms.items()}


def check_model(arrays: Mapping[str, NDArray[Any]], forms: Forms) -> None:
    """Refuse arrays that do not fit `forms` in names, shapes and dtypes, or are not finite, as `checked_arrays` does.

    Raises:
        BadReplyError: they do not fit.

    >>> check_model({"w": np.ones(2)}, {"w": np.zeros(2)})
    """
    check_forms(arrays, forms)
    for name in forms:
        check_finite(name, arrays[name])


def check_forms(arrays: Mapping[str, NDArray[Any]], forms: Forms) -> None:
    """Refuse arrays that do not fit `forms` in names, shapes and dtypes, whatever they hold.

    Raises:
        BadReplyError: they do not fit.
    """
    check_names(arrays, forms)
    for name, form in forms.items():
        array = arrays[name]
        if array.shape != tuple(form.shape) or array.dtype != form.dtype:
            raise BadReplyError(f"'{name}' is {array.dtype} {array.shape}, not {form.dtype} {tuple(form.shape)}")


def check_names(names: Mapping[str, object], forms: Forms) -> None:
    """Refuse other arrays than expected.

    Raises:
        BadReplyError: naming some of them.
    """
    if set(names) != set(forms):
        raise BadReplyError(f"other arrays than expected: {_difference(names, forms)}")


def check_finite(name: str, array: NDArray[Any]) -> None:
    """Refuse an array that holds NaN or infinity.

    Raises:
        BadReplyError: it does.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadReplyError(f"'{name}' holds NaN or infinity")


def _checked(name: str, claimed: Array, form: HasForm) -> NDArray[Any]:
    """Return an array that is of this form, whatever it claims, and finite."""
    shape, wanted = tuple(form.shape), f"{form.dtype} {tuple(form.shape)}"
    most = math.prod(shape) * np.dtype(form.dtype).itemsize + SLACK
    if tuple(claimed.shape) != shape or claimed.dtype != form.dtype or len(claimed.data) > most:
        raise BadReplyError(f"'{name}' is {claimed.dtype} {tuple(claimed.shape)}, not {wanted}")
    if claimed.stype != SERIALISED:
        raise BadReplyError(f"'{name}' is serialised as {claimed.stype!r}, not as {SERIALISED!r}")
    try:
        array = read_npy(name, claimed.data, Slot(form.dtype, shape)).copy()
    except InputError as error:
        raise BadReplyError(str(error)) from None
    check_finite(name, array)
    return array


def checked_metrics(message: Message) -> tuple[int, dict[str, float]]:
    """Return the number of samples of a reply, and its other metrics.

    Raises:
        BadReplyError: a count that is no integer in 1..10^9, or a metric that is not a finite number.
    """
    records = records_of(message, MetricRecord)
    if len(records) != 1:
        raise BadReplyError(f"{len(records)} metric records where one is expected")
    return checked_numbers(records[0])


def checked_numbers(said: Mapping[str, object]) -> tuple[int, dict[str, float]]:
    """Return the number of samples among the metrics of a reply, and the others.

    Raises:
        BadReplyError: a count that is no integer in 1..10^9, or a metric that is not a finite number.

    >>> checked_numbers({"num-examples": 3, "loss": 0.5})
    (3, {'loss': 0.5})
    """
    metrics = dict(said)
    count = metrics.pop("num-examples", None)
    if not isinstance(count, int) or not 1 <= count <= MAX_EXAMPLES:
        raise BadReplyError(f"num-examples is {count!r}, not an integer in 1..{MAX_EXAMPLES}")
    numbers = {}
    for name, value in metrics.items():
        if not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
            raise BadReplyError(f"metric '{name}' is {value!r}, not a finite number")
        numbers[name] = float(value)
    return count, numbers


def ask_in(message: Message) -> tuple[bytes, bytes] | None:
    """Return the ask to be forgotten that a reply carries, and its signature; None: it carries none.

    Raises:
        BadReplyError: it carries something else by that name.
    """
    record = message.content.get("ask") if message.has_content() else None
    if not isinstance(record, ConfigRecord):
        return None
    ask, signature = record.get("ask"), record.get("signature")
    if not isinstance(ask, bytes) or not isinstance(signature, bytes):
        raise BadReplyError("its ask to be forgotten cannot be read")
    return ask, signature


def samples_digest_in(message: Message) -> str:
    """Return the commitment of a reply to the samples that it used; "" if there is none that looks like a SHA-256."""
    for record in records_of(message, ConfigRecord):
        digest = record.get("samples-digest")
        if isinstance(digest, str) and SHA256.fullmatch(digest):
            return digest
    return ""


def _difference(record: Mapping[str, object], expected: Mapping[str, object]) -> str:
    missing, extra = sorted(set(expected) - set(record)), sorted(set(record) - set(expected))
    return "; ".join(
        f"{word} {', '.join(names[:3])}" for word, names in (("missing", missing), ("unexpected", extra)) if names
    )
