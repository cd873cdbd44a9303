"""The benchmark of speed: its engines do the same work, and its page has what was measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.benchmarks.speed import __main__ as speed
from tests.benchmarks.speed.machine import MemoryPeak, matrix_rate, of_ray
from tests.benchmarks.speed.passes import time_passes
from tests.benchmarks.speed.speed_page import draw, page
from tests.benchmarks.speed.turns import time_work
from tests.benchmarks.speed.whole_runs import FEDERATIONS
from tests.benchmarks.speed.works import WORKS, Work, federation

TINY = {"dataset": "digits", "clients": 12, "fraction": 0.5, "scheme": "iid", "samples": 240, "model": "mlp"}


@pytest.fixture(scope="module")
def timed() -> dict[str, Any]:
    """A small work, timed on the engines that need no Ray."""
    return time_work(Work("tiny", TINY), workers=2, runs=2, ray=False, seconds=0.0)


def test_the_engines_do_the_same_work(timed: dict[str, Any]) -> None:
    assert set(timed["engines"]) == {"in-process", "stacked", "bare processes"}
    assert max(timed["largest_difference"].values()) < 1e-5
    for engine in timed["engines"].values():
        assert len(engine["seconds"]) == 2
        assert engine["first"] > 0
        assert engine["memory_mib"] > 50, "processes of its own with PyTorch in them"


def test_the_page_has_what_was_measured(timed: dict[str, Any], tmp_path: Path) -> None:
    run = {"seconds": 12.3, "cpu_seconds": 3.0, "first_round_seconds": 4.5, "seconds_of_an_update": 0.0067}
    whole = {"load": [1.0, 2.0], "first_round_seconds": [5.0, 7.0, 6.0]}
    whole["runs"] = {name: {**run, "server_peak_mib": 890.0, "peak_mib": 1234.0} for name in FEDERATIONS}  # type: ignore[assignment]
    versions = {"torch": "1", "flwr": "2", "python": "3"}
    document = {"date": "today", "machine": "this", "versions": versions, "workers": 2, "whole": whole}
    document["works"] = {"tiny": timed}
    document["pass"] = {"date": "now", **time_passes(Work("tiny", TINY), runs=2, count=40)}
    text = page(document)
    for engine in timed["engines"].values():
        assert f"| {engine['median']:.3f} s | {engine['to_bare']:.2f} |" in text
    assert "| 100,000 | 1,000 | 12.3 s | 4.5 s | 6.70 ms | 890 MiB | 1,234 MiB |" in text
    found = document["pass"]
    assert f"| FedQUIT's pass | {found['medians']['pass']:.3f} s | {found['to_epoch']['pass']:.2f} |" in text  # type: ignore[index]
    assert "first round of 100 clients of\ndigits: 6.0 s." in text
    draw(document, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_works_and_federations_are_settings_that_can_be() -> None:
    for work in WORKS.values():
        assert work.settings().clients >= 10
    for clients, asked in FEDERATIONS.values():
        assert round(federation(clients, asked, 3)["fraction"] * clients) == asked


def test_the_machine_is_measured() -> None:
    assert matrix_rate(64, seconds=0.01) > 0
    with MemoryPeak() as peak:
        pass
    assert peak.mib > 50


def test_a_worker_is_not_one_of_rays_for_naming_a_path_of_its() -> None:
    code = [sys.executable, "-c", "import sys; sys.stdin.read()", "sys_path=['/site-packages/ray/thirdparty_files']"]
    with subprocess.Popen(code, stdin=subprocess.PIPE) as process:
        assert not of_ray(process.pid)


def test_the_pass_can_be_timed_again_beside_a_whole_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = json.loads(Path("docs/results/speed.json").read_text(encoding="utf-8"))
    (tmp_path / "speed.json").write_text(json.dumps(whole), encoding="utf-8")
    tiny = time_passes(Work("tiny", TINY), runs=1, count=40)
    monkeypatch.setattr(speed, "time_passes", lambda work, runs: tiny)
    CliRunner().invoke(speed.main, ["--only-pass", "--out", str(tmp_path)], catch_exceptions=False)
    again = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert again["pass"]["medians"] == tiny["medians"]
    assert {**again, "pass": 0} == {**whole, "pass": 0}
    without = CliRunner().invoke(speed.main, ["--only-pass", "--out", str(tmp_path / "none")])
    assert "--only-pass: give --out" in without.output
