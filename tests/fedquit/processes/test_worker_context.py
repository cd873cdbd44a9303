"""Workers do not run the script that starts them."""

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
