"""Is this server ready? Each check says what is there, or what is wrong and the way out."""

import datetime
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.device.device_checks import Finding
from fedquit.client.requests.keys import is_usable
from fedquit.errors import FedquitError, InputError
from fedquit.processes.supervisor import listens, reached_at
from fedquit.server.coordinator.model_metrics import trusted_samples
from fedquit.server.federation import FILE, Federation
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.page.access import FILE as TOKEN
from fedquit.server.page.ledger_view import waits_for
from fedquit.server.provision.certificates import hosts_of
from fedquit.server.provision.check_methods import check_methods

SOON = datetime.timedelta(days=30)
ROOM = 20  # models for which there should be room on the disk
Check = Callable[[Path, Federation], str]


def checks_of_server(folder: Path) -> Iterator[Finding]:
    """Check the server in `folder`; without a server.toml that can be read nothing else is looked at."""
    try:
        federation = Federation.read(folder)
        check_methods(federation, folder / FILE)
    except InputError as error:
        yield Finding("server.toml", "wrong", str(error), 1)
        return
    yield Finding("server.toml", "ok", f"the federation '{federation.name}'")
    checks: dict[str, Check] = {
        "keys": _keys,
        "certificate": _certificate,
        "ledger": _ledger,
        "model": _model,
        "trusted data": _trusted,
        "proxy": _proxy,
    }
    for name, check in checks.items():
        try:
            yield Finding(name, "ok", check(folder, federation))
        except FedquitError as error:
            yield Finding(name, "wrong", str(error), 1)
    yield _ports(federation)


def _keys(folder: Path, federation: Federation) -> str:
    del federation
    for name in ("server.key", "receipts.key", TOKEN):
        path = folder / name
        if not path.is_file():
            if name == TOKEN:
                continue  # the page makes it, where it needs one
            raise InputError(f"{path} is missing; `fedquit provision` makes it")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise InputError(f"others can read {path}; do: chmod 600 {path}")
    return "server.key and receipts.key are for their owner alone"


def _certificate(folder: Path, federation: Federation) -> str:
    path, host = folder / "server.pem", federation.server.host
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        certificate.verify_directly_issued_by(authority)
        key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}; `fedquit provision` makes a new one if it is removed") from None
    except Exception:
        raise InputError(f"{path} is not signed by ca.crt; remove it and do `fedquit provision` again") from None
    if key.public_key() != certificate.public_key():
        raise InputError(f"{path} is not for the key in server.key; remove it and do `fedquit provision` again")
    if host not in hosts_of(certificate):
        raise InputError(f"{path} is for {', '.join(sorted(hosts_of(certificate)))}, not {host}; provision again")
    ends = min(certificate.not_valid_after_utc, authority.not_valid_after_utc)
    if ends < datetime.datetime.now(datetime.UTC) + SOON:
        raise InputError(f"{path} ends on {ends:%Y-%m-%d}; do `fedquit provision CONFIG --renew`")
    return f"for {host}, until {ends:%Y-%m-%d}"


def _ledger(folder: Path, federation: Federation) -> str:
    ledger = Ledger.open(federation.ledger_url(folder), seal=read_seal(folder / "receipts.key"), write=False)
    try:
        wrong, members = ledger.check_chain(), ledger.members()
    finally:
        ledger.close()
    if wrong:
        raise FedquitError(f"the log does not hold: {wrong[0]} ({len(wrong)} in all); see `fedquit ledger check`")
    useless = [member.name for member in members if member.status == "active" and not is_usable(member.key)]
    if useless:
        raise InputError(
            f"'{useless[0]}' is enrolled with a key that is not P-384: it can neither join nor ask. Give it a new one "
            "(ssh-keygen -t ecdsa -b 384) under another name"
        )
    if waiting := waits_for(members, federation):
        raise InputError(waiting)
    devices = sum(member.role == "device" and member.status == "active" for member in members)
    return f"whole; {devices} devices"


def _model(folder: Path, federation: Federation) -> str:
    state = empty_model(federation.settings().key()).state_dict()
    size = sum(value.numel() * value.element_size() for value in state.values())
    free = shutil.disk_usage(folder).free
    if free < ROOM * size:
        raise FedquitError(f"{folder} has room for {free // max(1, size)} models of {size} bytes; make room")
    return f"{federation.settings().model}, {size} bytes; room for {free // size} of them"


def _trusted(folder: Path, federation: Federation) -> str:
    samples = trusted_samples(folder, federation)
    if samples is None:
        return "none: devices measure, and the guard cannot look at accuracy"
    return f"{len(samples)} samples"


def _proxy(folder: Path, federation: Federation) -> str:
    del folder
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise InputError("nginx is not installed: install it, or run your own proxy and `fedquit serve --no-proxy`")
    most = federation.server.connections_per_address
    return f"{found}; takes {most} connections of one address: {most // 2} devices behind one router"


def _ports(federation: Federation) -> Finding:
    server, devices, own = federation.server, reached_at(federation.server.bind), "127.0.0.1"
    page = reached_at(server.page_bind)
    wanted = {"fleet-port": (server.fleet_port, devices), "superlink-port": (server.superlink_port, own),
              "forget-port": (server.forget_port, devices), "page-port": (server.page_port, page)}  # fmt: skip
    taken = [f"{name} {port}" for name, (port, host) in wanted.items() if listens(port, host)]
    if len(taken) == len(wanted):
        return Finding("ports", "ok", "all in use: the server is running")
    if taken:
        return Finding("ports", "wrong", f"in use already: {', '.join(taken)}; end that, or change server.toml", 1)
    return Finding("ports", "ok", "free")
