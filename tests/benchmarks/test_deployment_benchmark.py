"""What the measurement of a deployment makes of what it saw."""

import os
from pathlib import Path

from tests.benchmarks.deployment import Memory, Messages, alone, memory_of
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
