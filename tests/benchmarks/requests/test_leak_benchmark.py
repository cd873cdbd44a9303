"""The tables of leaks and of malicious requests: tiny federations, real attacks, resumed where they stopped."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.benchmarks.requests import leak, malicious_requests

ROOT = Path(__file__).parents[3]
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
    summary, page = (tmp_path / "leak.md").read_text(), (out / "digits-mlp.md").read_text()
    assert re.search(r"\| digits, mlp \| the server; a device, direct \| \d of 6 \| \d of 1 \| 1\.00 \(", summary)
    assert "[digits, mlp](leak/digits-mlp.md); without `ascent`, " in summary
    assert re.search(r"\| fedquit \| 1\.00, 1\.00, \d\.\d\d; nothing \d\.\d\d \|", summary)
    assert re.search(
        r"tells them apart with an AUC of \d\.\d\d for one sample \(digits, mlp: ", summary.replace("\n", " ")
    )
    assert "In 1 attempt each, no image was rebuilt" in summary.replace("\n", " ")
    assert "| fedquit | 1 | server | 6 |" in page
    assert "| fedquit | 1 | device, deferred | 6 |" in page
    for name in ("reconstructions-digits-mlp.png", "games.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_a_method_that_uses_no_candidate_is_shown_without_a_game(tmp_path: Path) -> None:
    cells = json.loads((ROOT / "docs/results/leak/leak.json").read_text(encoding="utf-8"))
    for name, cell in cells.items():
        if "device, direct" in cell and "server" not in cell:  # ties: no attacker can gain from a candidate
            areas = {kind["replay"]["auc"] for seen in cell.values() for kind in seen["games"].values()}
            assert areas == {0.5}, name
    out = tmp_path / "leak"
    out.mkdir()
    kept = {name: cell for name, cell in cells.items() if re.fullmatch(r"digits/mlp/(fedquit|negate|continue)/1", name)}
    (out / "leak.json").write_text(json.dumps(kept), encoding="utf-8")
    assert CliRunner().invoke(leak.main, ["--report-only", "--out", str(out)], catch_exceptions=False).exit_code == 0
    summary, page = (tmp_path / "leak.md").read_text(), (out / "digits-mlp.md").read_text()
    assert "*No game* (`negate`, `continue`): the asking device takes no part" in summary
    for name in ("negate", "continue"):
        assert f"| {name} | no game |" in summary
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        assert row.count("no game") == 4  # both kinds, and their controls
        assert "0.50 (" not in row
    assert "| fedquit | no game |" not in summary


def test_the_page_says_what_noise_costs_hides_and_whether_the_guard_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leak, "DATA", {("digits", "mlp"): TINY})
    monkeypatch.setattr(leak, "NOISES", (0.0, 100.0))
    monkeypatch.setattr(leak, "TOGETHER", (1, 2))
    monkeypatch.setattr(leak, "MOST_ROUNDS", 2)
    out = tmp_path / "leak"
    told = ["--noise", "--trials", "4", "--picture-trials", "0", "--out", str(out)]
    assert CliRunner().invoke(leak.main, told, catch_exceptions=False).exit_code == 0
    cells = json.loads((out / "leak.json").read_text())
    assert {one["verdict"] for one in cells["digits/mlp/noise/0"]["guard"]} == {"adopt"}
    text = (tmp_path / "leak.md").read_text()
    assert "| 100 | 0.51 |" in text
    assert "| 2 | device, deferred | 4 |" in text
    assert "(leak/noise-digits-mlp.png)" in text


def test_malicious_requests_are_decided_by_the_guard_and_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(malicious_requests, "GIVEN", {**malicious_requests.GIVEN, **TINY, "rounds": 2})
    monkeypatch.setattr(malicious_requests, "IN_A_ROW", (1, 2))
    told = ["--seeds", "2", "--json", "--out", str(tmp_path / "table.md")]
    done = CliRunner().invoke(malicious_requests.main, told, catch_exceptions=False)
    first, second = json.loads(done.stdout)
    assert first["in a row, honest"]["adopted"] == "2 of 2"
    assert first["wrong labels, 10 times the reach"]["verdict"] == "refuse"
    assert first["against ten targets, amplified 10 times"]["verdict"] == "refuse"
    assert first["hidden backdoor"]["verdict"] in ("adopt", "refuse")
    assert set(first["in a row, none"]["accuracy"]) == {"before", "after 1", "after 2"}
    assert first["in a row, none"] != second["in a row, none"]  # another seed, another federation
    assert " ± " in (tmp_path / "table.md").read_text()
