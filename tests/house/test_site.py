"""The site: reference pages as their sources say, every public name shown with its docstring, diagrams as drawn."""

import re
from pathlib import Path

import pytest

from tests.house.diagrams import DIAGRAMS, FOLDER
from tests.house.public_names import API, INNER, doc_of, documented, packages, resolve
from tests.house.reference_pages import PAGES

ROOT = Path(__file__).resolve().parents[2]
ROOMS = packages()


@pytest.mark.parametrize("page", PAGES)
def test_a_reference_page_says_what_its_source_says(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == PAGES[page](), "run `make reference`"


@pytest.mark.parametrize("package", ROOMS)
def test_every_public_name_is_in_the_reference_with_a_docstring(package: str) -> None:
    shown = {id(resolve(path)) for page in (API, INNER) for path in documented(page)}
    assert ROOMS[package]
    assert [name for name in ROOMS[package] if id(resolve(f"{package}.{name}")) not in shown] == []
    assert [name for name in ROOMS[package] if not doc_of(package, name).strip()] == []


def test_the_public_api_is_on_its_own_page() -> None:
    assert {f"fedquit.{name}" for name in ROOMS["fedquit"]} <= set(documented(API))


def test_a_name_without_a_docstring_is_found() -> None:
    assert doc_of("tests.house.test_site", "ROOT") == ""
    assert doc_of("fedquit.unlearning", "METHODS").startswith("Every method")


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_as_it_is_drawn_and_loads_nothing(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == DIAGRAMS[name](), "run `make diagrams`"
    assert re.findall(r"https?://(?!www\.w3\.org/)", text) == []


def test_every_page_of_the_documents_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = [path.relative_to(ROOT / "docs") for path in sorted((ROOT / "docs").rglob("*"))]
    named = [path.with_suffix(".md").as_posix() for path in pages if path.suffix in (".md", ".ipynb")]
    assert [name for name in named if name not in menu and not name.startswith("results/compare/")] == []


def test_the_erasure_page_names_what_authorities_ask_about() -> None:
    text = (ROOT / "docs" / "erasure.md").read_text(encoding="utf-8")
    topics = ["Documented procedure", "one month", "Identity", "Informing recipients", "Backups", "Exceptions"]
    topics += ["Anonymisation", "Proof of what was done", "no legal advice", "Art. 12(3)", "Art. 17", "Art. 19"]
    for topic in topics:
        assert topic in text, topic
    assert all(
        re.search(r"\| [^|]{20,} \| [^|]{20,} \|$", line) for line in text.splitlines() if line.startswith("| **")
    )
