"""What tests of every part share."""

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Before torch is imported, here and in every process that a test starts: on a busy machine the threads of one process
# wait for each other far longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fedquit.cli import main

# On a busy machine a case may take any time.
hypothesis.settings.register_profile("fedquit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("fedquit")

Run = Callable[..., tuple[int, str, str]]
WANTED = {
    "nginx": "apt-get install nginx-light",
    "PostgreSQL": "apt-get install postgresql",
    "Chromium": "apt-get install chromium",
    "promtool": "apt-get install prometheus",
    "nbclient": "pip install 'fedquit[test]'",
}
"""Programs that some tests need, and how to get them, on Debian or from PyPI."""


def pytest_configure() -> None:
    """Have SIGTERM, as `timeout` sends it, end a run as Ctrl-C does: what the run began is ended and removed."""
    own = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == own:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a process that a test has forked
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, stop)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in the end what was skipped for want of a program, and how to get it."""
    reports = terminalreporter.stats.get("skipped", [])
    for line in lacking(str(report.longrepr) for report in reports):
        terminalreporter.write_line(line, yellow=True)


def lacking(reasons: Iterable[str]) -> list[str]:
    """Return a line for each program that is not there, from why tests were skipped.

    >>> lacking(["nginx is not installed", "PostgreSQL is not installed", "nginx is not installed", "Windows"])[0]
    '2 skipped for want of nginx: apt-get install nginx-light'
    """
    skipped = Counter(name for reason in reasons for name in WANTED if f"{name} is" in reason)
    return [f"{number} skipped for want of {name}: {WANTED[name]}" for name, number in skipped.items()]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return its exit code, its output and its errors."""

    def called(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedquit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return called


@pytest.fixture(scope="session")
def chromium() -> str:
    """Find it before a deployment is rehearsed, which takes a while and would be for nothing."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        reason = f"no Chromium is installed; on Debian: {WANTED['Chromium']}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def browser(chromium: str) -> "Iterator[Browser]":
    """Open a real browser for pages of ours."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        ours = ["--no-sandbox", "--disable-dev-shm-usage"]  # containers; it opens our own pages and nothing else
        browser = playwright.chromium.launch(executable_path=chromium, args=ours)
        yield browser
        browser.close()
