"""Asks in the kit's folder: written before they are sent, so that a crash repeats the ask and does not make another.

KIT/asks/ID.waiting   no answer yet: the same ask is sent again
KIT/asks/ID.ask       the service has it
"""

from contextlib import suppress
from pathlib import Path

from fedquit.client.kit import Kit
from fedquit.client.requests.proto.forget_pb2 import Ask
from fedquit.client.requests.signed_request import Signed, read_ask, read_signed
from fedquit.errors import FedquitError, InputError
from fedquit.files import explained, write_whole


def keep(kit: Kit, signed: Signed) -> None:
    """Write an ask that is about to be sent; one that the service has stays as it is.

    Raises:
        FedquitError: it cannot be written, so it must not be sent.
    """
    folder = kit.folder / "asks"
    if _waiting(kit, signed).with_suffix(".ask").exists():
        return
    with explained(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    write_whole(_waiting(kit, signed), signed.serialised())


def answered(kit: Kit, signed: Signed) -> None:
    """Note that the service has an ask."""
    with explained(kit.folder / "asks"), suppress(FileNotFoundError):  # it was noted before
        _waiting(kit, signed).replace(_waiting(kit, signed).with_suffix(".ask"))


def drop(kit: Kit, signed: Signed) -> None:
    """Remove an ask that the service has refused."""
    with explained(kit.folder / "asks"):
        _waiting(kit, signed).unlink(missing_ok=True)


def waiting_like(kit: Kit, signed: Signed, *, plain: str = "") -> Signed | None:
    """Return an ask without an answer that asks for the same as `signed`, if there is one.

    Args:
        kit: whose asks.
        signed: what is about to be asked.
        plain: the digest of its samples without salt, as in an ask of version 1.

    Raises:
        InputError: a kept ask cannot be read.
    """
    for path in sorted((kit.folder / "asks").glob("*.waiting")):
        kept = _read(path)
        old, new = read_ask(kept.ask), read_ask(signed.ask)
        if _what(old) == _what(new) and old.samples_digest in (new.samples_digest, plain):
            return kept
    return None


def answered_like(kit: Kit, signed: Signed, *, plain: str) -> list[Signed]:
    """Return the asks of version 1 about the same samples that the service has already accepted.

    The service recognises each by its bytes; from the salted digest in `signed` it could not.

    Args:
        kit: whose asks.
        signed: what is about to be asked.
        plain: the digest of its samples without salt.
    """
    found = []
    for path in sorted((kit.folder / "asks").glob("*.ask")):
        with suppress(InputError):  # damaged: it stops no new ask
            kept = _read(path)
            old = read_ask(kept.ask)
            if plain and old.samples_digest == plain and _what(old) == _what(read_ask(signed.ask)):
                found.append(kept)
    return found


def _what(ask: Ask) -> tuple[object, ...]:
    """Return what an ask asks for, besides which samples; not when, nor in which words."""
    who = ask.federation, ask.identity, ask.subject or ask.identity
    return *who, ask.granularity, tuple(ask.classes), ask.samples_count


def _read(path: Path) -> Signed:
    try:
        kept = read_signed(path.read_bytes())
        read_ask(kept.ask)
    except (OSError, FedquitError) as error:
        raise InputError(f"the saved ask {path} cannot be read ({error}); remove it to ask again") from error
    return kept


def _waiting(kit: Kit, signed: Signed) -> Path:
    return kit.folder / "asks" / f"{signed.id}.waiting"
