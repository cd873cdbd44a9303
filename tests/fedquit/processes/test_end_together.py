"""A program whose work is over does not stay as a process that does nothing."""

import subprocess
import sys

import pytest

RUN = """
import sys, threading, time
from importlib import metadata
from types import SimpleNamespace
from fedquit.processes import end_together

def program():
    threading.Thread(target=time.sleep, args=(600,)).start()
    {body}

end_together.entry_points = lambda **_: [SimpleNamespace(load=lambda: program)]
sys.argv = ["end_together", "program", "--flag"]
end_together.main()
"""


@pytest.mark.parametrize(
    ("body", "said", "code"),
    [
        ("print(sys.argv)", "['program', '--flag']", 1),
        ("raise OSError('no connection')", "OSError: no connection", 1),
        ("threading.Thread(target=lambda: 1 / 0).start(); time.sleep(600)", "ZeroDivisionError", 1),
    ],
)
def test_a_process_ends_when_one_of_its_threads_fails_or_its_work_is_over(body: str, said: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(body=body)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_a_program_that_is_not_there_is_named() -> None:
    command = [sys.executable, "-m", "fedquit.processes.end_together", "flower-superfluous"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "flower-superfluous: there is no such program" in done.stderr
