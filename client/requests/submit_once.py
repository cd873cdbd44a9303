"""Ask once: what is asked is kept before it is sent, sent again while there is no answer, and never made twice."""

import time
from collections.abc import Callable, Collection, Iterator

from fedquit.client.device.local_data.samples_commitment import set_digest
from fedquit.client.requests import outbox
from fedquit.client.requests.channel import LAST, PATIENCE, ForgetService
from fedquit.client.requests.keys import FINGERPRINT
from fedquit.client.requests.proto.forget_pb2 import Change, Request, Submitted
from fedquit.client.requests.service_errors import BUSY
from fedquit.client.requests.signed_request import Granularity, Signed, make_ask
from fedquit.errors import FedquitError, InputError, RefusedError, TimedOutError, UnreachableError, UnrecoveredError


def ask_once(
    service: ForgetService,
    granularity: Granularity = "client",
    *,
    subject: str = "",
    classes: Collection[int] = (),
    samples: Collection[bytes] = (),
    salt: bytes = b"",
    note: str = "",
    before_sending: Callable[[str], None] = lambda _request: None,
) -> Submitted:
    """Ask for something to be forgotten; return what the service has of it.

    Args:
        service: where to ask.
        granularity: "client", "sample" or "class".
        subject: fingerprint of the device, for an operator.
        classes: for "class".
        samples: digests, for "sample".
        salt: of the commitment to them, see `make_ask`; the same for the same samples, or one ask becomes two.
        note: for people.
        before_sending: called with the id before the ask is sent: it marks what the request is about.

    Raises:
        RefusedError: the service does not take it.
        UnreachableError, TimedOutError: there is no answer; the ask is kept, and sent again by the next call like this.
    """

    def newly_signed() -> Signed:
        return make_ask(
            service.key,
            service.kit.federation,
            granularity,
            subject=subject,
            classes=classes,
            samples=samples,
            salt=salt,
            note=note,
        )

    signed, plain = newly_signed(), set_digest(samples) if samples else ""
    old = outbox.waiting_like(service.kit, signed, plain=plain)
    done = outbox.answered_like(service.kit, signed, plain=plain)
    for trial in [*([old] if old else []), *done, signed]:
        outbox.keep(service.kit, trial)
        before_sending(trial.id)
        try:
            answer = service.submit(trial)
        except RefusedError as error:
            if error.code == BUSY:
                raise
            outbox.drop(service.kit, trial)
            if trial is not signed and error.code == "stale":
                continue  # too old to be taken, and not known: it never arrived, or the service is an older copy
            raise
        except (UnreachableError, TimedOutError) as error:
            kind = type(error)
            raise kind(f"{error}. The ask is kept in {service.kit.folder}: the same command sends it again") from error
        outbox.answered(service.kit, trial)
        if trial not in done or answer.request.status not in ("refused", "failed"):
            return answer
    raise AssertionError("a new ask was neither taken nor refused")


def follow(service: ForgetService, request: str, *, seconds: float = float("inf")) -> Iterator[Change]:
    """Yield the states of a request as it comes into them, to the last.

    Raises:
        TimedOutError: `seconds` are over before that.
        FedquitError: the request was refused or has failed.
        UnrecoveredError: the data is forgotten, and the model did not recover.
    """
    last, begin = "", time.monotonic()
    for change in service.watch(request, seconds=seconds):
        yield change
        last = change.status
        if last in ("refused", "failed"):
            raise FedquitError(f"request {request[:12]} was {last}: {change.reason or 'no reason was given'}")
    if last == "unrecovered":
        raise UnrecoveredError(
            f"request {request[:12]} is unrecovered: the data is forgotten, but the model is not back at its goal; its "
            "receipt says why, and training continues"
        )
    if last not in LAST:
        waited = time.monotonic() - begin
        raise TimedOutError(
            f"request {request[:12]} is {last or 'not seen'} after {waited:.0f} s; it continues at the server"
        )


def ended(service: ForgetService, request: str, *, seconds: float = PATIENCE) -> Request:
    """Return a request that was followed to its end; a service that is away just then is waited for.

    Raises:
        UnreachableError: it is not back after `seconds` seconds.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return service.status(request)
        except UnreachableError:
            if time.monotonic() >= end:
                raise
            time.sleep(min(1.0, seconds))


def resolve(service: ForgetService, text: str) -> str:
    """Return the id that begins with `text`, among the requests that this member may see.

    Raises:
        InputError: none begins so, or several do.
    """
    start = text.lower()
    if FINGERPRINT.fullmatch(start):
        return start
    if len(start) < 6 or set(start) - set("0123456789abcdef"):
        raise InputError(f"'{text}' is not a request id; give its hex digits, 6 at least")
    found, before = [], ""
    while True:
        page = service.requests(before=before)
        found += [one.id for one in page.requests if one.id.startswith(start)]
        if not page.more:
            break
        before = page.requests[-1].id
    if len(found) != 1:
        how = "no request of this kit begins" if not found else f"{len(found)} requests of this kit begin"
        raise InputError(f"{how} with {text}; 'fedquit requests {service.kit.folder}' lists them")
    return found[0]
