"""Is this device ready? Each check reports its finding, or what is wrong and how to mend it."""

import email.utils
import http.client
import json
import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fedquit.client.device.approved_code import REFUSED
from fedquit.client.device.bounds import DeviceBounds
from fedquit.client.device.connection_watch import ask_server
from fedquit.client.device.local_data.gather import count
from fedquit.client.device.record import opened
from fedquit.client.kit import FILE, Kit
from fedquit.client.requests.keys import read_private
from fedquit.errors import FedquitError, InputError
from fedquit.processes.chosen_device import chosen_device, chosen_precision

WORRYING, TOO_FAR = 60.0, 240.0  # seconds between the clocks; Flower lets nobody in beyond 300
UNREACHABLE = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        name: of what was checked.
        state: "ok", "warning" or "wrong".
        text: what is there; or what is wrong, and the way out.
        code: exit code of a command that ends over it; 0 for a warning that nothing need end over.
    """

    name: str
    state: str
    text: str
    code: int = 0


def device_checks(folder: Path) -> Iterator[Finding]:
    """Check the device whose kit is in `folder`; what needs a kit is not looked at without one."""
    try:
        kit = Kit.read(folder)
    except InputError as error:
        yield Finding("kit", "wrong", str(error), 1)
        return
    operator = ", an operator: it has no data and does not join" if kit.role == "operator" else ""
    yield Finding("kit", "ok", f"'{kit.name}', number {kit.number} of '{kit.federation}'{operator}")
    checks = (
        ("files", _files),
        ("key", _key),
        ("data", _data),
        ("record", _record),
        ("code", _code),
        ("accelerator", _accelerator),
    )
    for name, check in checks[:2] if operator else checks:
        yield _checked(name, check, kit)
    yield from server_checks(kit)


def server_checks(kit: Kit, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Check whether the server is reached, is the one of the kit, and has the same time."""
    try:
        date = _date_of_server(kit)
    except InputError as error:
        yield Finding("server", "wrong", str(error), 1)
        return
    except ssl.SSLCertVerificationError as error:
        reason = f"{kit.superlink} is not the server of this kit's ca.crt ({error.verify_message})"
        yield Finding(
            "server", "wrong", f"{reason}; check superlink in device.toml and this device's clock", UNREACHABLE
        )
        return
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = (
            f"{kit.superlink} cannot be reached ({reason}); check the address in device.toml, the network, the server"
        )
        yield Finding("server", "warning", text, UNREACHABLE)
        return
    yield Finding("server", "ok", f"{kit.superlink} answers, with the certificate that the kit expects")
    if date is None:
        yield Finding("clock", "warning", "the server does not say what time it is; look that this clock is right")
        return
    apart = now() - date
    offset = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} the server's"
    if abs(apart) > TOO_FAR:
        text = "the server accepts no device with this clock; set it, for example with timedatectl set-ntp true"
        yield Finding("clock", "wrong", f"{offset}: {text}", 1)
    elif abs(apart) > WORRYING:
        yield Finding("clock", "warning", f"{offset}; it should be set")
    else:
        yield Finding("clock", "ok", "it agrees with the server's")


def main(folder: Path) -> None:
    """Print what each check found as a line of JSON."""
    for finding in device_checks(folder):
        print(json.dumps(asdict(finding)), flush=True)  # noqa: T201


def _checked(name: str, check: Callable[[Kit], str], kit: Kit) -> Finding:
    try:
        return Finding(name, "ok", check(kit))
    except FedquitError as error:
        return Finding(name, "wrong", str(error), error.exit_code if error.exit_code == UNREACHABLE else 1)


def _files(kit: Kit) -> str:
    files = (kit.authority_file, kit.key_file, kit.receipts_key_file)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(f"{kit.folder} lacks {', '.join(missing)}; ask the operator for a whole kit")
    return ", ".join(file.name for file in files)


def _key(kit: Kit) -> str:
    read_private(kit.key_file)
    if b"OPENSSH PRIVATE KEY" not in kit.key_file.read_bytes():
        raise InputError(
            f"{kit.key_file} is not in OpenSSH's format, as Flower wants it: ssh-keygen -p -f {kit.key_file}"
        )
    return "only its owner may read it"


def _data(kit: Kit) -> str:
    if not kit.data:
        raise InputError('the kit names no data: add data = "PATH" to its device.toml')
    labels = count(kit.path(kit.data))
    if not labels:
        raise InputError(f"{kit.path(kit.data)} holds no samples")
    unseen = f"; {sum(count(kit.path(kit.holdout)).values()):,} unseen ones" if kit.holdout else ""
    return f"{sum(labels.values()):,} samples of {len(labels)} classes in {kit.path(kit.data)}{unseen}"


def _record(kit: Kit) -> str:
    path = kit.path(kit.record)
    if not path.exists():  # a check makes none: whoever runs it may not be who joins
        folder = next(each for each in path.parents if each.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"{path} cannot be made, as {folder} is no folder that may be written: see record in {FILE}"
            )
        return "none yet: it begins with the first round"
    with opened(path) as record:
        with record.database.writing():
            pass
        return f"{len(record.rounds()):,} rounds trained, {len(record.retired()):,} samples retired"


def _code(kit: Kit) -> str:
    DeviceBounds.read(kit.bounds, FILE)
    if os.name != "posix":
        return "on this system Flower runs whatever app a server sends"
    refused = len(list((kit.folder / REFUSED).glob("*.zip")))
    approved = f" and what {FILE} approves ({len(kit.approve)})" if kit.approve else ""
    found = f"; {refused} others that a server sent were refused: see {kit.folder / REFUSED}" if refused else ""
    return f"fedquit's own app{approved} runs here, and nothing else{found}"


def _accelerator(kit: Kit) -> str:
    del kit
    if chosen_device() != "cpu":  # PyTorch is what takes long to start
        from fedquit.unlearning.tensors.accelerator import accelerator

        return f"computes on {accelerator()}, trains in {chosen_precision()}"
    return f"none: computes on the processor, trains in {chosen_precision()}"


def _date_of_server(kit: Kit) -> float | None:
    """Return the server's time (Unix seconds), by what it says of any page; None: it does not say."""
    _, said = ask_server(kit)
    return email.utils.parsedate_to_datetime(said).timestamp() if said else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
