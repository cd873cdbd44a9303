"""What an operator sees in a real browser: a rehearsed deployment, on a phone and on a desk, by day and by night.

`make pictures` has the pictures in docs/page made here.
"""

import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize

from fedquit.client.receipts import read_receipt
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.page.routes import make_page
from tests.harness.rehearsal import Rehearsal
from tests.harness.waiting import STILL

DESK, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=375, height=800)
VIEWS = [(DESK, "light"), (PHONE, "dark"), (PHONE, "light"), (DESK, "dark")]
OVERFLOW = """() => [document.documentElement, ...document.querySelectorAll(".wide")]
  .filter(e => e.scrollWidth > e.clientWidth).length"""
CONTRAST = """() => {  // the least of the page, as WCAG 2.2 defines it
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = e => {
    const own = rgba(getComputedStyle(e).backgroundColor);
    return own[3] ? own : e.parentElement ? behind(e.parentElement) : rgba(dark.matches ? "#121212" : "#fff");
  };
  return Math.min(...[...document.body.querySelectorAll("*")].filter(e => e.innerText).map(e => {
    const both = [light(rgba(getComputedStyle(e).color)), light(behind(e))];
    return (Math.max(...both) + .05) / (Math.min(...both) + .05);
  }));
}"""
FOCUS = "[document.activeElement.getAttribute('href'), getComputedStyle(document.activeElement).outlineWidth]"


@contextmanager
def served(page: FastAPI) -> Iterator[str]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(page, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url(deployment: Rehearsal) -> Iterator[str]:
    with served(make_page(deployment.server, deployment.federation, clock=lambda: deployment.clock.now + 3600)) as at:
        yield at


@contextmanager
def looked_at(browser: Browser, url: str, size: ViewportSize = DESK, scheme: Any = "light") -> Iterator[Page]:
    """Open a page, and fail if anything goes wrong in it or any request goes elsewhere."""
    context = browser.new_context(viewport=size, color_scheme=scheme, base_url=url)
    page, wrong = context.new_page(), list[str]()
    page.set_default_timeout(1000 * STILL)
    page.on("console", lambda said: wrong.append(f"{page.url}: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(f"{page.url}: {error}"))
    page.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else wrong.append(asked.url))
    page.goto("/")
    yield page
    context.close()
    assert wrong == []


def links(page: Page) -> list[str]:
    return [link.get_attribute("href") or "" for link in page.get_by_role("link").all()]


def paths(page: Page) -> list[str]:
    """Follow every link to a page, and return all."""
    seen, waiting = set[str](), ["/"]
    while waiting:
        path = waiting.pop()
        if path not in seen and not path.startswith("/api/"):
            seen.add(path)
            page.goto(path)
            waiting += links(page)
    return sorted(seen)


@pytest.mark.parametrize(("size", "scheme"), VIEWS)
def test_every_page_fits_can_be_read_and_stays_on_this_machine(
    browser: Browser, url: str, size: ViewportSize, scheme: str
) -> None:
    with looked_at(browser, url, size, scheme) as page:
        found = paths(page)
        assert len(found) == 3 + 5, "federation, requests, rounds, and a page for each request"
        for path in found:
            answer = page.goto(path)
            assert answer is not None
            assert answer.status == 200
            assert page.evaluate(OVERFLOW) == 0, path
            assert page.evaluate(CONTRAST) >= 4.5, path


def test_overdue_requests_come_first_and_link_to_what_they_wait_for(browser: Browser, url: str) -> None:
    with looked_at(browser, url) as page:
        assert "1 request past the deadline" in page.get_by_role("alert").inner_text()
        row = page.get_by_role("row").filter(has_text="overdue by 1 d")
        row.get_by_role("link").click()
        assert page.get_by_role("heading", level=1).inner_text() == "Forget all data of west"
        told = page.get_by_role("alert").inner_text()
        assert "forgetting, overdue by 1 d" in told
        assert "It waits for west, until" in told


def test_members_rounds_costs_and_the_timeline_of_a_request_can_be_seen(browser: Browser, url: str) -> None:
    with looked_at(browser, url) as page:
        assert page.get_by_role("row", name="east device withdrawn").count() == 1
        page.get_by_role("link", name="Requests", exact=True).click()
        page.get_by_role("row", name="6 samples of south").get_by_role("link").first.click()
        timeline = page.get_by_role("table").first.inner_text()
        assert [word in timeline for word in ("asked by south", "begun, by fedquit", "forgotten", "done after")] == [
            True
        ] * 4
        assert "kept" in page.get_by_role("definition").filter(has_text="UTC").nth(1).inner_text()
        page.get_by_role("link", name="Rounds and costs").click()
        assert [page.get_by_role("row", name=phase).count() > 0 for phase in ("train", "forget", "recover")] == [
            True
        ] * 3


def test_a_receipt_downloaded_from_the_page_verifies(browser: Browser, url: str, deployment: Rehearsal) -> None:
    key: Any = load_pem_public_key((deployment.server / "receipts.pub").read_bytes())
    with looked_at(browser, url) as page:
        page.goto("/requests")
        page.get_by_role("row", name="all data of east").get_by_role("link").first.click()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download the receipt").click()
        assert download.value.suggested_filename in page.get_by_role("main").inner_text()
        receipt = read_receipt(Path(download.value.path()).read_bytes(), key)
        assert receipt.request["id"] in page.url


def test_nothing_can_be_sent_or_run_from_any_page(browser: Browser, url: str) -> None:
    with looked_at(browser, url) as page:
        for path in paths(page):
            page.goto(path)
            assert page.locator("form, input, button, textarea, select, script, iframe").count() == 0


def test_the_keyboard_reaches_every_link_and_shows_where_it_is(browser: Browser, url: str) -> None:
    with looked_at(browser, url) as page:
        wanted, reached = links(page), list[str]()
        for _ in wanted:
            page.keyboard.press("Tab")
            at = page.evaluate(FOCUS)
            reached.append(at[0])
            assert at[1] == "3px"
        assert reached == wanted


def test_a_federation_that_has_not_begun_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    Ledger.open(f"sqlite:///{tmp_path}/ledger.db").close()
    with served(make_page(tmp_path, Federation(name="clinics"))) as at, looked_at(browser, at, PHONE) as page:
        told = page.get_by_role("main").inner_text()
        assert "training begins once 2 devices are connected" in told
        assert "Nobody is enrolled" in told
        page.get_by_role("link", name="Requests", exact=True).click()
        assert "fedquit forget KIT" in page.get_by_role("main").inner_text()
        assert page.evaluate(OVERFLOW) == 0


def test_a_wrong_address_gives_an_error_page(browser: Browser, url: str) -> None:
    context = browser.new_context(base_url=url)
    page = context.new_page()
    for path in ("/requests/" + "0" * 64, "/requests/x", "/nowhere"):
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 404
        assert page.get_by_role("navigation").is_visible()
    context.close()


PICTURES: dict[str, tuple[str, ViewportSize, str]] = {
    "federation": ("/", DESK, "light"),
    "request": ("all data of east", DESK, "light"),
    "overdue": ("all data of west", PHONE, "dark"),
    "rounds": ("/rounds", DESK, "dark"),
}


@pytest.mark.skipif("PICTURES" not in os.environ, reason="make pictures")
@pytest.mark.parametrize("name", PICTURES)
def test_pictures(browser: Browser, url: str, name: str) -> None:
    folder = Path(os.environ["PICTURES"])
    folder.mkdir(parents=True, exist_ok=True)
    path, size, scheme = PICTURES[name]
    with looked_at(browser, url, size, scheme) as page:
        page.goto(path if path.startswith("/") else "/requests")
        if not path.startswith("/"):
            page.locator("tr").filter(has_text=path).get_by_role("link").first.click()
        picture = (
            Image.open(io.BytesIO(page.screenshot(full_page=True)))
            .convert("RGB")
            .quantize(256, dither=Image.Dither.NONE)
        )
    picture.save(folder / f"{name}.png", optimize=True)
    assert (folder / f"{name}.png").stat().st_size < 150_000
