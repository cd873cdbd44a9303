"""Which errors of a method make the coordinator try the next method."""

from collections.abc import Iterator
from contextlib import contextmanager

from fedquit.errors import CannotForgetError, FedquitError, NoReplyError, NothingToForgetError, UnreachableError
from fedquit.unlearning.methods.base import Method


@contextmanager
def blaming(method: Method) -> Iterator[None]:
    """Make whatever stops a method, a bug of ours included, a reason to try the next one."""
    try:
        yield
    except (NoReplyError, NothingToForgetError, UnreachableError):
        raise
    except FedquitError as error:
        raise CannotForgetError(str(error)) from error
    except Exception as error:
        raise CannotForgetError(f"method '{method.name}' failed: {error!r}") from error
