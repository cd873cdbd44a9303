"""The table of codings: savings and losses are against the uncoded run of the same seed."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.benchmarks import codecs


def test_each_coding_is_held_against_the_uncoded_run_of_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, table = tmp_path / "tiny.toml", tmp_path / "table.md"
    config.write_text('model = "mlp"\nclients = 3\nsamples = 90\nscheme = "iid"\nholdout = 40\nrounds = 1\n')
    monkeypatch.setattr(codecs, "CODINGS", (("", "", ""), ("zstd", "fp16", "level=1")))
    monkeypatch.setattr(codecs, "FIXED", {**codecs.FIXED, "recover-rounds": 1})
    told = ["--workers", "1", "--out", str(table), "--json", str(config)]
    done = CliRunner().invoke(codecs.main, told, catch_exceptions=False)
    assert done.exit_code == 0
    plain, coded = json.loads(done.stdout)["rows"]
    assert plain["saved_up"]["mean"] == plain["lost_test"]["mean"] == 0
    assert plain["error_up"] is None
    assert 0.1 < coded["saved_up"]["mean"] < 0.5 < coded["saved_down"]["mean"] + 0.02 < 0.6
    assert (coded["error_up"]["mean"], coded["error_up"]["n"]) == (0, 2)
    text = table.read_text()
    assert text.startswith("digits, 90 training samples, 3 clients, iid; mlp; 1 rounds")
    assert "| zstd | fp16 | level=1 |" in text
