"""What tests of every part share."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

# Before torch is imported, here and in every process that a test starts: on a busy machine the threads of one process
# wait for each other far longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fedquit.cli import main

Run = Callable[..., tuple[int, str, str]]
WANTED = {
    "nginx": "apt-get install nginx-light",
    "PostgreSQL": "apt-get install postgresql",
    "Chromium": "apt-get install chromium",
    "promtool": "apt-get install prometheus",
    "nbclient": "pip install 'fedquit[test]'",
}
"""Programs that some tests need, and how to get them, on Debian or from PyPI."""


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
