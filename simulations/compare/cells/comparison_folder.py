"""A comparison's output folder: created for one comparison, resumed with the same settings only.

plan.json      the settings of the comparison
compare.json   the results of every run, for programs
summary.json   those of the rows, from which report.md and the figures are made, for people
report.html    the report, the figures and every run on one page
seed-S/        the runs, see plan_cells.py
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedquit.errors import InputError
from fedquit.files import explained, write_json
from fedquit.server.run.run_folder import RunFolder
from fedquit.simulations.compare.config.comparison_config import current_document

PLAN = "plan.json"
LOCK = ".lock"


@contextmanager
def comparison_folder(
    out: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool, replaying: Collection[str] = ()
) -> Iterator[None]:
    """Hold the folder of a comparison that was `plan` this, made, emptied or taken up again; see `check_folder`.

    Raises:
        InputError: it is another comparison's, or nobody said that it may be replaced; nothing was written.
        FedquitError: it cannot be written, or another process is at work in it.
    """
    check_folder(out, plan, resume=resume, overwrite=overwrite, replaying=replaying)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(out)
    folder.lock()
    try:
        if not resume:
            with explained(out):
                _empty(out)
        write_json(out / PLAN, plan)
        yield
    finally:
        folder.release()


def check_folder(
    out: Path, plan: dict[str, Any], *, resume: bool, overwrite: bool, replaying: Collection[str] = ()
) -> None:
    """Check that a comparison may be carried out in `out`: one that is resumed may have grown, not changed.

    Args:
        out: its folder.
        plan: the settings of the comparison.
        resume: continue it.
        overwrite: it may replace what is there.
        replaying: its rows that replay what training kept.

    Raises:
        InputError: it may not.

    >>> check_folder(Path("runs/that/are/not/there"), {}, resume=False, overwrite=False)
    """
    if resume:
        _check_same(out, plan, replaying)
    elif out.exists() and (not out.is_dir() or any(not _left_over(path) for path in out.iterdir())):
        if not overwrite:
            raise InputError(
                f"{out} exists; continue it with --resume, replace it with --overwrite, or give another --out"
            )
        if not (out / PLAN).is_file():
            raise InputError(f"{out} is not the folder of a comparison: it will not be overwritten; give another --out")


def _left_over(path: Path) -> bool:
    """Say whether a file is all that a comparison killed before its plan was written can have left."""
    return path.name == LOCK or path.name.endswith(".partial")


def _check_same(out: Path, plan: dict[str, Any], replaying: Collection[str]) -> None:
    file = out / PLAN
    if not file.is_file():
        raise InputError(f"{out} is not the folder of a comparison (it has no {PLAN})")
    try:
        kept = current_document(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    difference = first_difference(kept, without_growth(kept, plan))
    if not difference:
        _check_growth(out, kept, plan, replaying)
    if difference:
        key, before, now = difference
        raise InputError(f"{key}: the comparison in {out} has {before}, not {now}; it is resumed with its own config")


def without_growth(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the present config of a comparison, without the targets, seeds and methods that were added since `before`.

    >>> now = {"seeds": [1, 0], "methods": {"negate": {}, "mode": {}}}
    >>> without_growth({"seeds": [0], "methods": {"negate": {}}}, now)
    {'seeds': [0], 'methods': {'negate': {}}}
    """
    found = dict(now)
    for key in ("targets", "seeds"):
        if isinstance(now.get(key), list) and isinstance(before.get(key), list):
            found[key] = [each for each in before[key] if each in now[key]]
    if "methods" in now:
        found["methods"] = {name: row for name, row in now["methods"].items() if name in before["methods"]}
    return found


def _check_growth(out: Path, kept: Mapping[str, Any], plan: Mapping[str, Any], replaying: Collection[str]) -> None:
    """Refuse what was added and would replay rounds of a training that is over and kept them for nobody."""
    added = [name for name in replaying if name not in kept["methods"]]
    if plan["targets"] != kept["targets"]:
        added = list(replaying)
    if added:
        raise InputError(
            f"methods.{added[0]}: it replays what training keeps, and the training in {out} is over; give another --out"
        )


def first_difference(before: Any, now: Any, key: str = "") -> tuple[str, str, str] | None:
    """Return where two documents differ first, and what each has there; None if they are equal.

    >>> first_difference({"settings": {"lr": 0.1}}, {"settings": {"lr": 0.2}})
    ('settings.lr', '0.1', '0.2')
    >>> first_difference({"methods": {"negate": {}}}, {"methods": {}})
    ('methods.negate', '{}', 'nothing')
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            inner = f"{key}.{name}" if key else str(name)
            if name not in now or name not in before:
                there, here = (repr(part[name]) if name in part else "nothing" for part in (before, now))
                return inner, there, here
            found = first_difference(before[name], now[name], inner)
            if found:
                return found
        return None
    return None if before == now else (key, repr(before), repr(now))


def _empty(out: Path) -> None:
    for path in out.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
