"""Workers do not run the script that starts them."""

import subprocess
import sys
from pathlib import Path

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
