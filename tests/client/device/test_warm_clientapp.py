"""A message is carried out by a process that was ready for it, or else by Flower's own program; never by both."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedquit.client.device.join import CLIENTAPP, HAND_OVER, write_programs
from fedquit.client.device.processes import hand_over
from fedquit.client.device.processes.hand_over import LOCK, SOCKET, locked
from tests.harness.waiting import STILL, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
READY = """
import os, sys, time
from pathlib import Path
from fedquit.client.device.processes import hand_over, warm_clientapp
folder = Path(sys.argv[1])
seen = []

def program():
    seen.append(sys.argv[1])
    with (folder / "codes").open("a") as codes:
        codes.write(sys.argv[1] + " ")
    print("carried out", len(seen), *sys.argv, flush=True)
    (folder / "pid").write_text(str(os.getpid()))
    if sys.argv[1] == "sleep":
        time.sleep(600)
    sys.exit(int(sys.argv[1]))

lock = hand_over.locked(str(folder))
warm_clientapp.serve(folder, program, float(sys.argv[2]))
"""
FLOWERS = """#!/bin/sh
echo "flower $@"
exit 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder whose name is longer than that of a socket may be."""
    made = tmp_path / ("a" * 120)
    made.mkdir()
    return made


@pytest.fixture
def ready(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", READY, str(folder), "600"]) as process:
        until(lambda: (folder / SOCKET).exists(), "socket")
        yield process
        process.kill()


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-IS", str(HAND_OVER), str(folder), CLIENTAPP, *arguments]


def given(folder: Path, *arguments: str, programs: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Hand a message over, with Flower's program on the path; `programs` is the folder of whoever is ready."""
    return subprocess.run(
        command(programs or folder, *arguments), capture_output=True, text=True, check=False, env=flowers_own(folder)
    )


def flowers_own(folder: Path) -> dict[str, str]:
    """Return an environment with Flower's program on the path, behind the folder of whoever is ready."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    (bin_folder / CLIENTAPP).write_text(FLOWERS)
    (bin_folder / CLIENTAPP).chmod(0o700)
    return {**os.environ, "PATH": os.pathsep.join([str(folder), str(bin_folder), os.environ["PATH"]])}


def is_there(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.usefixtures("ready")
def test_each_message_has_a_process_of_its_own_that_saw_none_before(folder: Path) -> None:
    pids = set[str]()
    for code in ("0", "3", "4"):
        done = given(folder, code, "--token", "t")
        assert (done.returncode, done.stdout) == (int(code), f"carried out 1 {CLIENTAPP} {code} --token t\n")
        pids.add((folder / "pid").read_text())
    assert len(pids) == 3


def test_without_a_process_that_is_ready_flowers_own_program_runs(folder: Path) -> None:
    held = locked(str(folder))  # so that this test's process does not become the next one
    done = given(folder, "a b", "c")
    assert (done.returncode, done.stdout) == (7, "flower a b c\n")
    assert held is not None
    os.close(held)


def test_a_message_is_not_lost_where_no_process_can_be_ready(tmp_path: Path, folder: Path) -> None:
    programs = tmp_path / "gone"
    done = given(folder, "a", programs=programs)
    assert (done.returncode, done.stdout) == (7, "flower a\n")


def test_a_message_whose_process_was_killed_is_not_carried_out_twice(
    folder: Path, ready: "subprocess.Popen[bytes]"
) -> None:
    where = flowers_own(folder)
    with subprocess.Popen(command(folder, "sleep"), stdout=subprocess.PIPE, text=True, env=where) as handing_over:
        until(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "message")
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
        assert handing_over.wait(STILL) == 1
        assert handing_over.stdout is not None
        assert handing_over.stdout.read() == f"carried out 1 {CLIENTAPP} sleep\n"
    assert ready.poll() is None


@pytest.mark.usefixtures("ready")
def test_a_message_given_up_as_it_was_accepted_is_not_begun(folder: Path) -> None:
    connection = hand_over._connected(str(folder))
    assert connection is not None
    with connection:
        socket.send_fds(connection, [b'["0"]\n'], [1, 2])
        assert connection.recv(1) == hand_over.ACCEPTED  # a moment too late: Flower's own program has it
        assert given(folder, "3").returncode == 3
        assert (folder / "codes").read_text() == "3 "


def test_a_ready_process_that_hangs_loses_no_message_and_doubles_none(
    folder: Path, ready: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_over, "STARTING", 0.5)
    ready.send_signal(signal.SIGSTOP)
    assert hand_over.handed_over(str(folder), ["0"]) is None  # so Flower's own program runs
    ready.send_signal(signal.SIGCONT)
    assert given(folder, "3").returncode == 3
    assert (folder / "codes").read_text().split() == ["3"]


@pytest.mark.usefixtures("ready")
def test_when_flower_ends_a_message_the_process_that_carries_it_out_ends(folder: Path) -> None:
    with subprocess.Popen(command(folder, "sleep"), stdout=subprocess.DEVNULL) as handing_over:
        until(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "message")
        handing_over.kill()
        pid = int((folder / "pid").read_text())
        until(lambda: not is_there(pid), "end of the message's process")


def test_a_ready_process_ends_and_frees_its_memory_when_no_message_comes(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READY, str(folder), "0.5"], check=False, timeout=STILL)
    assert done.returncode == 0
    assert not (folder / SOCKET).exists()
    free = locked(str(folder))
    assert free is not None
    os.close(free)


def test_joining_removes_the_socket_of_a_process_that_was_killed(
    folder: Path, ready: "subprocess.Popen[bytes]"
) -> None:
    hand_over.remove_stale_socket(str(folder))
    assert (folder / SOCKET).exists(), "its process is ready"
    ready.kill()
    ready.wait()
    assert (folder / SOCKET).exists(), "nobody has removed it"
    (folder / "programs").mkdir(mode=0o700)
    (folder / SOCKET).rename(folder / "programs" / SOCKET)
    write_programs(folder)
    assert not (folder / "programs" / SOCKET).exists()


def test_nobody_else_can_hand_a_message_over(folder: Path, ready: "subprocess.Popen[bytes]") -> None:
    assert ready.poll() is None
    assert (folder / SOCKET).stat().st_mode & 0o077 == 0
    assert (folder / LOCK).stat().st_mode & 0o077 == 0
    programs = write_programs(folder)
    assert len(programs) == 2
    for each in programs:
        assert each.stat().st_mode & 0o077 == 0
        assert (each / CLIENTAPP).stat().st_mode & 0o777 == 0o700
