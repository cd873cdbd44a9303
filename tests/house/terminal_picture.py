"""Take the picture of a terminal in docs/images/terminal.svg from a real run: `make terminal` (about a minute)."""

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

FILE = Path(__file__).resolve().parents[2] / "docs" / "images" / "terminal.svg"
COMMAND = ("simulate", "--references", "5")
WIDTH = 80


def picture(text: str) -> str:
    """Return what a command printed as the picture of a terminal, without fonts from elsewhere.

    Args:
        text: with the terminal's colours in it or without.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text))
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    drawn = console.export_svg(title="fedquit", code_format=form, unique_id="terminal")
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def main() -> None:
    """Run the command in a terminal of 80 columns and store the picture."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}
        command = [sys.executable, "-m", "fedquit", *COMMAND, "--out", f"{folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    shown = re.sub(r"\nReport, models and figures: .*", "", done.stdout)
    FILE.write_text(picture(f"$ fedquit {' '.join(COMMAND)}\n\n{shown}"), encoding="utf-8")


if __name__ == "__main__":
    main()
