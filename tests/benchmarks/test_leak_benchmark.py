"""The tables of leaks and of malicious requests: tiny federations, real attacks, resumed where they stopped."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.benchmarks.requests import leak, malicious_requests

TINY = {"rounds": 1, "samples": 200, "clients": 4}


def test_the_leak_table_is_resumed_and_shows_who_reads_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leak, "DATA", {("digits", "mlp"): TINY})
    monkeypatch.setattr(leak, "PICTURE_SIZES", (1,))
    out = tmp_path / "leak"
    told = ["--method", "fedquit", "--method", "negate", "--size", "1", "--trials", "6", "--picture-trials", "1"]
    first = CliRunner().invoke(leak.main, [*told, "--out", str(out)], catch_exceptions=False)
    assert first.stderr.count("done") == 3
    again = CliRunner().invoke(leak.main, [*told, "--out", str(out)], catch_exceptions=False)
    assert "done" not in again.stderr
    cells = json.loads((out / "leak.json").read_text())
    server = cells["digits/mlp/fedquit/1"]["server"]
    assert server["games"]["same_class"]["replay"]["auc"] == 1.0
    assert set(cells["digits/mlp/negate/1"]) == {"device, direct", "device, direct, control"}  # no device is asked
    text = (tmp_path / "leak.md").read_text()
    assert "| fedquit | 1 | server | 6 |" in text
    assert (out / "reconstructions-digits-mlp.png").read_bytes().startswith(b"\x89PNG")


def test_malicious_requests_are_decided_by_the_guard_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malicious_requests, "GIVEN", {**malicious_requests.GIVEN, **TINY, "rounds": 2})
    monkeypatch.setattr(malicious_requests, "IN_A_ROW", (1, 2))
    done = CliRunner().invoke(malicious_requests.main, ["--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["in a row, honest"]["adopted"] == "2 of 2"
    assert found["hidden backdoor"]["verdict"] in ("adopt", "refuse")
    assert set(found["in a row, none"]["accuracy"]) == {"before", "after 1", "after 2"}
