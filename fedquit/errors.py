"""Every error of ours: each is one line that names the thing and the way out.

```text
FedquitError                    1  refused or failed
  InputError                    4  what the user gave cannot be used
    MalformedError              4  an ask that no server takes
    KeyFileError                2  a key file that lets nobody in
  FullDiskError                 1  nothing more can be written; what was finished is kept
  RefusedError                  1  the forget service refused (2: the caller may not)
  RefusalError                  1  the same refusal, at the server
  FlowerRefusedError            1  the SuperLink refused
  UnreachableError              2  a service or database does not answer
  TimedOutError                 3  it takes longer than it may
  UnrecoveredError              6  forgotten, and the model is not back at its goal
  BadReceiptError               1  a receipt that does not verify
  StateError                    1  the ledger cannot make this step from where it is
  OtherCodeError                1  the server sent code that this device does not run
  OutOfBoundsError              1  the server sets what the device's owner does not let it set
  BadReplyError                 1  a device's reply that must not be used
  NoReplyError                  1  a device that is needed did not reply
    AwayError                   1  it is not connected
  RefusedModelError             1  the guard refused a model
  UnusableModelError            1  a model whose loss is not a finite number
  CannotForgetError             1  this method cannot serve the request; another may
  NothingToForgetError          1  nobody holds what the request is about
```

The number is the exit code of a command that ends with it; 5 is kept for a bug of ours, which is no `FedquitError`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FedquitError(Exception):
    """Something was refused or failed; the command line prints the text and exits with `exit_code`."""

    exit_code = 1


class InputError(FedquitError, ValueError):
    """What the user gave cannot be used: exit code 4."""

    exit_code = 4


class FullDiskError(FedquitError):
    """The disk is full.

    Attributes:
        what: could not be written, and why; how to go on depends on the command.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        """Return what any command may say."""
        return self.told("do the same again")

    def told(self, again: str) -> str:
        """Return the line for people.

        >>> FullDiskError("cannot write asks").told("do the same again")
        'cannot write asks; make room, then do the same again: what was finished is kept'
        """
        return f"{self.what}; make room, then {again}: what was finished is kept"


class MalformedError(InputError):
    """An ask breaks the rules that every ask keeps, whoever sent it."""


class KeyFileError(InputError):
    """A key file cannot be used: exit code 2, for nobody is let in with it."""

    exit_code = 2


class RefusedError(FedquitError):
    """The forget service refused a device's call, and said why.

    Attributes:
        code: the service's word for it, for programs.
        exit_code: 2 where the caller is not allowed to, else 1.
    """

    def __init__(self, text: str, code: str, *, exit_code: int = 1) -> None:
        super().__init__(text)
        self.code, self.exit_code = code, exit_code


class RefusalError(FedquitError):
    """The forget service refuses an ask or a call; the caller gets it as a `RefusedError`.

    Attributes:
        code: names why, for programs; the text is for people.
        member: number of the member that is proven to have asked, if one is.
        audited: the ledger has heard of it.
    """

    def __init__(self, code: str, text: str, *, member: int | None = None) -> None:
        super().__init__(text)
        self.code, self.member, self.audited = code, member, False


class FlowerRefusedError(FedquitError):
    """The SuperLink answered, and said no."""


class UnreachableError(FedquitError):
    """A service or a database does not answer, or does not let us in."""

    exit_code = 2


class TimedOutError(FedquitError):
    """A service, or a request, took longer than it may."""

    exit_code = 3


class UnrecoveredError(FedquitError):
    """The data is forgotten, and the model did not get back to its goal."""

    exit_code = 6


class BadReceiptError(FedquitError):
    """A receipt that does not verify; the text says why."""


class StateError(FedquitError):
    """The ledger is not in the state from which this step could be made; nothing was written."""


class OtherCodeError(FedquitError):
    """The server sent code that this device does not run."""


class OutOfBoundsError(FedquitError):
    """The server sets something that this device's owner does not let it set."""


class BadReplyError(FedquitError):
    """A device's reply that must not be used; the text says why."""


class NoReplyError(FedquitError):
    """A required client sent no reply, or the guard refused it; the client can be asked again."""


class AwayError(NoReplyError):
    """No connected device holds any of what is to be forgotten, and one that is not connected may."""


class RefusedModelError(FedquitError):
    """The guard refused the model that a device returned."""


class UnusableModelError(FedquitError):
    """A model whose loss is not a finite number."""


class CannotForgetError(FedquitError):
    """A method cannot serve this request; another may."""


class NothingToForgetError(FedquitError):
    """Every device that may hold what a request is about has replied that it holds nothing of it."""


def unknown(what: str, given: str, known: Iterable[str]) -> InputError:
    """Say that `given` is no `what`, with the nearest known name and all of them.

    >>> print(unknown("method", "fedquitt", ["fedquit", "continue"]))
    unknown method 'fedquitt' (did you mean 'fedquit'?); known: fedquit, continue
    """
    names = list(known)
    near = get_close_matches(given, names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return InputError(f"unknown {what} '{given}'{hint}; known: {', '.join(names)}")
