"""The campaign of faults: all follows from the seed, what lies between parts breaks as told, and tables are right."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.deployed.fault_plan import DEVICE_PARTS, DEVICES, KINDS, LONGEST, SERVER_PARTS, fault
from tests.harness.deployed.faults_deployed import document, is_good, read
from tests.harness.deployed.forwarder import PASS, STALL, Forwarder

GOOD = {"number": 1, "kind": "kill", "fault": "kill: page", "lacking": [], "wrong": [], "hit": 1, "seconds": 20.0,
        "asked": "", "requests": 1, "steps": 9, "asked_again": 0, "started_again": 0, "load": 1.0, "at": 0,
        "seed": 1}  # fmt: skip


def test_faults_follow_from_the_seed_and_all_kinds_and_parts_come() -> None:
    faults = [fault(5, number) for number in range(1, 801)]
    assert faults == [fault(5, number) for number in range(1, 801)]
    assert faults[:50] != [fault(6, number) for number in range(1, 51)]
    assert set(Counter(one.kind for one in faults)) == set(KINDS)
    killed = {target.part for one in faults if one.kind.startswith("kill") for target in one.targets}
    assert killed == {*SERVER_PARTS, *DEVICE_PARTS}
    assert {one.asker for one in faults} == {"", *DEVICES}
    assert all(len(set(one.targets)) == (2 if one.kind == "kill two" else len(one.targets)) for one in faults)
    assert all(0 <= one.lasts <= LONGEST for one in faults)


@pytest.fixture
def echo() -> Iterator[int]:
    """Run a server that sends back what it gets."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            while content := connection.recv(100):
                connection.sendall(content)

    threading.Thread(target=serve, daemon=True).start()
    yield int(listening.getsockname()[1])
    listening.close()


def test_a_forwarder_passes_on_stalls_cuts_and_refuses(echo: int) -> None:
    forwarder = Forwarder(echo)

    def connected() -> socket.socket:
        return socket.create_connection(("127.0.0.1", forwarder.port), timeout=5)

    with connected() as one:
        one.sendall(b"hello")
        assert one.recv(5) == b"hello"
        forwarder.mode = STALL
        one.sendall(b"there")
        one.settimeout(1)
        with pytest.raises(TimeoutError):
            one.recv(5)
        forwarder.mode = PASS
        one.settimeout(5)
        assert one.recv(5) == b"there"
        forwarder.break_off()
        assert one.recv(5) == b""
        with connected() as cut:
            assert cut.recv(5) == b""
        forwarder.refuse()
        with pytest.raises(ConnectionRefusedError):
            connected()
        forwarder.listen()
        with connected() as again:
            again.sendall(b"back")
            assert again.recv(4) == b"back"
    forwarder.refuse()


def test_the_document_counts_what_healed_and_names_what_did_not(tmp_path: Path) -> None:
    bad = {**GOOD, "number": 2, "fault": "kill: join of east", "lacking": ["0 x join of east"], "seconds": 900.0}
    assert [is_good(one) for one in (GOOD, bad)] == [True, False]
    text = document([GOOD, bad])
    assert "| **all** | 2 | 1 of 2 | 2 of 2 | 460 s | 900 s |" in text
    assert "2, kill: join of east: 0 x join of east" in text
    (tmp_path / "outcomes.jsonl").write_text('{"number": 1}\n{"number": 2}\n{"num')
    assert [one["number"] for one in read(tmp_path / "outcomes.jsonl")] == [1, 2]
