"""Each table of the documents names all that is registered, and nothing else; what documents name is there."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedquit.client.compression.codecs import CODECS
from fedquit.client.data.datasets import DATASETS
from fedquit.client.objectives import GATES, OBJECTIVES
from fedquit.settings import Settings
from fedquit.strategies.rules import PRIVACY, RULES
from fedquit.unlearning import METHODS, TEACHERS

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("client", "server", "strategies", "unlearning", "simulations")
TABLES: dict[str, tuple[str, Iterable[str]]] = {
    "method": ("methods.md", METHODS),
    "objective": ("objectives.md", OBJECTIVES),
    "gate": ("objectives.md", GATES),
    "strategy": ("strategies.md", RULES),
    "codec": ("compression.md", CODECS),
    "data set": ("datasets.md", DATASETS),
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def rows(text: str, head: str) -> dict[str, list[str]]:
    """Return the rows of the first table whose first column is called `head`: name -> the other cells."""
    table = re.findall(rf"^\| {head} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, flags=re.MULTILINE)[0]
    cells = [line.strip().strip("|").split(" | ") for line in table.splitlines()]
    return {name: rest for first, *rest in cells for name in re.findall(r"`([^`]+)`", first)[:1]}


@pytest.mark.parametrize("head", TABLES)
def test_a_table_in_docs_names_all_that_is_registered_and_no_more(head: str) -> None:
    document, registered = TABLES[head]
    assert set(rows(read(f"docs/{document}"), head)) == set(registered)


def test_docs_name_every_kind_of_differential_privacy() -> None:
    text = read("docs/strategies.md")
    assert all(f"| `{name}` " in text for name in PRIVACY)


def test_docs_name_every_virtual_teacher() -> None:
    text, *_ = rows(read("docs/methods.md"), "setting")["teacher"][1:]
    assert set(re.findall(r"[a-z-]+", text.partition(":")[2])) == set(TEACHERS)


def test_the_help_of_the_setting_names_every_data_set() -> None:
    text = str(Settings.model_fields["dataset"].description)
    assert set(DATASETS) <= set(re.findall(r"[a-z0-9-]+", text))


def test_docs_show_the_defaults_of_methods_and_codecs() -> None:
    shown = {**settings_shown("method", 1), **settings_shown("codec", 1)}
    registered: Mapping[str, Any] = {**METHODS, **CODECS}
    assert any(shown.values())
    for name, found in shown.items():
        fields = {field.name: field.default for field in dataclasses.fields(registered[name])}
        for key, value in found:
            default = fields[key]
            number = isinstance(default, int | float) and not isinstance(default, bool)
            assert float(value) == default if number else value == str(default).lower(), (name, key)


def settings_shown(head: str, column: int) -> dict[str, list[tuple[str, str]]]:
    """Return the `key=value` of each row of a table."""
    found = rows(read(f"docs/{TABLES[head][0]}"), head)
    return {name: re.findall(r"`(\w+)=([\w.-]+)`", cells[column]) for name, cells in found.items()}


def documents() -> list[Path]:
    return [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_module_that_a_document_names_is_there(document: Path) -> None:
    text = re.sub(r"https?://\S+", "", document.read_text(encoding="utf-8"))
    ends = r"[\w./-]*" if document.name == "CONTRIBUTING.md" else r"[\w./-]+\.(?:py|proto)"
    named = re.findall(rf"(?<![\w/.-])(?:{'|'.join((*ROOMS, 'tests', 'fedquit'))})/{ends}", text)
    missing = [path for path in named if not any((ROOT / f"{path.rstrip('.')}{end}").exists() for end in ("", ".py"))]
    assert missing == []


def test_contributing_shows_every_room() -> None:
    picture = read("CONTRIBUTING.md").partition("## The rooms")[2].partition("The way of a request")[0]
    inner = {path.parent for room in ROOMS for path in (ROOT / room).glob("*/__init__.py")}
    assert inner
    assert all(re.search(rf"\b{folder.name}\b", picture) for folder in inner)
