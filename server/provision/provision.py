"""Make a federation ready: OUT/server for the server, OUT/kits/NAME for each member, OUT/authority to be put away.

    OUT/server/          server.toml, ca.crt, server.pem and .key, receipts.key and .pub, the ledger, models
    OUT/server/deploy/   nginx.conf, Caddyfile, a systemd unit, containers, rules for Prometheus, a dashboard
    OUT/kits/NAME/       what a member needs (see client/kit.py), or NAME.tar.gz
    OUT/authority/       the key that signs server certificates; needed when one is made, and for nothing else

Done again with more members it makes what is missing and leaves the rest: no key is ever replaced.
"""

import datetime
import io
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedquit.client.kit import FILE as KIT_FILE
from fedquit.client.requests.keys import fingerprint, read_public
from fedquit.errors import InputError, KeyFileError
from fedquit.files import explained, write_whole
from fedquit.server.federation import FILE, Federation
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.authority import OPEN, PRIVATE, renew, write
from fedquit.server.provision.certificates import der_of, node_key_files, private_pem, public_pem
from fedquit.server.provision.deployment_files import write_deployment_files
from fedquit.server.provision.federation_plan import Plan, PlannedMember


@dataclass(frozen=True, slots=True)
class Made:
    """A member that is enrolled now.

    Attributes:
        name: as federation.toml has it; `role`, `number`, `fingerprint`: as the ledger has them.
        kit: where its kit is, or was before it was handed out.
        new: whether it was enrolled just now.
        own_key: whether it made its key itself, so that none lies in its kit.
        revoked: whether its key was revoked; then it stays out, and nothing is made for it.
    """

    name: str
    role: str
    number: int
    fingerprint: str
    kit: Path
    new: bool
    own_key: bool
    revoked: bool = False


def provision(
    plan: Plan,
    out: Path,
    *,
    tar: bool = False,
    new_authority: bool = False,
    renew_now: bool = False,
    now: datetime.datetime | None = None,
) -> list[Made]:
    """Make what is missing of the federation in `out`, and return its members.

    Args:
        plan: what federation.toml says.
        out: where to; a folder that this made before, or none.
        tar: pack each new kit into NAME.tar.gz in place of a folder.
        new_authority: make a new authority for the federation; every member then needs the new ca.crt.
        renew_now: renew the server's certificate, however long it holds; members notice nothing.
        now: the time from which certificates hold.

    Raises:
        InputError: `out` is something else, a key file cannot be read, or a certificate is to be made and the
            authority's key is away; nothing was changed.
        FedquitError: it cannot be written.
    """
    keys = {planned.name: _public_key(planned, plan.source) for those in plan.members.values() for planned in those}
    _check_folder(out, plan.federation)
    if renew_now and not (out / "server" / FILE).is_file():
        raise InputError(f"{out} is no federation yet, so nothing is to be renewed; leave out --renew")
    now = now or datetime.datetime.now(datetime.UTC)
    server = out / "server"
    folders = (out, out / "authority", server, server / "models", server / "deploy", server / "proxy", out / "kits")
    for folder in folders:
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
    for folder in (out / "authority", server, out / "kits"):
        folder.chmod(0o700)
    if not (server / FILE).exists():
        _write_federation(server, plan.federation)  # first of all: stopped from here on, this is a federation's folder
    renew(out, plan.federation, now, new_authority=new_authority, at_once=renew_now)
    _server_files(server, plan.federation)
    ledger = Ledger.open(plan.federation.ledger_url(server), seal=read_seal(server / "receipts.key"))
    try:
        return [
            _member(plan, role, planned, keys[planned.name], out, ledger, tar=tar)
            for role, those in plan.members.items()
            for planned in those
        ]
    finally:
        ledger.close()


def _check_folder(out: Path, federation: Federation) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "server" / FILE).is_file():
        raise InputError(f"{out} is not the folder of a federation: give another --out")
    there = Federation.read(out / "server").name
    if there != federation.name:
        raise InputError(f"{out} is the federation '{there}', not '{federation.name}'; give another --out")


def _public_key(planned: PlannedMember, source: Path) -> ec.EllipticCurvePublicKey | None:
    """Return the key that a member made itself, if federation.toml names one.

    Only P-384 will do: asks and calls are signed with it, and `fedquit join` takes no other.
    """
    if not planned.public_key:
        return None
    try:
        der = read_public(source.parent / Path(planned.public_key).expanduser())
    except KeyFileError as error:
        raise InputError(f"{source}: public-key of '{planned.name}': {error}") from None
    key = serialization.load_der_public_key(der)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise AssertionError("read_public took another kind of key")
    return key


def _write_federation(server: Path, federation: Federation) -> None:
    planned = federation.model_dump(by_alias=True, exclude_defaults=True, mode="json")
    write(server / FILE, tomli_w.dumps(planned).encode(), OPEN)


def _server_files(server: Path, federation: Federation) -> None:
    """Write the server's own files but its certificate; the key of receipts stays."""
    if not (server / "receipts.key").exists():
        write(server / "receipts.key", private_pem(ed25519.Ed25519PrivateKey.generate()), PRIVATE)
    key = serialization.load_pem_private_key((server / "receipts.key").read_bytes(), password=None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"{server / 'receipts.key'} is not an Ed25519 key")
    write(server / "receipts.pub", public_pem(key.public_key()), OPEN)
    _write_federation(server, federation)
    write_deployment_files(server, federation)


def _member(
    plan: Plan,
    role: str,
    planned: PlannedMember,
    own: ec.EllipticCurvePublicKey | None,
    out: Path,
    ledger: Ledger,
    *,
    tar: bool,
) -> Made:
    """Enrol a member and make its kit; one that is enrolled keeps its key."""
    known = {member.name: member for member in ledger.members()}.get(planned.name)
    if own is not None:
        _check_own(planned.name, own, ledger)
    kit, packed = out / "kits" / planned.name, out / "kits" / f"{planned.name}.tar.gz"
    if known is None:
        with explained(kit):
            kit.mkdir(exist_ok=True)
        key = own or _made_key(kit)
        known = ledger.enrol(planned.name, der_of(key), role)
        new = True
    else:
        new = False
        if own is not None and der_of(own) != known.key:
            raise InputError(
                f"'{planned.name}' is enrolled with another key: replace it with fedquit member rotate "
                f"{out / 'server'} {planned.name} --public-key FILE, or give the new member another name"
            )
    revoked = known.status == "revoked"
    if kit.exists() and not revoked:
        _kit_files(kit, plan.federation, role, planned, known.number, out / "server")
        if tar:
            write_whole(packed, _packed(kit))
            packed.chmod(PRIVATE)
            shutil.rmtree(kit)
    where = packed if packed.exists() and not kit.exists() else kit
    return Made(planned.name, known.role, known.number, known.fingerprint, where, new, own is not None, revoked)


def _check_own(name: str, key: ec.EllipticCurvePublicKey, ledger: Ledger) -> None:
    """Refuse a key that is a member's of another name: it would be that member, withdrawn or revoked as it may be."""
    other = ledger.member_by_key(fingerprint(der_of(key)))
    if other is not None and other.name != name:
        raise InputError(
            f"the public-key of '{name}' is that of member {other.number} '{other.name}', which is {other.status}: "
            "make a new key, ssh-keygen -t ecdsa -b 384"
        )


def _made_key(kit: Path) -> ec.EllipticCurvePublicKey:
    """Return the public key in a kit, made with its private one if it is not there."""
    if not (kit / "node.pub").exists():
        private, public = node_key_files(ec.generate_private_key(ec.SECP384R1()))
        write(kit / "node.key", private, PRIVATE)
        write(kit / "node.pub", public, OPEN)
    key = serialization.load_ssh_public_key((kit / "node.pub").read_bytes())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InputError(f"{kit / 'node.pub'} is not a key that fedquit made; remove {kit}, and do this again")
    return key


def _kit_files(kit: Path, federation: Federation, role: str, planned: PlannedMember, number: int, server: Path) -> None:
    host = federation.server.host if ":" not in federation.server.host else f"[{federation.server.host}]"
    document = {
        "federation": federation.name,
        "superlink": f"{host}:{federation.server.fleet_port}",
        "forget": f"{host}:{federation.server.forget_port}",
        "name": planned.name,
        "number": number,
        "role": role,
        **({"data": planned.data, "holdout": planned.holdout} if role == "device" else {}),
    }
    write(kit / KIT_FILE, tomli_w.dumps(document).encode(), OPEN)
    for name in ("ca.crt", "receipts.pub"):
        write(kit / name, (server / name).read_bytes(), OPEN)


def _packed(kit: Path) -> bytes:
    """Return a kit as a tarball, modes kept and owners left out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(kit.rglob("*")):
            entry = archive.gettarinfo(path, f"{kit.name}/{path.relative_to(kit)}")
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            with path.open("rb") as file:
                archive.addfile(entry, file if entry.isfile() else None)
    return buffer.getvalue()
