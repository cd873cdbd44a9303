"""Devices reach Flower's fleet API through the proxy, and nothing else of the SuperLink."""

import datetime
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from fedquit.client.device.join import free_port
from fedquit.processes.supervisor import listens
from fedquit.server.federation import Federation
from fedquit.server.provision import deployment_files
from fedquit.server.provision.certificates import make_authority, make_server_certificate
from fedquit.strategies.flower_internals import CHUNK_SIZE
from tests.harness.processes import Withheld, program
from tests.harness.waiting import STILL, until

CONTROL = ["/v1/control/start-run", "/v1/runtime/x", "/", "/v1/fleet/../control/x", "/v1/fleet/..%2fcontrol/x"]


class SuperLink(http.server.BaseHTTPRequestHandler):
    """Says which path it was asked for, and how much it was sent."""

    protocol_version = "HTTP/1.1"
    begun: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.begun.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = f"{self.path} {len(body)}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def superlink(folder: Path, port: int) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), SuperLink)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    now = datetime.datetime.now(datetime.UTC)
    authority = make_authority("clinics", now)
    signed = make_server_certificate(authority, ["fed.example.org"], now)
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem())
    (tmp_path / "server.pem").write_bytes(signed.certificate_pem())
    (tmp_path / "server.key").write_bytes(signed.key_pem())
    (tmp_path / "proxy").mkdir()
    return tmp_path


@contextmanager
def proxied(folder: Path, **server: int) -> Iterator[int]:
    """Run nginx, as configured, before a SuperLink that only counts; yield the port of devices."""
    nginx = program("nginx")
    ports = {"fleet-port": free_port(), "superlink-port": free_port()}
    federation = Federation.model_validate({"name": "clinics", "server": {**ports, **server}})
    (folder / "nginx.conf").write_text(deployment_files.nginx(federation, folder))
    SuperLink.begun.clear()
    with superlink(folder, federation.server.superlink_port):
        proxy = subprocess.Popen(
            [nginx, "-c", folder / "nginx.conf", "-e", "stderr"], stderr=(folder / "said").open("wb")
        )
        try:
            until(lambda: listens(federation.server.fleet_port), "proxy")
            yield federation.server.fleet_port
        finally:
            proxy.terminate()
            proxy.wait(STILL)


def test_nginx_passes_on_the_fleet_api_alone_and_whole_chunks(folder: Path) -> None:
    with proxied(folder) as port, httpx.Client(verify=ssl.create_default_context(cafile=folder / "ca.crt")) as device:
        address = f"https://localhost:{port}"
        body = bytes(CHUNK_SIZE + 1_000_000)
        assert device.post(f"{address}/v1/fleet/push-object", content=body, timeout=STILL).text == (
            f"/v1/fleet/push-object {len(body)}"
        )
        assert [device.post(address + path).status_code for path in CONTROL] == [404] * len(CONTROL)
        assert device.post(f"{address}/v1/fleet/x", content=bytes(9_000_000), timeout=STILL).status_code == 413


def test_a_body_that_is_withheld_never_reaches_the_superlink(folder: Path) -> None:
    with proxied(folder) as port:
        strangers = [Withheld(port, 5_000_000, folder / "ca.crt") for _ in range(5)]
        assert Withheld(port, 60_000_000, folder / "ca.crt").status() == 413
        assert SuperLink.begun == []
        assert strangers[0].complete() == 200
        assert len(SuperLink.begun) == 1


def test_one_address_holds_no_more_connections_than_the_setting_says(folder: Path) -> None:
    with proxied(folder, **{"connections-per-address": 3}) as port:
        held = [Withheld(port, 100_000, folder / "ca.crt") for _ in range(3)]
        assert Withheld(port, 100_000, folder / "ca.crt").status() == 503
        assert held[0].complete() == 200


def test_nginx_writes_no_log_that_nobody_rotates(folder: Path) -> None:
    with proxied(folder) as port, httpx.Client(verify=ssl.create_default_context(cafile=folder / "ca.crt")) as device:
        device.post(f"https://localhost:{port}/v1/fleet/x", content=bytes(9_000_000), timeout=STILL)
        until(
            lambda: "too large body" in (folder / "said").read_text(), "error"
        )  # on stderr, as a part of fedquit serve
    assert list(folder.rglob("*.log")) == []


def test_the_other_files_are_well_formed_and_name_the_servers_ports(folder: Path) -> None:
    federation = Federation(name="clinics")
    unit = deployment_files.systemd_unit(federation, folder)
    assert f"serve {folder}" in unit
    assert f"ReadWritePaths={folder}" in unit
    caddyfile = deployment_files.caddy(federation, folder)
    assert "handle /v1/fleet/*" in caddyfile
    assert caddyfile.count("{") == caddyfile.count("}")
