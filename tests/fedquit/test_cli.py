"""What the command line promises: for a mistake one clear line and an exit code, with --json one JSON document."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedquit.cli import COMMANDS
from fedquit.settings import Part, keys_of

Run = Callable[..., tuple[int, str, str]]
TINY = ["--model", "mlp", "--clients", "3", "--alpha", "1", "--rounds", "1", "--recover", "budget"]
TINY += ["--recover-rounds", "1", "--references", "1", "--workers", "1"]


def one_line(err: str) -> str:
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("fedquit: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "digitz"], "unknown dataset 'digitz' (did you mean 'digits'?)"),
        (["--model", "resnet81"], "unknown model 'resnet81' (did you mean 'resnet18'?)"),
        (["--method", "fedquitt"], "unknown method 'fedquitt' (did you mean 'fedquit'?)"),
        (["--teacher", "mim"], "(did you mean 'min'?)"),
        (["--clients", "0"], "clients: "),
        (["--forget", "7"], "there is no client 7; clients are 0..4"),
        (["--forget", "0,1,2,3,4"], "all 5 clients would leave"),
        (["--clients", "5000"], "5000 clients cannot share 1438 samples"),
        (["--alpha", "-1"], "alpha: "),
        (["--lr", "fast"], "lr: "),
        (["--recover", "hope"], "recover: "),
        (["--recover", "oracle", "--reference", "none"], "recover = oracle"),
        (["--method-settings", "lr=0"], "lr"),
        (["--method-settings", "speed=3"], "speed"),
        (["--objective", "fedntt"], "unknown objective 'fedntt' (did you mean 'fedntd'?)"),
        (["--objective", "fedprox", "--objective-settings", "mu=-1"], "mu is -1"),
        (["--gate", "adaptive"], "objective 'fedavg' has no per-sample distillation loss to gate"),
        (["--iid", "--scheme", "shards"], "exclude each other"),
        (["--partition", "nowhere.json"], "nowhere.json"),
        (["--model", "alexnet"], "perhaps too small"),
        (["--resume"], "--resume needs --out"),
        (["nowhere.toml"], "no such config file: nowhere.toml"),
        (["--colour", "red"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_gets_one_line_and_exit_code_4_and_writes_nothing(
    run: Run, tmp_path: Path, arguments: list[str], said: str
) -> None:
    code, out, err = (
        run("simulate", "--workers", "1", "--out", str(tmp_path / "run"), *arguments)
        if ("--resume" not in arguments)
        else run("simulate", *arguments)
    )
    assert code == 4
    assert said in one_line(err)
    assert ".;" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command_once_under_the_people_it_is_for(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    sections = re.findall(r"^For ([a-z]+)\b.*:\n((?:  .*\n)+)", out, flags=re.MULTILINE)
    named = {people: re.findall(r"^  ([a-z]+) ", text, flags=re.MULTILINE) for people, text in sections}
    assert list(named) == ["researchers", "operators", "owners"]
    assert sorted(name for names in named.values() for name in names) == sorted(COMMANDS)
    assert {"simulate", "compare"} <= set(named["researchers"])
    assert "serve" in named["operators"]
    assert {"join", "forget"} <= set(named["owners"])


SENTENCES = (
    "Verdict",
    "Guard",
    "Forgetting",
    "Recover",
    "Figures",
    "Cost of retraining",
    "federaser:",
    "projected-ascent:",
)
"""How the lines between tables begin, which a terminal wraps."""


def test_tables_fit_80_columns_with_nothing_cut_off(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    folder = str(tmp_path / "run")
    assert run("simulate", *TINY, "--budget", "1", "--forget", "0;1", "--out", folder)[0] == 0  # five stages
    shown = {name: run(name)[1] for name in ("--help", "methods", "objectives", "strategies", "codecs", "configs")}
    shown |= {name: run(name, folder)[1] for name in ("report", "costs")}
    shown |= {"plan": run("plan", folder, "--forget", "1", "--link", "0.5")[1]}
    for name, text in shown.items():
        table = [line for line in text.splitlines() if not line.startswith(SENTENCES)]
        assert len(table) > 5, name
        assert [line for line in table if len(line.rstrip()) > 80] == [], name
        assert "…" not in re.sub(r"=…", "", "\n".join(table)), name


def test_objectives_are_listed_for_people_and_for_programs(run: Run) -> None:
    code, out, _ = run("objectives", "--json")
    listed = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert listed["moon"]["keeps"] == "previous model"
    assert listed["fedgkd"]["down"] == "two models"
    assert "fedntd" in run("objectives")[1]


def test_strategies_are_listed_for_people_and_for_programs(run: Run) -> None:
    code, out, _ = run("strategies", "--json")
    listed = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert listed["fedadam"]["settings"] == {"eta": 0.1, "beta-1": 0.9, "beta-2": 0.99, "tau": 0.001}
    assert listed["krum"]["settings"] == {"num-malicious-nodes": None}
    assert listed["fedavgm"]["keeps"] == "momentum"
    assert (listed["server-fixed"]["setting"], listed["server-fixed"]["reads_single"]) == ("dp", True)
    assert "num-malicious-nodes=…" in run("strategies")[1]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--strategy", "fedadm"], "unknown strategy 'fedadm' (did you mean 'fedadam'?)"),
        (["--strategy", "krum"], "strategy 'krum' needs these settings: num_malicious_nodes"),
        (["--strategy", "fedadam", "--strategy-settings", "name=1"], "unknown setting of strategy 'fedadam' 'name'"),
        (["--method-settings", "name=1"], "unknown setting of method 'fedquit' 'name'"),
    ],
)
def test_a_mistake_in_a_strategy_gets_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, flags: list[str], said: str
) -> None:
    code, out, err = run("simulate", *TINY, *flags, "--out", str(tmp_path / "run"))
    assert code == 4
    assert said in one_line(err)
    assert out == ""


def test_codecs_are_listed_for_people_and_for_programs(run: Run) -> None:
    code, out, _ = run("codecs", "--json")
    listed = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert listed["top-k"]["settings"] == {"share": 0.01, "feedback": True}
    assert listed["zstd"]["exact"]
    assert "svd" in run("codecs")[1]


def test_a_compressed_run_reports_bytes_saved_and_error(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    code, out, _ = run("simulate", *TINY, "--compress-up", "int8", "--compress-down", "zstd", "--json", "--out", folder)
    train = json.loads(out)["phases"]["train"]
    assert code == 0
    assert 0 < train["compression_error_up"] < 0.1
    assert train["compression_error_down"] == 0
    assert train["bytes_up"] < 0.35 * train["bytes_down"]
    assert "codec error, up" in run("report", folder)[1]
    account = json.loads(run("costs", folder, "--json")[1])["phases"]["train"]
    assert account["payload_bytes_up"] == train["bytes_up"]
    assert account["saved_bytes_up"] > 2 * train["bytes_up"]
    assert "saved by codecs" in run("costs", folder)[1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--compress-up", "int9"], "unknown codec 'int9' (did you mean 'int8'?)"),
        (["--compress-down", "top-k"], "compress-down: top-k leaves most of a model out"),
        (["--compress-up", "top-k", "--compress-settings", "share=2"], "share is 2"),
    ],
)
def test_a_coding_that_cannot_be_is_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, wrong: list[str], said: str
) -> None:
    code, _, err = run("simulate", *TINY, *wrong, "--out", str(tmp_path / "run"))
    assert code == 4
    assert said in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_an_objective_keeps_what_devices_keep_in_its_folder(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("simulate", *TINY, "--objective", "moon", "--json", "--out", str(tmp_path / "run"))
    assert code == 0
    assert json.loads(out)["config"]["objective"] == "moon"
    assert list((tmp_path / "run" / "devices").glob("*/1/1-recover/*.safetensors"))


def test_help_has_every_setting_once_under_the_heading_of_its_group(run: Run) -> None:
    code, out, _ = run("simulate", "--help")
    headings = ["Data", "Model", "Clients", "Training", "Forgetting", "Evaluation", "Seeds", "Options"]
    assert code == 0
    assert re.findall(r"^(\w+):$", out, flags=re.MULTILINE) == headings
    flags = re.findall(r"^(?:  --|\w)([a-z-]+)", out.partition("Data:")[2], flags=re.MULTILINE)
    settings = tuple(flag for flag in flags if flag in keys_of(*Part))
    assert settings == keys_of(*Part)
    assert "--workers" in out.partition("Options:")[2]


def test_an_unknown_key_in_a_config_file_is_named_with_its_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("rouns = 3\n")
    code, _, err = run("simulate", str(file), "--out", str(tmp_path / "run"))
    assert code == 4
    assert "run.toml: unknown key 'rouns' (did you mean 'rounds'?)" in one_line(err)
    assert not (tmp_path / "run").exists()


def write_npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_a_file_without_classes_and_a_truncated_one_are_named(run: Run, tmp_path: Path) -> None:
    no_labels = write_npz(tmp_path / "a.npz", x=np.zeros((20, 4), dtype=np.float32))
    one_class = write_npz(tmp_path / "b.npz", x=np.zeros((20, 4), dtype=np.float32), y=np.zeros(20, dtype=int))
    cut = write_npz(tmp_path / "c.npz", x=np.zeros((20, 400), dtype=np.float32), y=np.arange(20) % 2)
    cut.write_bytes(cut.read_bytes()[:1000])
    for file in (no_labels, one_class, cut):
        code, _, err = run("simulate", "--dataset", str(file), "--out", str(tmp_path / "run"), "--workers", "1")
        assert code == 4
        assert file.name in one_line(err)
        assert not (tmp_path / "run").exists()


def test_flags_win_over_the_file_and_the_file_over_defaults(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "mlp"\nclients = 3\nalpha = 1.0\nrounds = 2\nreferences = 1\nrecover-rounds = 1\n')
    code, out, _ = run("simulate", str(file), "--rounds", "1", "--workers", "1", "--out", str(tmp_path / "o"), "--json")
    config = json.loads(out)["config"]
    assert code == 0
    assert (config["rounds"], config["clients"], config["lr"]) == (1, 3, 0.1)


def test_with_json_standard_output_is_the_report_and_nothing_else(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("simulate", *TINY, "--out", str(tmp_path / "run"), "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "run" / "report.json").read_text())
    assert json.loads(run("report", str(tmp_path / "run"), "--json")[1]) == json.loads(out)
    summary = json.loads(run("summary", str(tmp_path / "run"), str(tmp_path / "run"), "--json")[1])
    assert summary["mean"]["recovered_test_accuracy"] == json.loads(out)["stages"]["recovered"]["test_accuracy"]
    assert summary["standard_deviation"]["recovered_test_accuracy"] is None, "a run that is given twice counts once"


def test_with_json_a_mistake_is_a_document_too(run: Run) -> None:
    code, out, err = run("simulate", "--dataset", "digitz", "--json")
    assert json.loads(out)["exit_code"] == code == 4
    assert "digitz" in json.loads(out)["error"]
    one_line(err)


def test_without_json_people_get_a_table_and_the_place_of_the_files(run: Run, tmp_path: Path) -> None:
    code, out, err = run("simulate", *TINY, "--out", str(tmp_path / "run"))
    assert code == 0
    for word in ("original", "unlearned", "recovered", "retrained", "forget accuracy", "Verdict", str(tmp_path)):
        assert word in out
    assert "train 1/1" in err


def test_an_existing_folder_is_overwritten_only_with_the_flag(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run("simulate", *TINY, "--out", str(out))[0] == 0
    before = (out / "report.json").read_bytes()
    code, _, err = run("simulate", *TINY, "--seed", "1", "--out", str(out))
    assert code == 4
    assert "--resume" in one_line(err)
    assert (out / "report.json").read_bytes() == before
    assert run("simulate", *TINY, "--seed", "1", "--out", str(out), "--overwrite")[0] == 0
    assert (out / "report.json").read_bytes() != before


def test_a_folder_of_something_else_is_never_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, err = run("simulate", *TINY, "--out", str(tmp_path), "--overwrite")
    assert code == 4
    assert "not the folder of a run" in one_line(err)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def fedquit(*arguments: str, before: list[str] | None = None, **how: object) -> subprocess.CompletedProcess[str]:
    command = [*(before or []), sys.executable, "-m", "fedquit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **how)  # type: ignore[call-overload,no-any-return]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    # root may write everywhere unless it gives that right up
    as_anyone = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    done = fedquit("simulate", *TINY, "--out", str(locked / "run"), before=as_anyone)
    assert done.returncode == 1, done.stderr
    assert f"cannot write {locked / 'run'}: Permission denied" in one_line(done.stderr)
    assert list(locked.iterdir()) == []


def test_a_full_disk_is_reported_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    import resource

    def small_files() -> None:  # as a full disk: the mlp's model is some 210 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = fedquit("simulate", *TINY, "--out", str(tmp_path / "run"), preexec_fn=small_files)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert "--resume" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.partial"))
    assert fedquit("simulate", "--resume", "--out", str(tmp_path / "run"), "--workers", "1").returncode == 0


def test_help_needs_neither_torch_nor_flower() -> None:
    heavy = "import sys; sys.argv = ['fedquit', {args}]\n"
    heavy += "from fedquit.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    heavy += "print(sorted({{'torch', 'flwr', 'numpy', 'matplotlib', 'datasets'}} & set(sys.modules)), file=sys.stderr)"
    for arguments in ("'--help'", "'--version'", "'simulate', '--help'"):
        done = subprocess.run(
            [sys.executable, "-c", heavy.format(args=arguments)], capture_output=True, text=True, check=True
        )
        assert done.stderr.strip() == "[]"
        assert "fedquit" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("costs", "RUN", "--link", "nan"),
        ("costs", "RUN", "--energy", "inf"),
        ("plan", "RUN", "--link", "nan"),
        ("watch", "KIT", "5ba1c2d3", "--timeout", "nan"),
        ("join", "KIT", "--silent", "nan"),
    ],
    ids=" ".join,
)
def test_an_option_refuses_nan_and_infinity(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (4, "")
    assert "is not a finite number" in err
