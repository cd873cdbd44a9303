"""A renewed certificate is shown without a restart: by the forget service, the page and nginx."""

import contextlib
import datetime
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fedquit.client.device.join import free_port
from fedquit.server.federation import Federation
from fedquit.server.provision.deployment_files import nginx
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from fedquit.server.serve.certificate_pair import CertificatePair, on_renewal
from tests.harness.waiting import until

Run = Callable[..., tuple[int, str, str]]


def shown(folder: Path, port: int) -> int:
    """Return the serial number of the certificate that is shown on a port, once it is checked by the kit's ca.crt."""
    context = ssl.create_default_context(cafile=str(folder / "server" / "ca.crt"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        content = secured.getpeercert(binary_form=True)
    assert content is not None
    return x509.load_der_x509_certificate(content).serial_number


def on_disk(folder: Path) -> int:
    return x509.load_pem_x509_certificate((folder / "server" / "server.pem").read_bytes()).serial_number


def test_the_forget_service_shows_a_renewed_certificate_and_keeps_its_calls(world: Any, run: Run) -> None:
    port = int(world.start().address.rpartition(":")[2])
    before = shown(world.folder, port)
    with world.service("north") as open_before:
        open_before.requests()
        code, _, err = run("provision", world.folder.parent / "federation.toml", "--out", world.folder, "--renew")
        assert code == 0, err
        after = shown(world.folder, port)
        assert after == on_disk(world.folder) != before
        open_before.requests()
    world.is_at(world.server.address)  # provision has written into the kits what server.toml says
    with world.service("south") as new:
        new.requests()


def test_renewing_keeps_the_authority_and_needs_its_key(world: Any, run: Run) -> None:
    told, out = world.folder.parent / "federation.toml", world.folder
    authority, before = (out / "server" / "ca.crt").read_bytes(), on_disk(out)
    assert run("provision", told, "--out", out)[0] == 0
    assert on_disk(out) == before  # it holds for two years
    assert run("provision", told, "--out", out, "--renew")[0] == 0
    assert ((out / "server" / "ca.crt").read_bytes(), on_disk(out) != before) == (authority, True)
    renewed = on_disk(out)
    shutil.rmtree(out / "authority")
    code, _, err = run("provision", told, "--out", out, "--renew")
    assert (code, "put it back for a moment" in err, on_disk(out)) == (4, True, renewed)
    assert run("provision", told, "--out", out, "--renew", "--new-authority")[0] == 4
    code, _, err = run("provision", told, "--out", out.parent / "nothing", "--renew")
    assert (code, "nothing is to be renewed" in err, (out.parent / "nothing").exists()) == (4, True, False)
    for lost in (out / "server" / "ca.crt", out / "server" / "server.pem"):
        lost.unlink()
    shutil.rmtree(out / "kits")
    assert run("provision", told, "--out", out, "--renew")[0] == 4  # never a new authority on the quiet


def test_a_renewed_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text('name = "clinics"\n[[device]]\nname = "north"\n')
    plan, begun = read_plan(tmp_path / "federation.toml"), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    provision(plan, tmp_path / "out", now=begun)
    provision(plan, tmp_path / "out", now=begun + 9.5 * datetime.timedelta(days=365), renew_now=True)
    ends = [
        x509.load_pem_x509_certificate((tmp_path / "out" / "server" / name).read_bytes()).not_valid_after_utc
        for name in ("server.pem", "ca.crt")
    ]
    assert ends[0] == ends[1]


def test_half_of_a_new_pair_is_not_shown(world: Any, tmp_path: Path) -> None:
    server = world.folder / "server"
    pair, told = CertificatePair(server / "server.pem", server / "server.key"), list[int]()
    look = on_renewal(server, lambda: told.append(1))
    old, new = (server / "server.pem").read_bytes(), tmp_path / "new"
    provision(read_plan(world.folder.parent / "federation.toml"), new)
    assert pair.replaced() is None
    (server / "server.key").write_bytes((new / "server" / "server.key").read_bytes())
    look()
    assert (pair.replaced(), told) == (None, [])
    (server / "server.pem").write_text("not yet whole")
    assert pair.replaced() is None
    (server / "server.pem").write_bytes((new / "server" / "server.pem").read_bytes())
    look()
    look()
    found = pair.replaced()
    assert found is not None
    assert (found[0] != old, told, pair.replaced()) == (True, [1], None)


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        until(lambda: _listens(port), "it", moving=log.read_bytes)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_the_page_and_nginx_show_a_renewed_certificate(tmp_path: Path, run: Run) -> None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    page, fleet = free_port(), free_port()
    ports = f'page-port = {page}\npage-bind = "0.0.0.0"\nfleet-port = {fleet}\n'
    (tmp_path / "federation.toml").write_text(f'name = "clinics"\n[server]\n{ports}[[device]]\nname = "north"\n')
    provision(read_plan(tmp_path / "federation.toml"), tmp_path / "out")
    server = tmp_path / "out" / "server"
    (server / "nginx.conf").write_text(nginx(Federation.read(server), server))
    proxy = [program, "-c", str(server / "nginx.conf"), "-e", str(tmp_path / "nginx.log")]
    with (
        running([sys.executable, "-m", "fedquit.server.page", str(server)], page, tmp_path / "page.log"),
        running(proxy, fleet, tmp_path / "out.log") as master,
    ):
        look = on_renewal(server, lambda: master.send_signal(1))  # as serve does
        before = on_disk(tmp_path / "out")
        assert shown(tmp_path / "out", page) == shown(tmp_path / "out", fleet) == before
        assert run("provision", tmp_path / "federation.toml", "--out", tmp_path / "out", "--renew")[0] == 0
        look()
        after, started = on_disk(tmp_path / "out"), time.monotonic()
        for port in (fleet, page):
            until(lambda port=port: shown(tmp_path / "out", port) == after, "the new certificate", every=0.5)  # type: ignore[misc]
        assert (before != after, time.monotonic() - started < 600) == (True, True)
