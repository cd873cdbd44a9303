"""What dies is started again, and nothing is left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedquit.client.device.join import free_port
from fedquit.errors import FedquitError
from fedquit.processes import process_groups
from fedquit.processes import supervisor as supervisor_module
from fedquit.processes.supervisor import Part, Supervisor
from tests.harness.waiting import STILL, until

SLEEPS = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
DIES = [sys.executable, "-c", "raise SystemExit(3)"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_is_killed_is_started_again_and_all_ends_in_the_end(tmp_path: Path) -> None:
    told = list[Mapping[str, Any]]()
    supervisor = Supervisor([Part("a", SLEEPS), Part("b", SLEEPS)], tmp_path, told.append)
    supervisor.start(STILL)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    first = supervisor.pids()
    until(lambda: (tmp_path / "a.log").exists() and "here" in (tmp_path / "a.log").read_text())
    os.kill(first["a"], signal.SIGKILL)
    until(lambda: supervisor.pids().get("a", first["a"]) != first["a"])
    second = supervisor.pids()
    assert second["b"] == first["b"]
    supervisor.ask_to_stop()
    thread.join(STILL)
    assert not any(alive(pid) for pid in [*first.values(), *second.values()])
    assert [event["event"] for event in told if event.get("part") == "a"] == ["started", "died", "started", "ended"]


def test_a_part_that_dies_is_restarted_while_the_main_work_hangs(tmp_path: Path) -> None:
    supervisor, hanging, over = Supervisor([Part("a", SLEEPS)], tmp_path), threading.Event(), threading.Event()

    def beside() -> None:
        hanging.set()
        over.wait(STILL)

    supervisor.start(STILL)
    thread = threading.Thread(target=supervisor.run, args=(beside,))
    thread.start()
    assert hanging.wait(STILL)
    first = supervisor.pids()["a"]
    os.kill(first, signal.SIGKILL)
    until(lambda: supervisor.pids().get("a", first) != first)
    supervisor.ask_to_stop()
    thread.join(STILL)
    over.set()
    assert not thread.is_alive()
    assert not supervisor.pids()


def test_an_error_in_the_main_work_ends_the_parts(tmp_path: Path) -> None:
    supervisor = Supervisor([Part("a", SLEEPS)], tmp_path)

    def beside() -> None:
        raise FedquitError("the ledger is gone")

    supervisor.start(STILL)
    with pytest.raises(FedquitError, match="the ledger is gone"):
        supervisor.run(beside)
    assert not supervisor.pids()


def test_a_command_that_is_made_is_another_at_each_start(tmp_path: Path) -> None:
    made, told = list[str](), list[Mapping[str, Any]]()

    def command() -> list[str]:
        made.append(str(len(made)))
        ends = "import sys, time; time.sleep(600 if sys.argv[1] == '2' else 0)"
        return [sys.executable, "-c", ends, made[-1]]

    supervisor = Supervisor([Part("a", command)], tmp_path, told.append)
    supervisor.start(STILL)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    until(lambda: made == ["0", "1", "2"], "third start")
    supervisor.ask_to_stop()
    thread.join(STILL)
    assert [event["event"] for event in told] == ["started", "died", "started", "died", "started", "ended"]


def test_a_log_has_the_time_of_each_line_and_no_colours(tmp_path: Path) -> None:
    says = [
        sys.executable,
        "-c",
        "import time; print('\\x1b[92mINFO \\x1b[0m: here\\n\\n', flush=True); time.sleep(600)",
    ]
    supervisor = Supervisor([Part("a", says)], tmp_path)
    supervisor.start(STILL)
    until(lambda: (tmp_path / "a.log").exists() and "here" in (tmp_path / "a.log").read_text())
    supervisor.stop()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO : here\n", (tmp_path / "a.log").read_text())


def test_the_logs_of_a_part_take_bounded_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "LOG_BYTES", 2000)
    says = "import time\nfor each in range(5000): print('line', each, flush=True)\ntime.sleep(600)"
    supervisor = Supervisor([Part("a", [sys.executable, "-c", says])], tmp_path)
    supervisor.start(STILL)
    until(lambda: any("line 4999\n" in path.read_text() for path in tmp_path.glob("a.log*")), "last line")
    supervisor.stop()
    sizes = [path.stat().st_size for path in tmp_path.glob("a.log*")]
    assert len(sizes) == supervisor_module.LOG_FILES + 1
    assert max(sizes) <= 2000


def test_a_part_works_on_while_its_log_cannot_be_written(tmp_path: Path) -> None:
    works = f"import time\nfor _ in range(3000): print('x' * 100, flush=True)\nopen({str(tmp_path / 'done')!r}, 'w')\n"
    (tmp_path / "a.log").mkdir()  # nothing can be written there
    supervisor = Supervisor([Part("a", [sys.executable, "-c", works + "time.sleep(600)"])], tmp_path)
    supervisor.start(STILL)
    until((tmp_path / "done").exists, "end of its work, with 300 kB said")
    supervisor.stop()


def test_a_part_that_never_listens_is_named_with_its_log_and_the_others_end(tmp_path: Path) -> None:
    told = list[Mapping[str, Any]]()
    supervisor = Supervisor([Part("a", SLEEPS), Part("b", DIES, port=free_port())], tmp_path, told.append)
    with pytest.raises(FedquitError, match=r"b did not start within 2 s; see .*b\.log"):
        supervisor.start(2)
    pids = [event["pid"] for event in told if event["event"] == "started"]
    assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for processor time")
def test_a_part_that_works_on_its_start_is_waited_for_on_a_busy_machine(tmp_path: Path) -> None:
    port = free_port()
    slow = (
        "import socket, time\n"
        "for second in range(1, 7):\n"
        "    time.sleep(0.9)\n"
        "    while time.process_time() < 0.1 * second: pass\n"
        f"listening = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"
    )
    supervisor = Supervisor([Part("slow", [sys.executable, "-c", slow], port=port)], tmp_path)
    supervisor.start(4.0)
    supervisor.stop()


class SlowDeaths:
    """A part that always dies, each time after so many seconds of a made clock."""

    def __init__(self, folder: Path, lives: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.lives, self.told = 1000.0, lives, list[Mapping[str, Any]]()
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("fedquit.processes.supervisor.time", clock)
        self.supervisor = Supervisor([Part("b", DIES)], folder, self.told.append)
        self.supervisor.start(5)

    def die(self) -> float:
        """Let it die once more, and return after how many seconds it is started again."""
        before = len(self.told)
        (process,) = (running.process for running in self.supervisor._running)
        assert process is not None
        process.wait()
        self.now += self.lives
        self.supervisor.tend()
        (died,) = self.told[before:]
        self.now += died["again_in_seconds"] + 0.1
        self.supervisor.tend()
        assert self.told[-1]["event"] == "started"
        return float(died["again_in_seconds"])


@pytest.mark.parametrize("lives", [0.5, 120.0])
def test_pauses_grow_to_a_minute_however_slowly_a_part_dies(
    tmp_path: Path, lives: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = SlowDeaths(tmp_path, lives, monkeypatch)
    pauses = [dying.die() for _ in range(9)]
    for most, waited in zip([1, 2, 4, 8, 16, 32, 60, 60, 60], pauses, strict=True):
        assert most / 2 <= waited <= most


def test_a_part_that_has_died_for_weeks_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = SlowDeaths(tmp_path, 0.5, monkeypatch)
    (running,) = dying.supervisor._running
    running._deaths = 20_000
    assert 30 <= dying.die() <= 60


def test_pauses_are_reset_after_a_part_was_healthy_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = SlowDeaths(tmp_path, 0.5, monkeypatch)
    for _ in range(5):
        dying.die()
    dying.lives = 3600.0
    assert dying.die() <= 1.0


def test_parts_that_died_at_once_do_not_all_come_back_at_once(tmp_path: Path) -> None:
    told = list[Mapping[str, Any]]()
    supervisor = Supervisor([Part(f"b{number}", DIES) for number in range(4)], tmp_path, told.append)
    supervisor.start(5)

    def all_died() -> bool:
        supervisor.tend()
        return len([event for event in told if event["event"] == "died"]) >= 4

    until(all_died)
    supervisor.stop()
    assert len({event["again_in_seconds"] for event in told if event["event"] == "died"}) > 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a dead parent's parts on Linux")
def test_a_supervisor_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from fedquit.processes.supervisor import Part, Supervisor\n"
        f"s = Supervisor([Part('a', {SLEEPS!r})], Path({str(tmp_path)!r})); s.start(30)\n"
        "print(s.pids()['a'], flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    part = int(process.stdout.readline())
    assert alive(part)
    process.kill()
    process.wait()
    until(lambda: not alive(part))


FORKS = """
import os, signal, sys, time
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1] + f"/{os.getpid()}.child", "w").close()
time.sleep(600)
"""


def forking(folder: Path) -> Part:
    """Return a part as nginx is: its main process forks another, which outlives it."""
    return Part("forks", [sys.executable, "-c", FORKS, str(folder)])


def children(folder: Path) -> set[int]:
    return {int(path.stem) for path in folder.glob("*.child")}


linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


@linux
def test_what_a_killed_part_had_forked_ends_before_the_part_starts_again(tmp_path: Path) -> None:
    supervisor = Supervisor([forking(tmp_path)], tmp_path)

    def begun_again() -> bool:
        supervisor.tend()
        return len(children(tmp_path)) == 2

    supervisor.start(STILL)
    try:
        (orphan,) = until(lambda: children(tmp_path))
        os.kill(supervisor.pids()["forks"], signal.SIGKILL)
        until(begun_again)
        assert not alive(orphan)
        (second,) = children(tmp_path) - {orphan}
    finally:
        supervisor.stop()
    until(lambda: not alive(second))


@linux
def test_what_a_killed_supervisor_left_is_ended_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedquit.processes.supervisor.GRACE", 1.0)  # what is left ignores SIGTERM
    code = (
        "import sys, time; from pathlib import Path; from fedquit.processes.supervisor import Part, Supervisor\n"
        f"s = Supervisor([Part('forks', {forking(tmp_path).arguments()!r})], Path({str(tmp_path)!r})); s.start(30)\n"
        "print(s.pids()['forks'], flush=True); time.sleep(600)"
    )
    told = list[Mapping[str, Any]]()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    main = int(process.stdout.readline())
    (orphan,) = until(lambda: children(tmp_path))
    with pytest.raises(FedquitError, match=f"process {process.pid} keeps the parts in .* alive already"):
        Supervisor([], tmp_path).start(STILL)
    process.kill()
    process.wait()
    until(lambda: not alive(main))
    assert alive(orphan)
    Supervisor([], tmp_path, told.append).start(STILL)
    assert not alive(orphan)
    assert told == [{"event": "cleared", "part": "forks", "processes": 1}]


@linux
def test_another_process_that_has_the_number_of_one_of_ours_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen(SLEEPS, process_group=0)
    gone = subprocess.Popen(["true"])
    try:
        process_groups.remember(tmp_path, {"a": other.pid})
        document = json.loads((tmp_path / process_groups.FILE).read_text())
        gone.wait()
        document["pid"] = gone.pid
        document["groups"]["a"]["started"] -= 1
        (tmp_path / process_groups.FILE).write_text(json.dumps(document))
        Supervisor([], tmp_path).start(STILL)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
