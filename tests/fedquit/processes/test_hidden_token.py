"""The tokens of Flower's tasks, with which anybody could speak for them, are not in the list of processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedquit.processes.hidden_token import PROGRAMS, VARIABLE, HidingPopen, with_token

SHOWS = "#!/bin/sh\ntr '\\0' ' ' < /proc/$$/cmdline\necho\necho $FEDQUIT_TASK_TOKEN\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_tasks_token_is_on_no_command_line_and_reaches_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "flwr-serverapp"
    program.write_text(SHOWS)
    program.chmod(0o755)
    monkeypatch.setenv(PROGRAMS, str(tmp_path))
    command = ["flwr-serverapp", "--insecure", "--token", "a secret of one task"]
    with HidingPopen(command, stdout=subprocess.PIPE, text=True) as process:
        shown, token = process.communicate()[0].splitlines()
    assert token == "a secret of one task"
    assert "secret" not in shown
    assert shown.split()[-1] == "--insecure"


def test_a_program_takes_its_token_from_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "a secret")
    assert with_token(["--insecure"]) == ["--insecure", "--token", "a secret"]
    assert with_token(["--insecure"]) == ["--insecure"]  # and what it starts does not have it
