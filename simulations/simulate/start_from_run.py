"""Start from the training of an earlier run: several requests, or several methods, on one trained model."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import check_taken_over
from fedquit.errors import InputError
from fedquit.files import explained
from fedquit.server.run.run_folder import RunFolder, costs_file, read_settings, read_state
from fedquit.settings import Part, Settings, keys_of
from fedquit.strategies.cost_log.cost_rows import read_rows, write_rows

TRAINING = keys_of(Part.TRAINING)
"""Settings that must be the same in both runs."""


def check_start(start: Path, settings: Settings) -> None:
    """Check that the run in `start` trained as `settings` would.

    Raises:
        InputError: it is not a run, its training is not finished, its settings differ, or it lacks what the method
            replays; or devices keep a part of it.
    """
    check_taken_over(settings, "--start")
    theirs, ours = read_settings(start).run_config(), settings.run_config()
    for key in TRAINING:
        if ours[key] != theirs[key]:
            raise InputError(
                f"--start: {key} is {theirs[key]!r} in {start}, {ours[key]!r} here; training must be the same"
            )
    if settings.partition or read_settings(start).partition:
        raise InputError("--start takes the split of the earlier run as well: leave --partition out in both")
    if "train" not in read_state(start).ended:
        raise InputError(f"--start: training is not finished in {start}")
    if method_of(settings).needs().keeps_updates and not (start / "history").is_dir():
        raise InputError(
            f"--start: {start} kept nothing of training that method '{settings.method}' could replay, or has purged "
            "it; take another method, or train with this one"
        )


def take_over(start: Path, folder: RunFolder) -> None:
    """Put the rounds, costs, models and kept history of training in `start` into `folder`.

    What was measured on that run's samples to forget is left out: they are others here. So is what was measured on its
    held-out samples, where classes to forget are left out of those.
    """
    theirs, here = read_state(start), folder.settings()
    stale = {"forget_accuracy"}
    if read_settings(start).forget_class != here.forget_class:
        stale.add("holdout_accuracy")
    models = {stage: theirs.models[stage] for stage in ("initial", "original")}
    rounds = tuple(
        replace(r, measures={name: value for name, value in r.measures.items() if name not in stale})
        for r in theirs.of("train")
    )
    recent = theirs.recent.get("train", ())
    for name in {*models.values(), *recent}:
        _link(start / "checkpoints" / f"{name}.safetensors", folder.checkpoint(name))
        folder.load_model(name)
    _link_tree(start / "history", folder.path / "history")
    before = folder.load_state()
    folder.save_state(
        replace(
            before,
            costs_size=_copy_rows(start, theirs.costs_size, folder),
            rounds=rounds,
            models=models,
            recent={"train": recent},
            ended={"train": theirs.ended["train"]},
            reached={"train": theirs.reached["train"]},
        )
    )


def _copy_rows(start: Path, size: int, folder: RunFolder) -> int:
    """Take over what the messages of training cost; return the size of the file."""
    with explained(folder.costs_file), folder.costs_file.open("wb") as file:
        write_rows(file, (row for row in read_rows(costs_file(start), size) if row.phase == "train"))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _link_tree(source: Path, target: Path) -> None:
    """Make `source`'s files appear in `target` too: linked where the file system can, else copied."""
    for file in source.rglob("*.safetensors"):
        _link(file, target / file.relative_to(source))


def _link(file: Path, new: Path) -> None:
    """Make a file appear under a new name too: linked where the file system can, else copied."""
    with explained(new):
        new.parent.mkdir(parents=True, exist_ok=True)
        if not new.exists():
            try:
                os.link(file, new)
            except OSError:
                shutil.copyfile(file, new)
