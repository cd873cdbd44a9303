"""The page answers to its own names alone; beyond loopback it speaks TLS and answers to who has its token."""

import json
import os
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fedquit.client.device.join import free_port
from fedquit.errors import InputError
from fedquit.processes.supervisor import listens
from fedquit.server.federation import Federation
from fedquit.server.page.access import COOKIE, Access, read_token
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision

TOLD = """
name = "clinics"
[server]
host = "fed.example.org"
page-port = {port}
page-bind = "{bind}"
page-hosts = ["proxy.example.org"]
[[device]]
name = "north"
"""
PATHS = ("/", "/requests", "/rounds", "/api/overview", "/metrics", "/healthz", "/openapi.json")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of its own on Linux")


def made(folder: Path, bind: str) -> tuple[Path, int]:
    port = free_port()
    (folder / "federation.toml").write_text(TOLD.format(port=port, bind=bind))
    provision(read_plan(folder / "federation.toml"), folder / "out")
    return folder / "out" / "server", port


@contextmanager
def page(folder: Path, port: int, at: str) -> Iterator[None]:
    """Run the page as `fedquit serve` does."""
    process = subprocess.Popen([sys.executable, "-m", "fedquit.server.page", str(folder)], env={**os.environ})
    try:
        until = time.monotonic() + 120
        while not listens(port, at):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


def checked(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Ask the page as a container's health check does."""
    command = [sys.executable, "-m", "fedquit.server.page", str(folder), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_page_on_loopback_answers_to_no_name_of_somebody_elses(tmp_path: Path) -> None:
    folder, port = made(tmp_path, "127.0.0.2")
    with page(folder, port, "127.0.0.2"), httpx.Client(base_url=f"http://127.0.0.2:{port}") as browser:
        for path in PATHS:
            for name in (
                "evil.example",
                f"evil.example:{port}",
                "127.0.0.1.evil.example",
                "",
                "[::1",
                "localhost.evil",
            ):
                assert browser.get(path, headers={"Host": name}).status_code == 421
            for name in (f"127.0.0.2:{port}", "localhost:8080", "[::1]:9080", "proxy.example.org", "LOCALHOST"):
                assert browser.get(path, headers={"Host": name}).status_code == 200
        assert checked(folder).stdout == "ok\n"
        assert not (folder / "page.token").exists()
    assert checked(folder).returncode == 1


def test_beyond_loopback_nothing_is_shown_without_the_token(tmp_path: Path) -> None:
    folder, port = made(tmp_path, "0.0.0.0")
    with page(folder, port, "127.0.0.1"):
        token = (folder / "page.token").read_text().strip()
        assert stat.S_IMODE((folder / "page.token").stat().st_mode) == 0o600
        trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trust) as stranger:
            for path in PATHS:
                for headers in ({}, {"Authorization": f"Bearer {token}x"}, {"Cookie": f"{COOKIE}={token[:-1]}"}):
                    refused = stranger.get(path, headers=headers)
                    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
                    assert "north" not in refused.text
            assert stranger.get("/login", params={"token": "x" * 43}).status_code == 401
            assert stranger.get("/", headers={"Host": "evil.example"}).status_code == 421
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trust) as scraper:
            for path in PATHS:
                assert scraper.get(path, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trust, follow_redirects=True) as person:
            entered = person.get("/login", params={"token": token})
            assert (entered.status_code, entered.url.path, "north" in entered.text) == (200, "/", True)
            said = entered.history[0].headers["Set-Cookie"].lower()
            assert all(word in said for word in ("httponly", "secure", "samesite=lax"))
            assert json.loads(person.get("/api/overview").text)["federation"] == "clinics"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/", headers={"Authorization": f"Bearer {token}"})  # not without TLS
        assert checked(folder).stdout == "ok\n"


def test_a_token_is_made_once_and_refused_if_others_may_read_it(tmp_path: Path) -> None:
    federation = Federation.model_validate({"name": "clinics", "server": {"page-bind": "::"}})
    first = Access.of(tmp_path, federation).token
    assert len(first) >= 43
    assert read_token(tmp_path) == first
    (tmp_path / "page.token").chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_token(tmp_path)
    (tmp_path / "page.token").chmod(0o600)
    (tmp_path / "page.token").write_text("short")
    with pytest.raises(InputError, match="remove it, and another is made"):
        read_token(tmp_path)
