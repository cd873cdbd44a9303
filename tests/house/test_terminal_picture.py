"""The picture of a terminal is of the command that it shows."""

import re

from tests.house.terminal_picture import COMMAND, FILE, picture


def test_the_picture_of_a_terminal_is_of_the_command_and_loads_nothing() -> None:
    text = re.sub(r"&#160;", " ", FILE.read_text(encoding="utf-8"))
    assert f"$ fedquit {' '.join(COMMAND)}" in text
    assert "Verdict:" in text
    assert re.findall(r"https?://(?!www\.w3\.org/|www\.textualize\.io)", text) == []
    assert "wide" in picture("wide")
