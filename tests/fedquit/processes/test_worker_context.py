"""Workers do not run the script that starts them."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedquit.processes import worker_context

SCRIPT = """
import os
from concurrent.futures import ProcessPoolExecutor
from fedquit.processes.worker_context import worker_context

print("the script begins")
with ProcessPoolExecutor(2, mp_context=worker_context(["json"])) as pool:
    pids = {pool.submit(os.getpid).result() for _ in range(3)}
print(os.getpid() not in pids)
"""


def test_a_script_without_a_main_guard_is_run_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["the script begins", "True"], done.stderr[-2000:]


def test_threads_that_start_workers_at_once_leave_the_script_its_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    main, inside, most = sys.modules["__main__"], 0, 0

    def start(self: object) -> None:
        nonlocal inside, most
        del self
        inside += 1
        most = max(most, inside)
        time.sleep(0.1)
        inside -= 1

    monkeypatch.setattr(worker_context._Process, "start", start)
    threads = [threading.Thread(target=worker_context.Worker().start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, sys.modules["__main__"]) == (1, main)


INTERRUPTED = """
import multiprocessing, os, signal, sys, time
METHODS = sys.argv[1:]
multiprocessing.get_all_start_methods = lambda: METHODS
sys.path.insert(0, os.path.dirname(__file__))
from fedquit.processes.worker_context import begin_clean_process, worker_context

if __name__ == "__main__":
    context = worker_context(["slow_to_import"])
    begin_clean_process()
    if "spawn" in METHODS:
        import slow_to_import
        context.Process(target=slow_to_import.nothing).start()
    while not os.path.exists(os.path.join(os.path.dirname(__file__), "importing")):
        time.sleep(0.05)
    try:
        os.killpg(0, signal.SIGINT)  # as the terminal does
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped")
"""
SLOW = """
import multiprocessing, os, sys, time
if multiprocessing.current_process().name != "MainProcess" or "-c" in sys.orig_argv:
    open(os.path.join(os.path.dirname(__file__), "importing"), "w").close()
    time.sleep(1.5)
def nothing(): pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot hold a signal back")
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_ctrl_c_while_workers_are_importing_shows_nothing_of_theirs(method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    (tmp_path / "slow_to_import.py").write_text(SLOW)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), method],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert done.stdout == "stopped\n"
    assert not done.stderr
