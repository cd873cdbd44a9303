"""The operator sees what the ledger holds, as HTML, JSON and figures for Prometheus; nobody can change it there."""

import contextlib
import datetime
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from fedquit.server.federation import Federation
from fedquit.server.ledger import Contribution, Ledger, NewRequest, Step
from fedquit.server.page.routes import make_page
from fedquit.server.page.sentences import moment
from fedquit.server.provision.certificates import make_authority, make_server_certificate
from fedquit.server.serve.last_look import LOOKED, SEEN, Looks, Seen, look_of, read_seen
from tests.server.ledger.database_work import counted
from tests.server.ledger.ledger_years import built

NOW = 1_700_000_000.0
HERE = "http://localhost:9080"
IDS = [hashlib.sha256(b"ask %d" % i).hexdigest() for i in range(2)]


def step(number: int, phase: str, request: str | None) -> Step:
    before, after = (hashlib.sha256(b"model %d" % (number - back)).hexdigest() for back in (1, 0))
    gave = (Contribution(0, 120), Contribution(1, 80))
    return Step(number, phase, request, before, after, number, gave, 1, 2.0, 6.0, 1000, 900, {"accuracy": 0.5}, NOW)


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A server with two devices; one request is done with a receipt, one waits and is late."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: NOW)
    ledger.enrol("north", b"n")
    ledger.enrol("<script>alert(1)</script>", b"s")
    ledger.add_step(step(1, "train", None))
    fields: dict[str, Any] = {"granularity": "client", "classes": (), "samples_count": 0, "samples_digest": ""}
    for i, request_id in enumerate(IDS):
        asked = ledger.member(i).fingerprint
        ledger.take(NewRequest(request_id, i, asked, **fields, deadline=NOW + 60, ask=b"ask %d" % i, signature=b"s"))
    ledger.advance(IDS[0], of="asked", to="forgetting", kind="forgetting", withdraw=True)
    forgot = step(2, "forget", IDS[0])
    ledger.advance(IDS[0], of="forgetting", to="recovering", kind="adopted", step=forgot, method="fedquit")
    ledger.advance(IDS[0], of="recovering", to="done", kind="done", receipt=b'{"a": "receipt"}')
    ledger.close()
    return tmp_path


@pytest.fixture
def page(server: Path) -> TestClient:
    return TestClient(make_page(server, Federation(name="clinics")), base_url=HERE)


@pytest.mark.parametrize("path", ["/", "/requests", f"/requests/{IDS[0]}", f"/requests/{IDS[1]}", "/rounds"])
def test_every_page_is_whole_and_runs_nothing_that_a_name_holds(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 200
    assert answer.text.rstrip().endswith("</html>")
    assert "<script" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_an_open_request_that_is_late_stands_on_the_first_page(page: TestClient) -> None:
    told = page.get("/api/overview").json()
    assert [(request["id"], request["overdue"]) for request in told["open"]] == [(IDS[1], True)]
    assert told["overdue"] == 1
    assert "overdue" in page.get("/").text


def test_a_request_shows_its_timeline_and_hands_out_its_receipt_byte_for_byte(page: TestClient) -> None:
    told = page.get(f"/api/requests/{IDS[0]}").json()
    assert [event["kind"] for event in told["events"]][-3:] == ["forgetting", "adopted", "done"]
    assert (told["status"], told["method"], told["subject_name"]) == ("done", "fedquit", "north")
    assert page.get(f"/api/requests/{IDS[0]}/receipt").content == b'{"a": "receipt"}'
    assert page.get(f"/api/requests/{IDS[1]}/receipt").status_code == 404
    assert page.get("/api/requests/" + "0" * 64).status_code == 404
    assert page.get("/api/requests/x").status_code == 422


def test_prometheus_reads_the_figures(page: TestClient) -> None:
    lines = page.get("/metrics").text.splitlines()
    assert 'fedquit_bytes_total{federation="clinics",phase="forget",direction="up"} 900' in lines
    assert 'fedquit_requests{federation="clinics",status="asked"} 1' in lines
    assert 'fedquit_requests_overdue{federation="clinics"} 1' in lines
    assert all(line.startswith("#") or line.count(" ") == 1 for line in lines)


def test_a_device_is_waited_for_longer_where_the_server_was_away(page: TestClient, server: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{server}/ledger.db", clock=lambda: NOW)
    ledger.advance(IDS[1], of="asked", to="forgetting", kind="forgetting", method="fedquit")
    assert f"until {moment(NOW + 3600)}" in page.get(f"/api/requests/{IDS[1]}").json()["outlook"]
    ledger.note("server-away", request=IDS[1], member=1, facts={"seconds": 1800.0})
    ledger.close()
    for told in (page.get(f"/api/requests/{IDS[1]}").json(), page.get("/api/overview").json()["open"][0]):
        assert f"until {moment(NOW + 5400)}" in told["outlook"]


def test_a_flood_pushes_no_line_of_others_off_the_first_page(page: TestClient, server: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{server}/ledger.db", clock=lambda: NOW)
    ledger.note("revoked", member=0, facts={"reason": "stolen"})
    for number in range(1200):
        ledger.note("turned-away", facts={"reason": "bad-signature", "why": f"forged {number}"})
        if number % 10 == 0:
            facts = {"phase": "train", "step": 3, "reason": f"NaN {number}"}
            ledger.note("reply-refused", member=1, facts=facts)
    ledger.close()
    shown = [(event["kind"], event["member"]) for event in page.get("/api/overview").json()["lately"]]
    assert ("revoked", 0) in shown
    assert 0 < shown.count(("turned-away", None)) <= 3
    assert 0 < shown.count(("reply-refused", 1)) <= 3
    assert "stolen" in page.get("/").text


def test_who_is_connected_stands_in_the_figures_and_on_the_page(server: Path) -> None:
    looks = Looks(server)
    looks.note([0, 1], NOW - 90, 0.0)
    looks.note([0], NOW - 5, 85.0)
    page = TestClient(make_page(server, Federation(name="clinics"), clock=lambda: NOW + 30), base_url=HERE)
    lines = page.get("/metrics").text.splitlines()
    assert 'fedquit_devices_connected{federation="clinics"} 1' in lines
    assert f'fedquit_device_last_seen_timestamp_seconds{{federation="clinics",device="north"}} {NOW - 5}' in lines
    assert f'fedquit_last_look_timestamp_seconds{{federation="clinics"}} {NOW - 5}' in lines
    assert 'fedquit_oldest_open_request_age_seconds{federation="clinics"} 30.0' in lines
    free = next(line for line in lines if line.startswith("fedquit_disk_free_bytes"))
    assert float(free.split()[-1]) > 0
    shown = page.get("/").text
    assert '<td data-label="connected">yes</td>' in shown
    assert '<td data-label="connected">2 min ago</td>' in shown


def test_who_was_seen_outlives_a_restart_and_a_full_disk(tmp_path: Path) -> None:
    Looks(tmp_path).note([1], NOW, 0.0)
    looks = Looks(tmp_path)
    (tmp_path / SEEN).unlink()
    (tmp_path / SEEN).mkdir()  # nothing can be written there
    looks.note([2], NOW + 60, 60.0)
    assert look_of(tmp_path) == NOW + 60
    (tmp_path / SEEN).rmdir()
    looks.note([2], NOW + 120, 120.0)
    assert read_seen(tmp_path) == Seen(frozenset({2}), {1: NOW, 2: NOW + 120})


def test_nothing_can_be_changed(page: TestClient, server: Path) -> None:
    routes = [*page.get("/openapi.json").json()["paths"], "/", "/requests", "/rounds"]
    before = (server / "ledger.db").read_bytes()
    for path in routes:
        for method in ("post", "put", "patch", "delete"):
            assert getattr(page, method)(path.replace("{request_id}", IDS[0])).status_code == 405
    assert (server / "ledger.db").read_bytes() == before


def test_where_too_few_devices_are_left_the_page_says_how_many_are_waited_for(page: TestClient) -> None:
    waiting = "waiting for 1 more device: a round needs 2 and 1 take part"
    assert page.get("/healthz").json()["waiting"].startswith(waiting)
    assert waiting in page.get("/").text


def test_it_says_that_it_is_well_and_that_it_is_not(page: TestClient, tmp_path: Path) -> None:
    told = page.get("/healthz").json()
    assert (told["status"], told["federation"]) == ("ok", "clinics")
    lost = TestClient(make_page(tmp_path / "nowhere", Federation(name="clinics")), base_url=HERE)
    answer = lost.get("/healthz")
    assert answer.status_code == 503
    assert "ledger" in answer.json()["troubles"][0]


def test_health_says_that_a_disk_is_full_until_there_is_room(server: Path) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a disk that can be filled is mounted")
    small = server / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        shutil.copy(server / "ledger.db", small)
        page = TestClient(make_page(small, Federation(name="clinics"), clock=lambda: NOW), base_url=HERE)
        assert page.get("/healthz").json()["troubles"] == []
        with contextlib.suppress(OSError), (small / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(1 << 20))
        answer = page.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (503, "trouble")
        assert f"the disk of {small} is full" in answer.json()["troubles"][0]
        assert f"the disk of {small} is full" in page.get("/").text
        (small / "filler").unlink()
        assert page.get("/healthz").status_code == 200
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_health_says_that_the_last_step_failed_until_one_succeeds(page: TestClient, server: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{server}/ledger.db", clock=lambda: NOW)
    ledger.note("round-failed", facts={"reason": "1 reply can be used, 2 are needed"})
    ledger.note("no-reply", member=1, facts={"phase": "train", "step": 3, "reason": "unavailable"})
    answer = page.get("/healthz")
    assert answer.status_code == 503
    assert answer.json()["troubles"] == ["the last step failed (round-failed): 1 reply can be used, 2 are needed"]
    ledger.add_step(replace(step(3, "train", None), contributions=(Contribution(1, 80),)))
    assert page.get("/healthz").status_code == 200
    ledger.close()


def test_health_says_that_no_coordinator_comes_to_work(server: Path) -> None:
    federation = Federation(name="clinics")
    page = TestClient(make_page(server, federation, clock=lambda: NOW), base_url=HERE)
    (server / LOOKED).touch()
    os.utime(server / LOOKED, (NOW - 3800, NOW - 3800))
    assert page.get("/healthz").status_code == 200, "it may wait for a device that forgets"
    os.utime(server / LOOKED, (NOW - 4000, NOW - 4000))
    assert page.get("/healthz").json()["troubles"][0].startswith("no coordinator has looked at the devices for 4000 s")


def test_every_figure_says_what_it_is(page: TestClient) -> None:
    families = list(text_string_to_metric_families(page.get("/metrics").text))
    assert len(families) >= 8
    assert all(family.documentation and family.type in ("gauge", "counter") for family in families)


def test_a_certificate_that_ends_within_a_month_is_on_the_page_and_a_metric(server: Path) -> None:
    begun = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    authority = make_authority("clinics", begun)
    made = make_server_certificate(authority, ["localhost"], begun)
    (server / "ca.crt").write_bytes(authority.certificate_pem())
    (server / "server.pem").write_bytes(made.certificate_pem())
    ends = made.certificate.not_valid_after_utc.timestamp()
    for now, told in ((ends - 31 * 86_400, False), (ends - 29 * 86_400, True), (ends + 1, True)):
        page = TestClient(make_page(server, Federation(name="clinics"), clock=partial(float, now)), base_url=HERE)
        assert ("fedquit provision CONFIG --renew" in page.get("/").text) is told
        assert (len(page.get("/api/overview").json()["expiring"]) == 1) is told
        line = f'fedquit_certificate_ends_timestamp_seconds{{federation="clinics",certificate="server"}} {ends}'
        assert line in page.get("/metrics").text
    (server / "server.pem").write_text("no certificate")
    assert page.get("/").status_code == 200  # doctor says what is wrong with it


def test_the_page_and_the_figures_take_no_longer_after_years(tmp_path: Path) -> None:
    done = {}
    for rounds in (1100, 3300):
        (tmp_path / str(rounds)).mkdir()
        built(tmp_path / str(rounds), rounds, devices=2)
        page = TestClient(make_page(tmp_path / str(rounds), Federation(name="clinics")), base_url=HERE)
        for path in PATHS:
            page.get(path).raise_for_status()  # what is read once is read
        with counted() as work:
            for path in PATHS:
                page.get(path).raise_for_status()
        done[rounds] = work.done
    assert done[3300] < 1.1 * done[1100], done


PATHS = ("/", "/requests", "/rounds", "/api/overview", "/api/steps?limit=50", "/metrics", "/healthz")
