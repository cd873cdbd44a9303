"""What the service's errors mean to a person: refused, unreachable or too late, and the way out."""

import grpc

from fedquit.errors import FedquitError, RefusedError, TimedOutError, UnreachableError

CODE = "fedquit-refusal"  # trailing metadata: the code of a refusal
BUSY = "slow-down"  # the code that says: the same again a little later
TRIES = 4  # when the service cannot be reached; a busy one is asked until the deadline
NOT_ALLOWED = (
    *("unknown-member", "bad-signature", "revoked", "wrong-federation", "not-yours", "operators-only", "no-proof"),
)


def in_plain_words(error: grpc.RpcError, address: str) -> FedquitError:
    """Say what an error of gRPC means, and the way out."""
    status, details, code = error.code(), _short(error.details() or ""), code_of(error)
    if code:
        return RefusedError(details, code, exit_code=2 if code in NOT_ALLOWED else 1)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOutError(
            f"the forget service at {address} did not answer in time; try again: nothing is done twice"
        )
    if status is grpc.StatusCode.UNAVAILABLE:
        if "CERTIFICATE" in details or "SSL" in details or "Peer name" in details:
            return UnreachableError(
                f"the server at {address} is not the one that this kit trusts ({details}); "
                "check the address in device.toml, or ask the operator for a new kit"
            )
        return UnreachableError(
            f"cannot reach the forget service at {address} ({details}); is it running, and is the address in "
            "device.toml right?"
        )
    return FedquitError(f"the forget service at {address} failed ({status.name}: {details}); see its log")


def wait_before_another_try(error: grpc.RpcError, tries: int) -> float | None:
    """Return for how many seconds to wait before the same is tried again, or None: it is no use."""
    busy = code_of(error) == BUSY or (error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and not code_of(error))
    away = error.code() is grpc.StatusCode.UNAVAILABLE and tries + 1 < TRIES
    return float(min(0.3 * 2**tries, 5)) if busy or away else None


def code_of(error: grpc.RpcError) -> str:
    """Return the service's word for why it refused, or nothing: the error is not the service's own."""
    return next((str(one.value) for one in error.trailing_metadata() or () if one.key == CODE), "")


def _short(details: str) -> str:
    return " ".join(details.split())[:300]
