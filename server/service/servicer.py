"""The five calls of the forget service, from raw bytes to answers; whatever is wrong ends in a refusal with a code."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from fedquit.client.requests import signed_request
from fedquit.client.requests.proto.forget_pb2 import Change, Page, RequestId, Requests, SignedReceipt, Submitted
from fedquit.client.requests.proto.forget_pb2 import Request as RequestMessage
from fedquit.client.requests.service_errors import CODE
from fedquit.errors import FedquitError, MalformedError, RefusalError
from fedquit.server.ledger import ENDS, Ledger, Member, Request
from fedquit.server.service.admission import Rules, admit
from fedquit.server.service.callers import FRESH, caller, visible
from fedquit.server.service.limits import Once, Rate, Seats
from fedquit.server.service.messages import as_message, changes, page_of
from fedquit.server.service.refusal import audit, revoked, slow_down

LOG = logging.getLogger("fedquit.forget-service")
LONGEST_WATCH = 900.0  # seconds; then the client calls again
BETWEEN_LOOKS = 0.5  # seconds
S = grpc.StatusCode
STATUS = {
    "malformed": S.INVALID_ARGUMENT,
    "too-large": S.INVALID_ARGUMENT,
    "unknown-member": S.UNAUTHENTICATED,
    "bad-signature": S.UNAUTHENTICATED,
    "revoked": S.UNAUTHENTICATED,
    "no-proof": S.UNAUTHENTICATED,
    "replayed": S.UNAUTHENTICATED,
    "wrong-federation": S.PERMISSION_DENIED,
    "not-yours": S.PERMISSION_DENIED,
    "operators-only": S.PERMISSION_DENIED,
    "devices-only": S.PERMISSION_DENIED,
    "unknown-subject": S.NOT_FOUND,
    "unknown-class": S.NOT_FOUND,
    "no-such-request": S.NOT_FOUND,
    "stale": S.FAILED_PRECONDITION,
    "nothing-contributed": S.FAILED_PRECONDITION,
    "not-yet": S.FAILED_PRECONDITION,
    "quota": S.RESOURCE_EXHAUSTED,
    "slow-down": S.RESOURCE_EXHAUSTED,
}
Read = TypeVar("Read", bound=Message)
Answer = TypeVar("Answer")


class Servicer:
    """Answers calls from a ledger; many threads may call at once.

    Args:
        ledger: what it answers from.
        rules: what asks are taken.
        rate: how often one connection may call.
        seats: how many may watch.
        clock: Unix seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        rules: Rules,
        *,
        rate: Rate | None = None,
        seats: Seats | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger, self._rules, self._clock = ledger, rules, clock
        self._rate = rate or Rate(burst=30, each_second=5.0)
        self._seats = seats or Seats(in_all=32, of_each=4)
        self._once = Once(seconds=2 * FRESH)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the watches; their clients call again."""
        self._stopping.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the calls as gRPC serves them: requests come as bytes, so that their size is looked at first."""
        unary = {"Submit": self.submit, "Status": self.status, "Receipt": self.receipt, "List": self.list}
        calls: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(call, response_serializer=_serialised)
            for name, call in unary.items()
        }
        calls["Watch"] = grpc.unary_stream_rpc_method_handler(self.watch, response_serializer=_serialised)
        return grpc.method_handlers_generic_handler("fedquit.v1.Forget", calls)

    def submit(self, content: bytes, context: grpc.ServicerContext) -> Submitted:
        """Take an ask."""

        def answer() -> Submitted:
            signed = _read_signed(content)
            done = admit(self._ledger, signed, self._rules, now=self._clock(), came_from=context.peer())
            if not done.known:
                LOG.info("request %s was asked", done.request.id[:12])
            return Submitted(request=as_message(self._ledger, done.request), known=done.known)

        return self._answered(context, answer)

    def status(self, content: bytes, context: grpc.ServicerContext) -> RequestMessage:
        """Say where a request is."""

        def answer() -> RequestMessage:
            return as_message(self._ledger, self._seen("Status", content, context)[1])

        return self._answered(context, answer)

    def receipt(self, content: bytes, context: grpc.ServicerContext) -> SignedReceipt:
        """Give the receipt of a request."""

        def answer() -> SignedReceipt:
            member, request = self._seen("Receipt", content, context)
            if request.receipt is None:
                text = f"request {request.id[:12]} is {request.status} and has no receipt"
                raise RefusalError("not-yet", text if request.status in ENDS else f"{text} yet", member=member.number)
            return SignedReceipt(id=request.id, receipt=request.receipt)

        return self._answered(context, answer)

    def list(self, content: bytes, context: grpc.ServicerContext) -> Requests:
        """List the requests that the caller may see."""

        def answer() -> Requests:
            page = _read(Page, content)
            return page_of(self._ledger, self._caller("List", "", context), page)

        return self._answered(context, answer)

    def watch(self, content: bytes, context: grpc.ServicerContext) -> Iterator[Change]:
        """Tell each state of a request from the first to its last, for a while."""
        with contextlib.ExitStack() as seat:

            def begin() -> tuple[Member, str]:
                member, request = self._seen("Watch", content, context)
                seat.enter_context(self._seats.taken(member.fingerprint))
                return member, request.id

            (member, request), after = self._answered(context, begin), 0
            end = time.monotonic() + LONGEST_WATCH
            while context.is_active() and not self._stopping.is_set() and time.monotonic() < end:
                look = partial(self._changes, member, request, after)
                for change in self._answered(context, look, counted=False):
                    after = change.number
                    yield change
                    if change.status in ENDS:
                        return
                self._stopping.wait(BETWEEN_LOOKS)

    def _changes(self, member: Member, request: str, after: int) -> Sequence[Change]:
        """Return what is new of a request, unless the key of the one who watches was revoked meanwhile."""
        if self._ledger.member(member.number).status == "revoked":
            raise revoked(member)
        return changes(self._ledger, request, after)

    def _seen(self, method: str, content: bytes, context: grpc.ServicerContext) -> tuple[Member, Request]:
        """Return who calls, and the request that the call is about."""
        request = _read(RequestId, content).id
        member = self._caller(method, request, context)
        return member, visible(self._ledger, member, request)

    def _caller(self, method: str, request: str, context: grpc.ServicerContext) -> Member:
        return caller(
            self._ledger,
            context.invocation_metadata(),
            self._once,
            federation=self._rules.federation,
            method=method,
            request=request,
            now=self._clock(),
        )

    def _answered(self, context: grpc.ServicerContext, answer: Callable[[], Answer], *, counted: bool = True) -> Answer:
        """Return the answer, or end the call with what went wrong, in words that give nothing away."""
        try:
            if counted and not self._rate.allows(context.peer(), now=time.monotonic()):
                raise slow_down("too many calls")
            return answer()
        except RefusalError as refusal:
            self._audit(refusal, context.peer())
            code, text, status = refusal.code, str(refusal), STATUS[refusal.code]
        except FedquitError as error:
            LOG.warning("the ledger cannot be used: %s", error)
            code, text, status = "", "the ledger cannot be used at the moment; try again later", S.UNAVAILABLE
        except Exception:
            LOG.exception("this is a bug in fedquit; please report it")
            code, text, status = "", "a bug in the service; its log has the lines", S.INTERNAL
        return _end(context, status, text, code)

    def _audit(self, refusal: RefusalError, peer: str) -> None:
        try:
            audit(self._ledger, refusal, {"from": peer})
        except FedquitError as error:
            LOG.warning("refused (%s), and it cannot be recorded in the ledger: %s", refusal.code, error)


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


def _end(context: grpc.ServicerContext, status: grpc.StatusCode, text: str, code: str) -> NoReturn:
    if code:
        context.set_trailing_metadata(((CODE, code),))
    context.abort(status, text)
    raise AssertionError("gRPC's abort returned")


def _read_signed(content: bytes) -> signed_request.Signed:
    """Read what was submitted; what is too large is not looked into."""
    if len(content) > signed_request.LARGEST:
        raise RefusalError("too-large", f"the ask has {len(content)} bytes; at most {signed_request.LARGEST} are read")
    try:
        return signed_request.read_signed(content)
    except MalformedError as error:
        raise RefusalError("malformed", str(error)) from error


def _read(kind: type[Read], content: bytes) -> Read:
    """Read the message of a call that reads."""
    message = kind()
    try:
        if len(content) > signed_request.LARGEST:
            raise DecodeError
        message.ParseFromString(content)
    except DecodeError as error:
        raise RefusalError("malformed", f"these bytes are no {kind.__name__}") from error
    return message
