"""A program whose work is over does not stay as a process that does nothing."""

import os
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


TWO = """
import os, sys, threading, time
from types import SimpleNamespace
from fedquit.processes import end_together

def first():
    print("first", sys.argv, flush=True)
    time.sleep(600)

def second():
    print("second", sys.argv, os.getppid() == {parent}, flush=True)
    time.sleep({seconds})

programs = {{"first": first, "second": second}}
end_together.entry_points = lambda name, **_: [SimpleNamespace(load=lambda: programs[name])]
sys.argv = ["end_together", "first", "-a", "--and", "second", "-b"]
end_together.main()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_programs_have_a_process_each_and_end_with_each_other() -> None:
    code = TWO.format(parent="int(open('/proc/self/stat').read().split()[3])", seconds=0.5)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert sorted(done.stdout.splitlines()) == ["first ['first', '-a']", "second ['second', '-b'] True"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_program_that_is_killed_takes_the_other_with_it() -> None:
    code = TWO.format(parent=0, seconds=600) + ""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as both:
        assert both.stdout is not None
        both.stdout.readline(), both.stdout.readline()
        both.kill()
        assert both.stdout.read() == ""  # which ends only when the other has ended
