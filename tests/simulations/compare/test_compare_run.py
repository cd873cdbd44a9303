"""A comparison end to end, tiny: what it writes, that each row can be repeated, and that it survives being killed."""

import html
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import fedquit
from fedquit.documents import Document, Listener
from fedquit.errors import FedquitError, InputError
from fedquit.server.run.run_folder import read_state
from fedquit.simulations.compare.cells.plan_cells import Cell
from fedquit.simulations.compare.cells.run_cells import BEGIN, DIED
from fedquit.simulations.compare.command import compare as command
from fedquit.simulations.compare.comparison import run_comparison
from fedquit.simulations.compare.results.cell_measures import distances, measure_row
from fedquit.unlearning.evaluation.verdict import present_rule

SETTINGS = 'model = "mlp"\nclients = 3\nalpha = 1.0\nrounds = 3\n'
TINY = f"""
title = "Tiny"
targets = [[1]]
seeds = [0, 4]
references = 5
budget = 3
[settings]
{SETTINGS}
[methods.fedquit]
[methods."turned round"]
method = "negate"
[methods.federaser]
"""
CELLS = 2 * (1 + 1 + 3)


def write(folder: Path, text: str = TINY) -> Path:
    (folder / "a.toml").write_text(text)
    return folder / "a.toml"


@contextmanager
def silence(cells: Sequence[Cell], out: Path) -> Iterator[Listener]:
    yield lambda _event: None


def run(config: Path, out: Path, **how: Any) -> Document:
    return run_comparison(config, out=out, **{"jobs": 2, "progress": silence, **how})[1]


def outcome(document: Document) -> Document:
    """What must be the same whenever and however often it is run: all but times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: timeless(part) for key, part in value.items() if "seconds" not in key}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    found: Document = timeless(document)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Document]:
    folder = tmp_path_factory.mktemp("compare")
    return folder / "out", run(write(folder), folder / "out")


def test_python_has_the_comparison_with_types_and_tables(finished: tuple[Path, Document], tmp_path: Path) -> None:
    out, document = tmp_path / "out", finished[1]
    shutil.copytree(finished[0], out)
    found = fedquit.compare(tomllib.loads(TINY), out=out, resume=True, progress=False)  # nothing is left to do
    assert outcome(found.document) == {**outcome(document), "source": "comparison"}
    assert fedquit.read_results(out) == found
    assert found.failures == []
    assert [(row.name, row.method, row.cells) for row in found.rows] == [
        ("fedquit", "fedquit", 2), ("turned round", "negate", 2), ("federaser", "federaser", 2)
    ]  # fmt: skip
    gap = found.rows[1].measures["forget_gap"]
    assert gap is not None
    assert gap.n == 2
    pytest.importorskip("pandas", reason="pandas is not installed")
    rows, cells = found.frame(), found.frame("cells")
    assert list(rows.index) == ["fedquit", "turned round", "federaser", "retrained (reference)"]
    assert rows.loc["turned round", "forget_gap"] == gap.mean
    assert cells.loc["turned round", "forget_gap"].abs().mean() == pytest.approx(gap.mean)


def test_a_resumed_comparison_of_an_earlier_rule_is_judged_by_the_present_one(
    finished: tuple[Path, Document], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    for name in ("compare.json", "summary.json"):
        old = json.loads((out / name).read_text())
        assert old.pop("rule") == present_rule()
        for row in old["rows"]:
            row["verdicts"] = {"consistent with retraining": 2}
        (out / name).write_text(json.dumps(old))
    assert "an earlier rule" in fedquit.read_results(out).note_of_rule
    run(write(tmp_path), out, resume=True)
    found = fedquit.read_results(out)
    assert (found.note_of_rule, found.document["rule"]) == ("", present_rule())
    assert [row["verdicts"] for row in found.document["rows"]] == [row["verdicts"] for row in finished[1]["rows"]]


def test_every_row_is_measured_on_every_target_with_every_seed(finished: tuple[Path, Document]) -> None:
    document = finished[1]
    assert document["failed"] == 0
    met = [(cell["row"], tuple(cell["target"]), cell["seed"]) for cell in document["cells"]]
    assert len(met) == len(set(met)) == 3 * 2
    assert [(row["name"], row["method"]) for row in document["rows"]] == [
        ("fedquit", "fedquit"),
        ("turned round", "negate"),
        ("federaser", "federaser"),
    ]
    for row in document["rows"]:
        assert row["measures"]["forget_gap"]["n"] == 2
        assert sum(row["verdicts"].values()) == 2
    assert {"fedquit", "torch", "flwr"} <= set(document["versions"])


def test_the_folder_holds_raw_results_report_and_figures(finished: tuple[Path, Document]) -> None:
    out, document = finished
    assert json.loads((out / "compare.json").read_text()) == document
    report = (out / "report.md").read_text()
    for figure in ("gap-against-bytes.png", "gap-against-seconds.png", "worst-groups.png"):
        assert (out / figure).read_bytes().startswith(b"\x89PNG")
        assert f"({figure})" in report
    assert "| turned round |" in report
    page = (out / "report.html").read_text()
    assert all(cell["command"] in html.unescape(page) for cell in document["cells"])


def test_with_a_seed_all_rows_start_from_the_same_model_and_seeds_differ(finished: tuple[Path, Document]) -> None:
    original = {(cell["seed"], cell["measures"]["models"]["original"]) for cell in finished[1]["cells"]}
    assert sorted(seed for seed, _ in original) == [0, 4]
    assert len({sha for _, sha in original}) == 2
    untrained = {read_state(finished[0] / f"seed-{seed}" / "base").models["initial"] for seed in (0, 4)}
    assert len(untrained) == 1


def test_what_training_kept_to_replay_is_removed_when_all_is_done(finished: tuple[Path, Document]) -> None:
    assert not list(finished[0].rglob("history"))
    assert finished[1]["rows"][2]["measures"]["forget_gap"], "federaser had it to replay"


def test_no_method_spends_more_than_its_budget_unless_that_is_said(finished: tuple[Path, Document]) -> None:
    for cell in finished[1]["cells"]:
        if cell["row"] == "fedquit":
            assert 0.6 < cell["measures"]["budget_used"] <= 1
    replays = [cell["measures"]["budget_used"] for cell in finished[1]["cells"] if cell["row"] == "federaser"]
    more = sum(used > 1.01 for used in replays)
    assert more >= 1, "federaser replays two rounds and then recovers"
    assert finished[1]["rows"][2]["over_budget"] == more
    assert f"({more} of 2 spent more)" in (finished[0] / "report.md").read_text()


def test_the_command_in_the_report_repeats_the_run(finished: tuple[Path, Document], tmp_path: Path) -> None:
    out, document = finished
    for row in ("fedquit", "federaser"):
        wanted = next(c for c in document["cells"] if (c["row"], c["target"], c["seed"]) == (row, [1], 4))
        flags = f"--forget 1 --method {row} --guard adopt --recover-rounds 3 --budget 3 --references 5 --seed 4 --"
        (line,) = [line for line in (out / "report.md").read_text().splitlines() if flags in line]
        words = [*shlex.split(line)[1:], "--workers", "1", "--out", str(tmp_path / row), "--json"]
        done = subprocess.run([sys.executable, "-m", "fedquit", *words], capture_output=True, text=True, check=True)
        report = json.loads(done.stdout)
        assert line == wanted["command"]
        remembered = report["memorised"]
        left = remembered["left"] and remembered["left"]["value"]
        by_verdict = {"verdict": report["verdict"], **distances(report["verdict"])}
        by_verdict |= {"memorised": remembered, "memorised_left": left}
        measures = {**measure_row(report, report), **by_verdict}
        models = {name: measures["models"][name] for name in wanted["measures"]["models"]}  # alone it has control, too
        assert outcome({**measures, "models": models}) == outcome(wanted["measures"]), "to the digit"
        assert {"original", "unlearned", "recovered", "later"} <= models.keys()
        assert report["verdict"] == wanted["measures"]["verdict"]
        assert report["verdict"]["measures"], "judged: there are five references of as many rounds"


def start(config: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    words = ["compare", str(config), "--out", str(out), "--jobs", "2", *flags]
    return subprocess.Popen(
        [sys.executable, "-m", "fedquit", *words],
        env={**os.environ, "TMPDIR": str(config.parent)},  # where it leaves what it cannot remove
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job has it ignored
    )


def done_in(out: Path) -> dict[Path, int]:
    """The files that say that a cell is done, and when they were written."""
    files = [*out.glob("seed-*/base/cell.json"), *out.glob("seed-*/target-*/*/cell.json")]
    return {file: file.stat().st_mtime_ns for file in files}


def wait_for(out: Path, number: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many cells are done."""
    while process.poll() is None and len(done_in(out)) < number:
        time.sleep(0.01)


def test_a_stopped_or_killed_comparison_resumes_to_the_same_results(
    finished: tuple[Path, Document], tmp_path: Path
) -> None:
    config, out = finished[0].parent / "a.toml", tmp_path / "out"
    for number, sign, flags in ((2, signal.SIGINT, []), (5, signal.SIGKILL, ["--resume"])):
        process = start(config, out, *flags)
        wait_for(out, number, process)
        process.send_signal(sign)
        said = process.communicate()[1]
        assert process.returncode in (1, -sign)
        assert "Traceback" not in said
        if sign == signal.SIGINT:
            assert said.splitlines()[-1] == "fedquit: stopped; what was finished is kept: continue with --resume"
    done_before = done_in(out)
    assert 5 <= len(done_before) < CELLS, "it was killed amid its work"
    assert not (out / "compare.json").exists()
    document = run(config, out, resume=True)
    assert outcome(document) == outcome(finished[1])
    assert done_before.items() <= done_in(out).items(), "what was done is not done again"


def test_a_finished_comparison_resumed_runs_nothing_and_says_the_same(finished: tuple[Path, Document]) -> None:
    begun: list[Any] = []

    @contextmanager
    def listening(cells: Sequence[Cell], out: Path) -> Iterator[Listener]:
        yield begun.append

    assert run(finished[0].parent / "a.toml", finished[0], resume=True, progress=listening) == finished[1]
    assert begun == []


def test_a_comparison_resumes_only_with_its_own_config(finished: tuple[Path, Document], tmp_path: Path) -> None:
    for before, after, said in (
        (
            "rounds = 3",
            "rounds = 4",
            "settings.rounds: the comparison in .* has 3, not 4; it is resumed with its own config",
        ),
        ("seeds = [0, 4]", "seeds = [0]", r"seeds: the comparison in .* has \[0, 4\], not \[0\]"),
        ("[methods.federaser]", "", "methods.federaser: the comparison in .* has .*, not nothing"),
    ):
        with pytest.raises(InputError, match=said):
            run(write(tmp_path, TINY.replace(before, after)), finished[0], resume=True)


def test_rows_and_seeds_that_were_added_are_all_that_is_carried_out(
    finished: tuple[Path, Document], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "out")
    begun: list[Any] = []

    @contextmanager
    def listening(cells: Sequence[Cell], out: Path) -> Iterator[Listener]:
        yield lambda event: begun.append(event["cell"].folder) if event["event"] == "begin" else None

    more = write(tmp_path, TINY + "[methods.continue]\n")
    document = run(more, tmp_path / "out", resume=True, progress=listening)
    assert sorted(begun) == [f"seed-{seed}/target-1/continue" for seed in (0, 4)]
    before = {cell["folder"]: cell for cell in finished[1]["cells"]}
    assert [cell for cell in document["cells"] if cell["folder"] in before] == finished[1]["cells"]
    with pytest.raises(InputError, match=r"methods\.continue: the comparison in .* has .*, not nothing"):
        run(write(tmp_path, TINY), tmp_path / "out", resume=True)


def test_what_replays_a_training_that_is_over_cannot_be_added(finished: tuple[Path, Document], tmp_path: Path) -> None:
    more = write(tmp_path, TINY.replace("targets = [[1]]", "targets = [1, 0]"))
    with pytest.raises(InputError, match=r"methods\.federaser: it replays what training keeps, .*; give another --out"):
        run(more, finished[0], resume=True)


FAILING = f"""
targets = [0]
seeds = [0]
[settings]
{SETTINGS}
[methods.wild]
method = "fedquit"
method-settings = {{ lr = 1e30 }}
[methods.continue]
"""


def called(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_a_run_that_fails_is_reported_with_its_reason_and_the_others_continue(tmp_path: Path) -> None:
    config, out = write(tmp_path, FAILING), tmp_path / "out"
    done = called(str(config), "--out", str(out), "--jobs", "2")
    assert done.exit_code == 1
    document = json.loads((out / "compare.json").read_text())
    wild, other = document["cells"]
    assert wild["measures"] is None
    assert "\n" not in wild["failed"]
    assert other["failed"] is None
    assert other["measures"]["forget_gap"] is not None
    assert f"Failed: seed-0/target-0/wild: {wild['failed']}" in done.output
    assert "| wild |" in (out / "report.md").read_text()
    assert "1 failed" in (out / "report.md").read_text()
    assert f"--resume --out {out}" in done.output
    again = called(str(config), "--out", str(out), "--jobs", "1", "--resume", "--json")
    assert again.exit_code == 1, "it is tried again, and fails again"
    assert json.loads(again.stdout)["failed"] == 1


def test_a_process_that_dies_fails_its_run_alone(tmp_path: Path) -> None:
    config, seen = write(tmp_path, FAILING.replace("[methods.wild]", "[methods.mortal]")), set[Any]()

    @contextmanager
    def killing(cells: Sequence[Cell], out: Path) -> Iterator[Listener]:
        def listen(event: Mapping[str, Any]) -> None:
            new = set(multiprocessing.active_children()) - seen
            seen.update(new)
            if event["event"] == BEGIN and event["cell"].row == "mortal":
                (process,) = new
                process.kill()

        yield listen

    document = run(config, tmp_path / "out", progress=killing)
    assert [cell["failed"] for cell in document["cells"]] == [DIED, None]


def test_a_training_that_fails_fails_what_starts_from_it(tmp_path: Path) -> None:
    config, out = write(tmp_path, FAILING.replace("rounds = 3", "rounds = 3\nlr = 1e30")), tmp_path / "out"
    document = run(config, out)
    assert document["failed"] == 3
    for cell in [*document["cells"], *document["references"]]:
        assert cell["failed"].startswith("the training that it starts from failed: ")
    assert (out / "report.md").exists()


def test_the_plan_is_shown_without_running_or_reading_data(tmp_path: Path) -> None:
    config = write(tmp_path, TINY.replace("[settings]", '[settings]\ndataset = "nowhere.npz"'))
    shown = called(str(config), "--plan")
    assert shown.exit_code == 0
    assert "seed-4/target-1/turned-round" in shown.output
    assert shown.output.splitlines()[-1].startswith(f"{CELLS} runs: 2 trainings")
    listed = json.loads(called(str(config), "--plan", "--json").stdout)
    assert len(listed) == CELLS
    assert [path.name for path in tmp_path.iterdir()] == ["a.toml"]


def test_a_mistake_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    config = write(tmp_path, TINY.replace("[methods.federaser]", "[methods.federasser]"))
    with pytest.raises(InputError, match=r"\[methods\.federasser\]: unknown method .*did you mean 'federaser'"):
        run(config, tmp_path / "out")
    with pytest.raises(InputError, match="--resume needs --out DIR"):
        run_comparison(config, resume=True, progress=silence)
    assert not (tmp_path / "out").exists()


def test_only_a_comparisons_folder_is_replaced_and_only_with_the_flag(tmp_path: Path) -> None:
    out, config = tmp_path / "out", write(tmp_path, FAILING.replace("[methods.wild]", "[methods.tame]\n[methods.w]"))
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for how, said in (({}, "--resume"), ({"overwrite": True}, "not the folder of a comparison")):
        with pytest.raises(InputError, match=said):
            run(write(tmp_path, FAILING), out, **how)
    with pytest.raises(InputError, match=r"not the folder of a comparison \(it has no plan\.json\)"):
        run(config, out, resume=True)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    (out / "plan.json").write_text("{}")
    run(write(tmp_path, FAILING), out, overwrite=True)
    assert not (out / "thesis.tex").exists()


def test_two_cannot_work_in_one_folder(finished: tuple[Path, Document]) -> None:
    import filelock

    with filelock.FileLock(str(finished[0] / ".lock")), pytest.raises(FedquitError, match="another process is at work"):
        run(finished[0].parent / "a.toml", finished[0], resume=True)
