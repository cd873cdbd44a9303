"""What the measurement of a deployment makes of what it saw."""

import os
from pathlib import Path

from tests.benchmarks.deployment import Ask, Exchange, Memory, Messages, alone, memory_of, profile_of
from tests.benchmarks.deployment_page import BEGIN, END, page_of, replaced
from tests.harness.deployment import Process


def test_overlapping_messages_are_one_exchange_timed_to_the_last() -> None:
    messages = Messages(Path("none.db"))
    messages.sent = {"a": ("evaluate", 10.0), "b": ("evaluate", 10.1), "c": ("train", 15.0), "lost": ("train", 15.0)}
    messages.fetched = {"a": 11.0, "b": 12.0, "c": 17.0}
    messages.replied = {"a": 12.5, "b": 14.0, "c": 18.0}
    first, second = messages.exchanges(until=18.5)
    assert (first.kind, first.devices, first.poll, first.device, first.server) == ("evaluate", 2, 2.0, 2.0, 1.0)
    assert (second.kind, second.devices, second.poll, second.device, second.server) == ("train", 1, 2.0, 1.0, 0.5)
    whole = sum(part for exchange in (first, second) for part in (exchange.poll, exchange.device, exchange.server))
    assert whole == 18.5 - 10.0


def test_shared_file_pages_count_once_on_a_machine_of_its_own() -> None:
    first = Memory("a", 1, 30.0, 60.0, 20.0, {"lib@0": 10.0, "own@0": 1.0})
    second = Memory("b", 2, 40.0, 70.0, 25.0, {"lib@0": 12.0})
    assert alone([first, second]) == {"private_mb": 45.0, "files_mb": 13.0}


def test_the_memory_of_a_process_is_its_own_and_that_of_its_files() -> None:
    own = memory_of(Process(os.getpid(), "pytest"))
    assert own is not None
    assert 0 < own.private_mb <= own.pss_mb <= own.rss_mb
    assert sum(own.files.values()) <= own.rss_mb
    assert any("lib" in place for place in own.files)
    assert memory_of(Process(2**22 + 1, "gone")) is None


def test_the_profile_of_asks_adds_up_to_the_seconds_that_they_took() -> None:
    slow = Ask("done", 20.0, 21.0, 2.0, (Exchange("evaluate", 3, 3.0, 2.0, 1.0), Exchange("forget", 1, 2.0, 9.0, 1.0)))
    fast = Ask("done", 10.0, 11.0, 1.0, (Exchange("forget", 1, 1.0, 7.0, 1.0),))
    profile = profile_of([slow, fast])
    assert sum(row[name] for row in profile.values() for name in ("poll", "device", "server")) == 15.0
    assert (profile["evaluate"]["exchanges"], profile["forget"]["device"]) == (0.5, 8.0)


def test_the_figures_of_a_deployment_replace_only_those_in_the_document() -> None:
    ask = Ask("done", 10.0, 11.0, 1.0, (Exchange("forget", 1, 1.0, 7.0, 1.0),))
    memory = [Memory("fedquit join", 7, 30.0, 60.0, 20.0, {}).document()] * 2
    size = {"private_mb": 45.0, "files_mb": 13.0}
    found = {
        "devices": 3,
        "trusted": False,
        "load_before": 0.1,
        "load_after": 0.2,
        "cores": 2,
        "date": "2026-12-01",
        "python": "3.11.7",
        "fedquit": "0.1.0",
        "flwr": "1.42.0",
        "torch": "2.14.1",
        "median_seconds": 10.0,
        "asks": [ask],
        "memory": memory,
        "server_without_model": size,
        "device": size,
        "profile": profile_of([ask]),
    }
    text = DOCUMENT.read_text(encoding="utf-8")
    new = replaced(text, page_of(found, "python -m tests.benchmarks.deployment"))
    assert [new.partition(BEGIN)[0], new.partition(END)[2]] == [text.partition(BEGIN)[0], text.partition(END)[2]]
    assert "**10.0 s from the ask to the receipt**" in new
    assert "| forget | 1.0 | 1.0 s | 7.0 s | 1.0 s |" in new
    assert "| fedquit join | 2 | 30 MB | 60 MB |" in new
    assert all(len(line) <= 120 for line in page_of(found, "a command") if line.startswith("|"))


DOCUMENT = Path(__file__).parents[2] / "docs" / "deploy.md"
