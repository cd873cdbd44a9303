"""A file is the old one or the new one, whole, and an error says what to do."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fedquit.errors import FedquitError
from fedquit.files import temporary_folder, write_json, write_whole


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "model", b"one")
    write_whole(tmp_path / "model", b"two")
    assert (tmp_path / "model").read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_leaves_the_old_file_and_no_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None
) -> None:
    path = tmp_path / "model"
    if old is not None:
        path.write_bytes(old)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FedquitError) as caught:
        write_whole(path, b"new")
    assert (path.read_bytes() if path.exists() else None) == old
    assert [p.name for p in tmp_path.iterdir()] == (["model"] if old else [])
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert "No space left" in text
    assert "make room" in text
    assert caught.value.exit_code == 1


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spied_fsync(descriptor: int) -> None:
        steps.append("flush")
        fsync(descriptor)

    def spied_replace(self: Path, target: Any) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(Path, "replace", spied_replace)
    write_whole(tmp_path / "model", b"new")
    assert steps[:2] == ["flush", "rename"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedquitError, match="gone/model"):
        write_whole(tmp_path / "gone" / "model", b"new")


def test_json_is_read_back_as_it_was(tmp_path: Path) -> None:
    document = {"a": [1, 0.1, None, True], "ü": "é"}
    write_json(tmp_path / "x.json", document)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == document


def test_a_temporary_folder_that_cannot_be_made_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(FedquitError) as caught:
        temporary_folder()
    text = str(caught.value)
    assert "\n" not in text
    assert f"cannot make a temporary folder in {tmp_path}: No space left on device; set TMPDIR" in text
