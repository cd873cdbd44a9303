"""The client of the forget service: one connection with TLS, calls that prove who calls, errors in plain words."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from fedquit.client.kit import Kit
from fedquit.client.receipts.envelope import LARGEST as LARGEST_RECEIPT
from fedquit.client.requests.call_auth import prove
from fedquit.client.requests.keys import PrivateKey, read_private
from fedquit.client.requests.proto.forget_pb2 import Change, Page, Request, RequestId, Requests, SignedAsk, Submitted
from fedquit.client.requests.proto.forget_pb2_grpc import ForgetStub
from fedquit.client.requests.service_errors import BUSY, in_plain_words, wait_before_another_try
from fedquit.client.requests.signed_request import Signed
from fedquit.errors import InputError, RefusedError, UnreachableError

DEADLINE = 30.0  # seconds that one call may take, with all its tries
LAST = ("done", "unrecovered", "refused", "failed")  # the states that a request stays in
PATIENCE = 300.0  # seconds for which a watch tries to reach a service that it has reached before
OPTIONS = (
    ("grpc.enable_retries", 0),  # a proof serves once: we try again with a new one
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.max_receive_message_length", LARGEST_RECEIPT + 4096),  # gRPC's own limit is that of 20,000 rounds
)


@dataclass
class ForgetService:
    """A connection to the forget service, as a member; use it as a context.

    Attributes:
        kit: where the service is, and who calls.
        deadline: seconds that one call may take.
        key_file: the key with which the member calls; None: the kit's.

    Every call raises RefusedError, UnreachableError or TimedOutError when the service does not do it.
    """

    kit: Kit
    deadline: float = DEADLINE
    key_file: Path | None = None
    key: PrivateKey = field(init=False, repr=False)
    _channel: grpc.Channel = field(init=False, repr=False)
    _stub: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.key = read_private(self.key_file or self.kit.key_file)
        credentials = grpc.ssl_channel_credentials(_certificate(self.kit.authority_file))
        self._channel = grpc.secure_channel(self.kit.forget, credentials, OPTIONS)
        self._stub = ForgetStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connection."""
        self._channel.close()

    def submit(self, signed: Signed) -> Submitted:
        """Send an ask; sent again it gives the same request."""
        message = SignedAsk(ask=signed.ask, signature=signed.signature)
        answer: Submitted = self._tried(lambda left: self._stub.Submit(message, timeout=left))
        return answer

    def status(self, request: str) -> Request:
        """Return where a request is now."""
        answer: Request = self._as_member("Status", RequestId(id=request), request)
        return answer

    def receipt(self, request: str) -> bytes:
        """Return the receipt of a request that is done."""
        return bytes(self._as_member("Receipt", RequestId(id=request), request).receipt)

    def requests(self, *, status: str = "", limit: int = 0, before: str = "") -> Requests:
        """Return the requests that this member may see, newest first."""
        answer: Requests = self._as_member("List", Page(status=status, limit=limit, before=before))
        return answer

    def watch(self, request: str, *, seconds: float = float("inf")) -> Iterator[Change]:
        """Yield each state of a request, from the first to its last or until `seconds` have passed.

        The service ends a stream after a while, and may restart meanwhile: then the watch continues.
        """
        seen, end, reached = 0, time.monotonic() + seconds, -PATIENCE
        while (left := end - time.monotonic()) > 0:
            came = False
            try:
                for change in self._stream(request, left):
                    came = True
                    if change.number > seen:
                        seen = change.number
                        yield change
                        if change.status in LAST:
                            return
            except (RefusedError, UnreachableError) as error:
                reached = time.monotonic() if came else reached  # it was there until now, however long nothing changed
                busy = isinstance(error, RefusedError) and error.code == BUSY
                if not busy and (isinstance(error, RefusedError) or time.monotonic() - reached > PATIENCE):
                    raise
                time.sleep(min(1.0, max(0.0, end - time.monotonic())))

    def _stream(self, request: str, left: float) -> Iterator[Change]:
        """Yield the changes of one stream; its end by our own deadline is no error."""
        proof = prove(self.key, self.kit.federation, "Watch", request)
        timeout = None if left == float("inf") else left
        try:
            yield from self._stub.Watch(RequestId(id=request), metadata=proof.metadata(), timeout=timeout)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise in_plain_words(error, self.kit.forget) from error

    def _as_member(self, method: str, message: Any, request: str = "") -> Any:
        """Call `method` with a proof of who calls, a new one for each try."""

        def call(left: float) -> Any:
            proof = prove(self.key, self.kit.federation, method, request)
            return getattr(self._stub, method)(message, metadata=proof.metadata(), timeout=left)

        return self._tried(call)

    def _tried(self, call: Callable[[float], Any]) -> Any:
        """Call, and again a little later when the service is busy or was away for a moment."""
        end, tries = time.monotonic() + self.deadline, 0
        while True:
            try:
                return call(max(0.001, end - time.monotonic()))
            except grpc.RpcError as error:
                pause = wait_before_another_try(error, tries)
                tries += 1
                if pause is None or time.monotonic() + pause >= end:
                    raise in_plain_words(error, self.kit.forget) from error
                time.sleep(pause)


def _certificate(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the server's root certificate {path}: {error.strerror or error}") from error
