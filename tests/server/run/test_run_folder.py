"""The folder of a run: nobody's work is overwritten, damage is named, and a killed run finds what it needs."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest

from fedquit.client.models.model_file import model_bytes
from fedquit.errors import FedquitError, InputError
from fedquit.server.run.run_folder import RunFolder, read_settings
from fedquit.server.run.run_state import State
from fedquit.settings import Settings

ARRAYS: dict[str, Any] = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "counter": np.array(3, np.int64)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", Settings())


def refusal(call: Callable[[], object], kind: type[FedquitError] = InputError) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_folder_with_something_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        text = refusal(lambda overwrite=overwrite: RunFolder.create(tmp_path / "run", Settings(), overwrite=overwrite))  # type: ignore[misc]
        assert str(tmp_path / "run") in text
        assert "--out" in text
    assert files(tmp_path / "run") == {"thesis.tex": b"years of work"}


def test_a_file_in_place_of_the_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    for overwrite in (False, True):
        refusal(lambda overwrite=overwrite: RunFolder.create(tmp_path / "run", Settings(), overwrite=overwrite))  # type: ignore[misc]
    assert (tmp_path / "run").read_text() == "x"


def test_an_empty_folder_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert RunFolder.create(tmp_path / "run", Settings()).settings() == Settings()


def test_a_run_is_overwritten_only_with_the_flag(folder: RunFolder) -> None:
    folder.append_event({"event": "old"})
    folder.release()
    assert "--resume" in refusal(lambda: RunFolder.create(folder.path, Settings(rounds=3)))
    assert folder.settings() == Settings()
    new = RunFolder.create(folder.path, Settings(rounds=3), overwrite=True)
    assert new.settings() == Settings(rounds=3)
    assert not (new.path / "events.jsonl").exists()


def test_a_run_that_another_process_is_at_work_in_is_not_overwritten(folder: RunFolder) -> None:
    before = files(folder.path)
    text = refusal(lambda: RunFolder.create(folder.path, Settings(rounds=3), overwrite=True), FedquitError)
    assert "another process is at work" in text
    assert files(folder.path) == before


def test_a_second_process_is_kept_out_and_told_why(folder: RunFolder) -> None:
    code = "import sys; from fedquit.server.run.run_folder import Path, RunFolder; RunFolder.open(Path(sys.argv[1]))"
    second = subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert f"another process is at work in {folder.path}" in second.stderr.splitlines()[-1]
    folder.release()
    subprocess.run([sys.executable, "-c", code, str(folder.path)], check=True)


def test_the_lock_is_open_again_when_the_run_is_over(folder: RunFolder) -> None:
    lock = filelock.FileLock(folder.path / ".lock", timeout=0)
    with pytest.raises(filelock.Timeout):
        lock.acquire()
    folder.release()
    RunFolder.open(folder.path).release()


def test_a_folder_that_could_not_be_begun_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left" in refusal(lambda: RunFolder.create(tmp_path / "run", Settings()), FedquitError)
    RunFolder.create(tmp_path / "run", Settings())


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    assert "settings.json" in refusal(lambda: RunFolder.open(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"rounds": 0}', '{"no-such-key": 1}', "\x00"])
def test_settings_that_cannot_be_read_are_named(folder: RunFolder, content: str) -> None:
    (folder.path / "settings.json").write_text(content)
    assert "settings.json" in refusal(lambda: read_settings(folder.path))


@pytest.mark.parametrize("content", ["{", "[]", "", '{"schema_version": 99}', '{"schema_version": 1}'])
def test_a_state_that_cannot_be_read_is_named(folder: RunFolder, content: str) -> None:
    (folder.path / "state.json").write_text(content)
    assert "state.json" in refusal(folder.load_state)


def test_a_folder_of_a_version_with_secure_aggregation_still_opens(folder: RunFolder) -> None:
    (folder.path / "settings.json").write_text(
        json.dumps({**Settings(lr=0.5).run_config(), "secure-aggregation": False})
    )
    assert read_settings(folder.path) == Settings(lr=0.5)
    folder.release()
    RunFolder.open(folder.path).release()


def test_a_run_from_before_the_guard_resumes_without_one(folder: RunFolder) -> None:
    document = Settings(lr=0.5).run_config()
    del document["guard"], document["blend"]
    (folder.path / "settings.json").write_text(json.dumps(document))
    assert read_settings(folder.path) == Settings(lr=0.5, guard="adopt")


def test_settings_are_read_back_with_the_saved_split(folder: RunFolder) -> None:
    assert folder.settings() == Settings()
    folder.partition_file.write_text("{}")
    assert folder.settings().partition == str(folder.partition_file.resolve())


def test_a_model_is_read_back_bit_for_bit(folder: RunFolder) -> None:
    back = folder.load_model(folder.save_model(ARRAYS))
    assert {n: (a.tobytes(), a.dtype, a.shape) for n, a in back.items()} == {
        n: (a.tobytes(), a.dtype, a.shape) for n, a in ARRAYS.items()
    }


def test_a_model_has_its_entries_in_the_same_order_in_every_process(folder: RunFolder) -> None:
    name = folder.save_model({f"{place}.weight": np.full(2, place, np.float32) for place in range(9, -1, -1)})
    code = f"""from pathlib import Path
from fedquit.server.run.run_folder import RunFolder
print(list(RunFolder(Path({str(folder.path)!r})).load_model({name!r})))"""
    orders = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "123"
    }
    assert orders == {f"{[f'{place}.weight' for place in range(10)]}\n"}


def test_the_same_model_has_the_same_name_whatever_its_layout_in_memory() -> None:
    turned = {"w": np.asfortranarray(ARRAYS["w"]), "counter": ARRAYS["counter"]}
    assert model_bytes(turned) == model_bytes(ARRAYS) == model_bytes(dict(reversed(ARRAYS.items())))


@pytest.mark.parametrize("place", [0, 20, -1])
def test_one_flipped_bit_in_a_model_is_noticed_and_the_file_named(folder: RunFolder, place: int) -> None:
    name = folder.save_model(ARRAYS)
    content = bytearray(folder.checkpoint(name).read_bytes())
    content[place] ^= 1
    folder.checkpoint(name).write_bytes(content)
    text = refusal(lambda: folder.load_model(name), FedquitError)
    assert str(folder.checkpoint(name)) in text
    assert "damaged" in text


def test_a_missing_model_is_named(folder: RunFolder) -> None:
    assert "ab.safetensors is missing" in refusal(lambda: folder.load_model("ab"), FedquitError)


def test_events_after_the_last_state_are_cut_off(folder: RunFolder) -> None:
    size = folder.append_event({"event": "kept"})
    folder.save_state(State(events_size=size))
    folder.append_event({"event": "after the state"})
    (folder.path / "events.jsonl").open("ab").write(b'{"event": "half wri')
    folder.load_state()
    assert [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()] == [{"event": "kept"}]
    assert folder.append_event({"event": "new"}) > size


def test_events_are_on_the_disk_before_the_state_that_counts_them(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def spied(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spied)
    folder.save_state(State(events_size=folder.append_event({"event": "round"})))
    events, state = ((folder.path / name).stat().st_ino for name in ("events.jsonl", "state.json"))
    assert events in synced
    assert synced.index(events) < synced.index(state)


@pytest.mark.parametrize("left", [b"rows on the disk\n", b"rows on the disk\nta", b"rows on the disk\n\0\0\0\0\0"])
def test_rows_that_a_failure_of_power_took_are_put_back(folder: RunFolder, left: bytes) -> None:
    folder.save_state(State(costs_size=22, costs_tail="tail\n"))
    folder.costs_file.write_bytes(left)
    folder.load_state()
    assert folder.costs_file.read_bytes() == b"rows on the disk\ntail\n"


def test_a_removed_cost_log_is_not_invented(folder: RunFolder) -> None:
    folder.save_state(State(costs_size=22, costs_tail="tail\n"))
    folder.load_state()
    assert not folder.costs_file.exists()


def test_a_run_just_begun_starts_at_nothing(folder: RunFolder) -> None:
    assert folder.load_state() == State()


def test_models_that_nothing_names_are_dropped_and_the_others_kept(folder: RunFolder) -> None:
    old, kept, current = (folder.save_model({"w": np.full(2, n, np.float32)}) for n in range(3))
    (folder.path / "checkpoints" / f".{old}.safetensors.1.partial").write_bytes(b"half")
    folder.save_state(State(models={"initial": kept}, current=current))
    assert {path.stem for path in (folder.path / "checkpoints").iterdir()} == {kept, current}


def test_a_run_killed_before_its_settings_were_written_can_be_begun_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "checkpoints").mkdir(parents=True)
    (out / ".lock").touch()
    (out / ".settings.json.123.partial").write_text('{"rou')
    RunFolder.create(out, Settings()).release()
    assert sorted(path.name for path in out.iterdir()) == [".lock", "checkpoints", "settings.json"]
