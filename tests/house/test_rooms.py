"""The rooms of the house: small, each name once, tests in the same rooms, and no rig in the wheel."""

import ast
import re
import subprocess
import tomllib
from collections import defaultdict
from pathlib import Path, PurePosixPath

from fedquit import errors

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("client", "server", "strategies", "unlearning", "simulations")
MOST = 13  # besides __init__.py
ALIAS = re.compile(r"[A-Z][a-z]\w*")
ERROR = re.compile(r"(Error|Exception)$")
SAME_EVERYWHERE = {"__init__", "__main__", "command", "app"}  # the command of a room; Flower's two apps


def tracked(*folders: str) -> list[PurePosixPath]:
    """Return the files of the repository in `folders`, those not yet added included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *folders]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [PurePosixPath(line) for line in found if (ROOT / line).exists()]


def test_no_folder_has_more_entries_than_a_reader_can_hold() -> None:
    entries: dict[PurePosixPath, set[str]] = defaultdict(set)
    for path in tracked(*ROOMS, "fedquit", "tests"):
        if (ROOT / path).is_symlink():  # to a room
            continue
        for folder, entry in zip(path.parents, (path, *path.parents), strict=False):
            if entry.name != "__init__.py" and entry.suffix != ".toml":  # configs are a list of names
                entries[folder].add(entry.name)
    del entries[PurePosixPath()]
    assert len(entries) > 40
    assert {str(folder): len(found) for folder, found in entries.items() if len(found) > MOST} == {}


def test_no_two_modules_have_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in tracked(*ROOMS, "fedquit"):
        group = path.is_relative_to("fedquit/settings")  # called as what it sets
        if path.suffix == ".py" and path.stem not in SAME_EVERYWHERE and not group:
            places[path.stem].append(str(path))
    assert len(places) > 200
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_tests_lie_in_the_rooms_of_what_they_test() -> None:
    folders = {path.parent for path in tracked("tests") if path.name.startswith("test_")}
    own = {folder for folder in folders if folder.parts[1] in ("house", "e2e", "harness", "benchmarks")}
    astray = {str(folder) for folder in folders - own if not (ROOT / folder.relative_to("tests")).is_dir()}
    assert astray == set()


def test_the_wheel_ships_no_rig_and_no_benchmark() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert all(name.partition(".")[0] == "fedquit" for name in packages)
    assert not any({"tests", "harness", "benchmarks"} & set(name.split(".")) for name in packages)
    product = [(ROOT / path).read_text(encoding="utf-8") for path in tracked(*ROOMS, "fedquit") if path.suffix == ".py"]
    assert not any("from tests" in text or "import tests" in text for text in product)


def product() -> dict[str, ast.Module]:
    """Return the product's modules, parsed, by path."""
    found = (path for path in tracked(*ROOMS, "fedquit") if path.suffix == ".py" and "_pb2" not in path.name)
    return {str(path): ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in found}


def test_every_error_of_ours_is_in_the_one_tree() -> None:
    defined: dict[str, set[str]] = defaultdict(set)
    for path, module in product().items():
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef) and any(ERROR.search(ast.unparse(base)) for base in node.bases):
                defined[path].add(node.name)
    assert set(defined) == {"fedquit/errors.py"}
    classes = [getattr(errors, name) for name in defined["fedquit/errors.py"]]
    assert all(issubclass(error, errors.FedquitError) for error in classes)
    pictured = dict(re.findall(r"^ *(\w+Error) +(\d)", errors.__doc__ or "", re.MULTILINE))
    assert pictured == {error.__name__: str(error.exit_code) for error in classes}


def test_a_type_alias_has_one_home() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path, module in product().items():
        for node in module.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
                aliases = [name.id for name in node.targets if isinstance(name, ast.Name) and ALIAS.fullmatch(name.id)]
                for name in aliases:
                    homes[name].append(path)
    assert {"Arrays", "StateDict", "Config", "Document", "Listener"} <= set(homes)
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_a_test_name_fits_on_a_line_of_a_report() -> None:
    texts = [(ROOT / path).read_text(encoding="utf-8") for path in tracked("tests") if path.suffix == ".py"]
    names = {name for text in texts for name in re.findall(r"^ *def (test_\w+)\(", text, re.MULTILINE)}
    assert len(names) > 1000
    assert {name for name in names if len(name) >= 75} == set()


def test_no_test_imports_from_a_test_of_another_room() -> None:
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in tracked("tests") if path.suffix == ".py"}
    assert len(texts) > 100
    found = {
        str(path): re.findall(r"^from tests\.([\w.]+)\.test_\w+ import", text, re.MULTILINE)
        for path, text in texts.items()
    }
    own = {path: ".".join(PurePosixPath(path).parent.parts[1:]) for path in found}
    assert {path: rooms for path, rooms in found.items() if set(rooms) - {own[path]}} == {}
