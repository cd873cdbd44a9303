"""Shadow models that the engine trains: who has which samples, what is forgotten, and that a making survives a kill."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fedquit.client.data.build_data_and_model import split
from fedquit.client.data.forget_sets import askers, to_forget
from fedquit.client.data.partition_file import save_partition
from fedquit.documents import Document, Listener
from fedquit.errors import FedquitError, InputError
from fedquit.server.run.run_folder import RunFolder, read_state
from fedquit.settings import Settings
from fedquit.simulations.audit.audit import audit
from fedquit.simulations.audit.shadow_design import FIRST_SEED, shadow_run
from fedquit.simulations.audit.shadow_folder import ShadowFolder
from fedquit.simulations.audit.shadow_runs import make_shadows
from fedquit.simulations.audit.shadows_command import shadows as command
from fedquit.simulations.compare.cells.plan_cells import Cell
from fedquit.simulations.compare.cells.run_cells import BEGIN, DIED
from fedquit.simulations.simulate.run_simulation import run_simulation

TINY = {
    "model": "mlp",
    "clients": 3,
    "alpha": 1.0,
    "rounds": 2,
    "forget": "1",
    "recover": "budget",
    "recover_rounds": 1,
    "references": 2,
}
FOUR = {**TINY, "clients": 4, "alpha": 1.0}
KINDS = {
    "a client": {**FOUR},
    "two clients at once": {**FOUR, "forget": "1,3"},
    "two requests": {**FOUR, "forget": "3;0,1"},
    "samples": {**FOUR, "granularity": "sample", "forget": "2;0,1", "forget_share": 0.3},
    "few samples": {**FOUR, "granularity": "sample", "forget": "0,1,2,3", "forget_share": 0.001},
    "classes": {**FOUR, "granularity": "class", "forget_class": "3,5;8"},
}


@contextmanager
def silence(cells: Sequence[Cell], out: Path) -> Iterator[Listener]:
    yield lambda _event: None


def make(run: Path, models: int, **how: Any) -> Document:
    return make_shadows(run, models, **{"jobs": 2, "progress": silence, **how})[1]


def numbered(settings: Settings) -> set[int]:
    """All samples that the requests are about."""
    requests = [to_forget(settings.key(), request) for request in range(settings.num_requests)]
    return {int(sample) for parts in requests for part in parts for sample in part}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    run_simulation(TINY, out=out, workers=1)
    return out


@pytest.fixture(scope="module")
def four(run: Path) -> Document:
    """Four shadow models of the run, in its folder; the first two made before the others."""
    first = make(run, 2)
    second = make(run, 4)
    assert second["models"][:2] == first["models"]
    return second


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_is_in_exactly_half_of_the_models(kind: str) -> None:
    settings = Settings.read(KINDS[kind])
    counts = dict.fromkeys(numbered(settings), 0)
    for number in range(6):
        made = shadow_run(settings, number, plain=False)
        assert set(made.inside) | set(made.outside) == set(counts)
        assert not set(made.inside) & set(made.outside)
        for sample in made.inside:
            counts[sample] += 1
        assert abs(len(made.inside) - len(made.outside)) <= settings.num_requests
        if number % 2:
            assert set(counts.values()) == {(number + 1) // 2}


@pytest.mark.parametrize("kind", KINDS)
def test_a_shadow_run_holds_no_out_sample_and_forgets_the_in_samples_in_turn(kind: str, tmp_path: Path) -> None:
    settings = Settings.read(KINDS[kind])
    made = [shadow_run(settings, number, plain=False) for number in range(4)]
    folder = ShadowFolder(tmp_path, settings, plain=False)
    cells = [cell for each in made if (cell := folder.prepare(each))]
    for each, cell in zip(made, cells, strict=True):
        told = Settings.read(cell.settings)
        pairs = list(zip(split(told.key()), split(settings.key()), strict=True))
        assert not {int(sample) for part, _ in pairs for sample in part} & set(each.outside)
        assert all(set(whole) - set(part) <= set(each.outside) for part, whole in pairs)
        assert told.num_requests == settings.num_requests
        for request in range(settings.num_requests):
            theirs, ours = (to_forget(key, request) for key in (told.key(), settings.key()))
            for mine, whole in zip(theirs, ours, strict=True):
                assert sorted(mine) == sorted(set(whole) & set(each.inside))
            assert set(askers(told, request)) <= set(askers(settings, request))
        assert cell.phases is not None
        assert "train" in cell.phases
        assert sum(phase.startswith("forget") for phase in cell.phases) == settings.num_requests


def test_samples_to_forget_are_halved_too() -> None:
    settings = Settings.read(KINDS["two clients at once"])
    whole = split(settings.key())
    for number in range(4):
        parts = shadow_run(settings, number, plain=False).parts
        for client in (1, 3):
            assert abs(2 * len(parts[client]) - len(whole[client])) <= 1
        for client in (0, 2):
            assert parts[client].tolist() == whole[client].tolist()


def test_each_pair_of_halves_is_drawn_by_its_own_seed() -> None:
    settings = Settings.read(TINY)
    halves = {shadow_run(settings, number, plain=False).inside for number in range(20)}
    assert len(halves) == 20
    assert shadow_run(settings, 7, plain=True).inside == shadow_run(settings, 7, plain=False).inside
    other = settings.model_copy(update={"seed": 1, "split_seed": 0})
    assert shadow_run(other, 0, plain=False).inside not in halves


@pytest.mark.parametrize("seeds", [(0, -1), (5, 5), (2**31 - 1, 0), (2**31 - FIRST_SEED, 3)])
def test_the_seeds_of_shadows_are_never_the_runs(seeds: tuple[int, int]) -> None:
    seed, model_seed = seeds
    settings = Settings.read({**TINY, "seed": seed, "model_seed": model_seed, "references": 20})
    of_run = {settings.seed + number for number in range(20)}
    of_models = {settings.seed_of_model + number for number in range(20)}
    told = [Settings.read(shadow_run(settings, number, plain=False).settings) for number in range(64)]
    assert not {each.seed for each in told} & of_run
    assert not {each.seed_of_model for each in told} & of_models
    assert len({each.seed for each in told}) == len({each.seed_of_model for each in told}) == 64


def with_split(folder: Path, parts: Sequence[Sequence[int]], **given: Any) -> Settings:
    save_partition(folder / "split.json", [np.array(part) for part in parts])
    return Settings.read({**TINY, "partition": str(folder / "split.json"), **given})


def test_samples_too_few_to_halve_are_refused_with_the_reason(tmp_path: Path) -> None:
    single = with_split(tmp_path, [range(9), [9], range(10, 20)], forget="1")
    with pytest.raises(InputError, match="request 1 is about a single sample"):
        shadow_run(single, 0, plain=False)
    lonely = with_split(tmp_path, [range(9), [9], range(10, 20)], forget="0,1")
    with pytest.raises(InputError, match="client 1 has too few samples"):
        shadow_run(lonely, 0, plain=False)
    twice = Settings.read({**FOUR, "granularity": "sample", "forget": "2;2"})
    with pytest.raises(InputError, match="client 2 asks in two requests"):
        shadow_run(twice, 0, plain=False)


def test_a_deal_that_leaves_a_client_nothing_is_made_again(tmp_path: Path) -> None:
    from fedquit.client.data.build_data_and_model import dataset_of

    labels = dataset_of(Settings.read(TINY)).train.labels.numpy()
    of = [np.flatnonzero(labels == label) for label in range(10)]
    parts = [[of[0][0], of[1][0]], [*of[0][1:4], *of[1][1:4], *of[2][:9]], [*of[3][:9]]]
    given = {"granularity": "class", "forget_class": "0;1", "forget": "0"}
    settings = with_split(tmp_path, parts, **given)
    for number in range(20):
        assert len(shadow_run(settings, number, plain=False).parts[0]) == 1


def test_the_list_says_what_each_model_had_and_how_it_was_made(run: Path, four: Document) -> None:
    file = run / "shadows" / "shadows.json"
    assert json.loads(file.read_text()) == four
    assert (four["kind"], four["stage"]) == ("u-lira", "recovered")
    assert four["settings"]["rounds"] == 2
    forgotten = numbered(RunFolder(run).settings())
    for number, entry in enumerate(four["models"]):
        assert entry["number"] == number
        assert entry["seed"] == entry["model_seed"] == FIRST_SEED + number
        assert set(entry["in"]) | set(entry["out"]) == forgotten
        path = file.parent / entry["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        held = json.loads((file.parent / f"shadow-{number}" / "partition.json").read_text())
        had = {sample for part in held.values() for sample in part}
        assert set(entry["in"]) <= had
        assert not set(entry["out"]) & had
        assert set(read_state(file.parent / f"shadow-{number}").ended) == {"train", "forget", "recover"}


def test_a_shadow_can_be_made_again_by_hand(run: Path, four: Document, tmp_path: Path) -> None:
    folder = run / "shadows" / "shadow-1"
    given = {**json.loads((folder / "settings.json").read_text()), "partition": str(folder / "partition.json")}
    by_hand = run_simulation(given, out=tmp_path / "again", workers=1)[1]
    assert by_hand["stages"]["recovered"]["model_sha256"] == four["models"][1]["sha256"]


def test_no_checkpoints_are_left(run: Path, four: Document) -> None:
    left = sorted(path.name for path in (run / "shadows").iterdir())
    names = [f"shadow-{number}{end}" for number in range(4) for end in ("", ".safetensors")]
    assert left == sorted([".lock", "shadows.json", *names])
    assert not list((run / "shadows").glob("*/**/*.safetensors"))


def test_plain_shadows_have_the_same_samples_and_never_forget(run: Path, four: Document, tmp_path: Path) -> None:
    made = make(run, 2, plain=True, out=tmp_path / "plain")
    assert (made["kind"], made["stage"]) == ("plain", "original")
    for entry, other in zip(made["models"], four["models"], strict=False):
        assert (entry["in"], entry["out"]) == (other["in"], other["out"])
        assert entry["sha256"] != other["sha256"]
        assert set(read_state(tmp_path / "plain" / f"shadow-{entry['number']}").ended) == {"train"}


def test_where_recovery_stops_by_a_retrained_model_a_shadow_trains_its_own(tmp_path: Path) -> None:
    given = {**KINDS["samples"], "forget": "2", "rounds": 1, "recover": "oracle"}
    run_simulation(given, out=tmp_path / "run", workers=1, only={"train"})
    made = make(tmp_path / "run", 2)
    assert [len(entry["in"]) > 0 for entry in made["models"]] == [True, True]
    assert "retrain" in read_state(tmp_path / "run" / "shadows" / "shadow-0").ended


def test_made_again_nothing_runs_and_what_is_there_stays(run: Path, four: Document) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "shadows").glob("*.safetensors")}
    told: list[Any] = []

    @contextmanager
    def listening(cells: Sequence[Cell], out: Path) -> Iterator[Listener]:
        yield told.append

    for models in (4, 2):
        assert make(run, models, progress=listening) == four
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_model_that_was_lost_or_altered_is_made_again(run: Path, four: Document, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run / "shadows", copy)
    (copy / "shadow-1.safetensors").unlink()
    (copy / "shadow-2.safetensors").write_bytes(b"altered")
    assert make(run, 4, out=copy) == four
    for entry in four["models"]:
        assert hashlib.sha256((copy / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


START = "from fedquit.simulations.audit.shadows_command import shadows; shadows()"


def test_killed_shadow_training_resumes_to_the_same_models(run: Path, four: Document, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(run), "--models", "4", "--out", str(out), "--jobs", "1"],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # where it leaves what it cannot remove
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (out / "shadow-1" / "state.json").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # ends with the last of its processes
    assert process.returncode == -signal.SIGKILL
    assert len(list(out.glob("*.safetensors"))) < 4, "it was killed amid its work"
    (first,) = json.loads((out / "shadows.json").read_text())["models"]
    before = (out / first["file"]).stat().st_mtime_ns
    made = make(run, 4, out=out)
    assert {entry["sha256"] for entry in made["models"]} == {entry["sha256"] for entry in four["models"]}
    assert made == four
    assert (out / first["file"]).stat().st_mtime_ns == before
    assert not list(out.rglob("checkpoints"))


def test_killed_between_a_models_end_and_its_entry_it_loses_nothing(run: Path, four: Document, tmp_path: Path) -> None:
    settings = RunFolder(run).settings()
    first = shadow_run(settings, 0, plain=False)
    folder = ShadowFolder(tmp_path, settings, plain=False)
    cell = folder.prepare(first)
    assert cell is not None
    from fedquit.simulations.compare.cells.cell import carry_out

    carry_out(cell, tmp_path, 1)
    assert folder.prepare(first) is None
    assert folder.document["models"] == four["models"][:1]
    assert not (tmp_path / "shadow-0" / "checkpoints").exists()


def test_a_shadow_run_that_dies_is_reported_and_the_others_are_kept(run: Path, four: Document, tmp_path: Path) -> None:
    seen = set[Any]()

    @contextmanager
    def killing(cells: Sequence[Cell], out: Path) -> Iterator[Listener]:
        def listen(event: Mapping[str, Any]) -> None:
            new = set(multiprocessing.active_children()) - seen
            seen.update(new)
            if event["event"] == BEGIN and event["cell"].folder == "shadow-0":
                (process,) = new
                process.kill()

        yield listen

    with pytest.raises(FedquitError, match=f"1 of 2 shadow models could not be made, shadow-0 for one: {DIED}"):
        make(run, 2, out=tmp_path / "out", progress=killing, jobs=1)
    assert (tmp_path / "out" / "shadow-1.safetensors").is_file()
    assert make(run, 2, out=tmp_path / "out")["models"] == four["models"][:2]


def test_u_lira_is_reported_from_shadows_that_were_made(run: Path, four: Document) -> None:
    found = audited(run, run / "models" / "recovered.safetensors")["u_lira"]
    assert (found["samples"], found["shadow_models"]) == (len(numbered(RunFolder(run).settings())), 4)
    assert found["kind"] == "u-lira"
    assert 0 < found["auc"] < 1
    assert found["tpr_at_fpr"]["0.01"]["value"] is not None
    assert "too few" in found["tpr_at_fpr"]["0.001"]["reason"]


def test_a_shadow_model_cannot_be_audited_against_itself(run: Path, four: Document) -> None:
    with pytest.raises(InputError, match="cannot be its own shadow"):
        audited(run, run / "shadows" / "shadow-2.safetensors")
    report = json.loads((run / "report.json").read_text())
    of_run = {stage["model_sha256"] for stage in [*report["stages"].values(), *report["references"]] if stage}
    assert not of_run & {entry["sha256"] for entry in four["models"]}


def audited(run: Path, model: Path) -> Document:
    return audit(
        model,
        reference_files=[run / "models" / "retrained.safetensors", run / "models" / "retrained-1.safetensors"],
        shadows_file=run / "shadows" / "shadows.json",
        settings=RunFolder(run).settings(),
    )


def test_shadows_of_another_run_are_neither_resumed_nor_replaced(run: Path, four: Document, tmp_path: Path) -> None:
    other, copy = tmp_path / "other", tmp_path / "copy"
    run_simulation({**TINY, "lr": 0.2}, out=other, workers=1, only={"train"})
    shutil.copytree(run / "shadows", copy)
    for which, plain, said in (
        (other, False, "lr: the shadow models in .* have 0.1, not 0.2; give another --out, or replace them"),
        (run, True, "kind: the shadow models in .* have 'u-lira', not 'plain'"),
    ):
        with pytest.raises(InputError, match=said):
            make(which, 2, out=copy, plain=plain)
    listed = json.loads((copy / "shadows.json").read_text())
    listed["models"][0]["in"].pop()
    (copy / "shadows.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match="are for other samples to forget"):
        make(run, 2, out=copy)
    (copy / "shadows.json").write_text("{")
    with pytest.raises(InputError, match="cannot be resumed"):
        make(run, 2, out=copy)
    assert make(run, 2, out=copy, overwrite=True)["models"] == four["models"][:2]
    assert not (copy / "shadow-3").exists()


def test_what_shadows_do_not_depend_on_may_change(tmp_path: Path) -> None:
    settings = Settings.read(TINY)
    more = settings.model_copy(update={"references": 9, "budget": 5})
    faster = settings.model_copy(update={"method_settings": {"lr": 0.001}})

    def document(of: Settings, *, plain: bool) -> Document:
        return ShadowFolder(tmp_path, of, plain=plain).document

    assert document(more, plain=False) == document(settings, plain=False)
    assert document(faster, plain=False) != document(settings, plain=False)
    assert document(faster, plain=True) == document(settings, plain=True)


def test_a_folder_of_something_else_is_never_touched(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="exists and holds no shadow models"):
            make(run, 2, out=tmp_path, overwrite=overwrite)
    with pytest.raises(InputError, match="exists and holds no shadow models"):
        make(run, 2, out=tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_do_not_make_the_same_shadows(run: Path, tmp_path: Path) -> None:
    folder = ShadowFolder(tmp_path, RunFolder(run).settings(), plain=False)
    with folder.held(overwrite=False), pytest.raises(FedquitError, match="another process is at work in"):
        make(run, 2, out=tmp_path)


def called(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def test_a_mistake_is_reported_in_one_line_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ((str(run), "--models", "3"), "give an even number"),
        ((str(tmp_path / "nowhere"), "--models", "2"), "is not the folder of a run"),
    ):
        result = called(*arguments, "--out", str(tmp_path / "out"))
        assert isinstance(result.exception, InputError)
        assert said in str(result.exception)
        assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_one_document_or_the_way_on(run: Path, four: Document) -> None:
    made = called(str(run), "--models", "4", "--json")
    assert json.loads(made.stdout) == four
    shown = called(str(run), "--models", "4", "--resume").stdout
    assert "4 shadow models (u-lira)" in shown
    assert f"--shadows {run / 'shadows' / 'shadows.json'}" in shown


def test_progress_says_what_is_left_on_standard_error(run: Path, tmp_path: Path) -> None:
    result = called(str(run), "--models", "2", "--out", str(tmp_path / "out"), "--jobs", "1", "--json")
    assert len(json.loads(result.stdout)["models"]) == 2
    assert "[1/2] shadow-0: done" in result.stderr
    assert "[2/2] shadow-1: done" in result.stderr
    assert "1 left" in result.stderr
