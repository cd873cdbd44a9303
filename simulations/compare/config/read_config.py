"""A comparison's TOML file, read strictly: a key that is not known is a mistake, not a wish."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fedquit.errors import InputError, unknown
from fedquit.settings import Settings, load_settings_file
from fedquit.simulations.compare.config.comparison_config import DECIDED, ROW_KEYS, Comparison, Row, Target
from fedquit.simulations.configs.shipped_configs import find_config
from fedquit.unlearning.evaluation.verdict import REFERENCES

KEYS = ("title", "targets", "seeds", "references", "budget", "settings", "methods")
FIXED_SEEDS = ("split-seed", "model-seed")  # of the split and of the untrained model: the same for every row and seed
MAX_REFERENCES = 20


def read_comparison(path: Path) -> Comparison:
    """Read and check a comparison's TOML file, as far as that needs neither the data nor the methods.

    Args:
        path: of the file, or the name of one that ships with fedquit.

    Raises:
        InputError: naming the file and the key.
    """
    return make_comparison(load_settings_file(find_config(path, "compare")), str(path))


def make_comparison(given: Mapping[str, Any], source: str = "comparison") -> Comparison:
    """Check what a comparison's file holds; see `read_comparison`.

    >>> make_comparison({"targets": [0, [1, 2]], "seeds": [0], "methods": {"negate": {}}}).targets
    ((0,), (1, 2))
    """
    for key in given:
        if key not in KEYS:
            raise InputError(f"{source}: {unknown('key', key, KEYS)}")
    title = given.get("title", "Methods of forgetting compared")
    if not isinstance(title, str) or not title.strip():
        raise InputError(f"{source}: title: must be text, got {title!r}")
    return Comparison(
        source=source,
        title=" ".join(title.split()),
        targets=_targets(given.get("targets"), source),
        seeds=_seeds(given.get("seeds"), source),
        references=_count(given, "references", REFERENCES, range(1, MAX_REFERENCES + 1), source),
        budget=_count(given, "budget", 0, None, source),
        settings=_settings(given.get("settings", {}), source),
        rows=_rows(given.get("methods"), source),
    )


def _targets(given: Any, source: str) -> tuple[Target, ...] | None:
    """Read [0, [1, 2]] as ((0,), (1, 2)), and "all" as None."""
    if given == "all":
        return None
    wanted = 'targets: must be "all" or a list such as [0, 3] or [0, [1, 2]]'
    if not isinstance(given, list) or not given:
        raise InputError(f"{source}: {wanted}, got {given!r}")
    targets = []
    for request in given:
        members = request if isinstance(request, list) else [request]
        if not members or not all(map(_is_natural, members)):
            raise InputError(f"{source}: {wanted}, got {request!r} in it")
        targets.append(tuple(sorted(set(members))))
    return _each_once(targets, "targets", source)


def _seeds(given: Any, source: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not given or not all(map(_is_natural, given)):
        raise InputError(f"{source}: seeds: must be a list of numbers of at least 0, such as [0, 1], got {given!r}")
    return _each_once(given, "seeds", source)


def _each_once(given: list[Any], key: str, source: str) -> tuple[Any, ...]:
    for entry in given:
        if given.count(entry) > 1:
            shown = ", ".join(map(str, entry)) if isinstance(entry, tuple) else entry
            raise InputError(f"{source}: {key}: {shown} is there twice")
    return tuple(given)


def _count(given: Mapping[str, Any], key: str, default: int, allowed: range | None, source: str) -> int:
    value = given.get(key, default)
    if not _is_natural(value) or (allowed is not None and value not in allowed):
        limits = f"{allowed[0]}..{allowed[-1]}" if allowed else "at least 0"
        raise InputError(f"{source}: {key}: must be a whole number, {limits}, got {value!r}")
    return int(value)


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _settings(given: Any, source: str) -> dict[str, Any]:
    """Check the keys of [settings]; the values are checked with a target, by `Settings` itself."""
    where = f"{source}: [settings]"
    known = [key for key in Settings().run_config() if key not in DECIDED]
    settings = _table(given, where, known, decided=DECIDED)
    for key in FIXED_SEEDS:
        if settings.setdefault(key, 0) == -1:
            raise InputError(f"{where}: {key}: -1 would give every seed its own; a comparison needs one for all")
    if settings.get("partition"):
        raise InputError(f"{where}: partition: a comparison splits the data itself, by split-seed; leave it out")
    _refuse_oracle(settings, where)
    return settings


def _rows(given: Any, source: str) -> tuple[Row, ...]:
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{source}: there is no [methods.NAME] table: nothing to compare")
    rows: list[Row] = []
    for name, table in given.items():
        where = f"{source}: [methods.{name}]"
        settings = _table(table, where, ROW_KEYS)
        _refuse_oracle(settings, where)
        row = Row(name, str(settings.pop("method", name)), settings)
        if row.slug in ("", "references"):
            raise InputError(f"{where}: the name cannot be a folder's; use letters and digits, and not 'references'")
        twin = next((other.name for other in rows if other.slug == row.slug), None)
        if twin is not None:
            raise InputError(f"{where}: '{twin}' and '{name}' would share the folder '{row.slug}'; rename one")
        rows.append(row)
    return tuple(rows)


def _table(given: Any, where: str, known: Collection[str], decided: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a table with its keys in kebab-case, each known and given once."""
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: must be a table, got {given!r}")
    table: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("_", "-")
        if decided and name in decided:
            raise InputError(f"{where}: {name} is not for here: {decided[name]} says it")
        if name not in known:
            raise InputError(f"{where}: {unknown('key', name, known)}")
        if name in table:
            raise InputError(f"{where}: {name} is given twice")
        table[name] = value
    return table


def _refuse_oracle(table: Mapping[str, Any], where: str) -> None:
    if table.get("recover") == "oracle":
        raise InputError(
            f"{where}: recover = oracle needs the retrained model first; a comparison runs them side by side"
        )
