"""The page of a comparison: everything is in the one file, and its tables are sorted where they are read."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request

from fedquit.simulations.compare.config.read_config import make_comparison
from fedquit.simulations.compare.report.report_files import rewrite_report, write_report
from fedquit.simulations.compare.results.results_document import make_results

PUBLISHED = Path(__file__).parents[3] / "docs/results/compare/samples-10/summary.json"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a published comparison, made again from its summary."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(PUBLISHED, folder)
    return rewrite_report(folder / "summary.json", out=folder / "out") / "report.html"


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[tuple[Page, list[str]]]:
    """The page in a browser, and all addresses that it asked for."""
    page, asked = browser.new_page(), list[str]()

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    page.goto(file.as_uri())
    yield page, asked
    page.close()


def column(page: Page, number: int) -> list[str]:
    return [
        row.locator("td, th").nth(number).inner_text() for row in page.locator("table").first.locator("tbody tr").all()
    ]


def test_pressing_a_heading_sorts_by_it_and_again_turns_it_round(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    before = column(page, 0)
    heading = page.get_by_role("button", name="bytes", exact=True).first
    place = page.locator("table").first.locator("thead th").all_inner_texts().index("bytes")
    heading.click()
    low_first = [float(text.split(" ")[0]) for text in column(page, place) if text]
    assert low_first == sorted(low_first)
    assert len(set(low_first)) > 2
    heading.click()
    assert [float(text.split(" ")[0]) for text in column(page, place) if text] == low_first[::-1]
    assert sorted(column(page, 0)) == sorted(before), "no row is lost"
    page.get_by_role("button", name="method", exact=True).first.click()
    assert column(page, 0) == sorted(before, key=str.lower)


def test_the_page_asks_no_one_for_anything_and_shows_its_figures(opened: tuple[Page, list[str]], file: Path) -> None:
    page, asked = opened
    page.wait_for_load_state("load")
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}
    assert page.evaluate("Array.from(document.images).map(image => image.naturalWidth > 100)") == [True] * 3
    assert not re.findall(r"(?:src|href)=\"(?!data:)", file.read_text())


def test_names_from_a_config_cannot_add_anything_to_the_page(tmp_path: Path) -> None:
    row = "<img src=x onerror=alert(1)>"
    comparison = make_comparison({"title": "</title><script>", "targets": [0], "seeds": [0],
                                  "methods": {row: {"method": "negate"}}})  # fmt: skip
    write_report(tmp_path, comparison, make_results(comparison, [(0,)], [], tmp_path, {}))
    page = (tmp_path / "report.html").read_text()
    assert row not in page
    assert page.count("<script>") == 1
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
