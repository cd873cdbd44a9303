"""Others' code beside ours: our rows, their files where they are, and the page made from the published figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedquit import read_report
from tests.benchmarks.others import others_page


def test_others_weights_stand_beside_ours_and_what_is_missing_has_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others_page, "SEEDS", (3,))
    monkeypatch.setattr(others_page, "RUN", {**others_page.RUN, "rounds": 2, "recover-rounds": 1})
    monkeypatch.setattr(others_page, "OURS", {"orthogonal, ours": {"method": "orthogonal"}})
    assert others_page.our_run(tmp_path, 3).config["seed"] == 3
    with np.load(tmp_path / "3" / "run.npz", allow_pickle=False) as exported:
        weights = {name: exported[f"original/{name}"] for name in exported["names"]}
    np.savez(tmp_path / "3" / "theirs-0.npz", **weights)
    (tmp_path / "3" / "theirs-0.json").write_text('{"sent": 12345}')
    results = others_page.make_results(tmp_path, {})
    rows = {row["model"]: row for row in results["seeds"]["3"]}
    names = ["retrained, mean of five", "original", "fedquit, ours", "continue, ours", "orthogonal, ours"]
    assert list(rows) == [*names, next(iter(others_page.THEIRS))]
    theirs, original = rows[next(iter(others_page.THEIRS))], rows["original"]
    assert theirs["forget"] == original["forget"]
    assert (theirs["verdict"], original["verdict"]) == ("not consistent", "not consistent"), "a copy is recognised"
    retrain = read_report(tmp_path / "3" / "run").phases["retrain"]
    assert theirs["sent"] == pytest.approx(4 * 12345 / (retrain.bytes_down + retrain.bytes_up))
    assert rows["orthogonal, ours"]["sent"] > rows["fedquit, ours"]["sent"] > rows["continue, ours"]["sent"] > 0
    page = others_page.make_page(results)
    assert all(f"| {name} |" in page for name in rows)


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
from exported_run import arguments, work_in_scratch_folder
given = arguments("a program")
work_in_scratch_folder()
Path("large").write_text("what their code writes beside itself")
given.out.write_text("the weights")
"""


def test_what_others_code_writes_beside_itself_is_removed_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    paths = ["--code", "theirs", "--run", "run.npz", "--out", "weights"]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), *paths],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        check=True,
        timeout=300,
    )
    assert list((tmp_path / "temporary").iterdir()) == []
    assert (tmp_path / "weights").read_text() == "the weights"


def test_the_page_of_others_code_is_made_from_its_published_figures() -> None:
    document = json.loads(others_page.JSON.read_text(encoding="utf-8"))
    assert others_page.PAGE.read_text(encoding="utf-8") == others_page.make_page(document)
