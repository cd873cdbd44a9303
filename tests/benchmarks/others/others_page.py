"""The table of others' code beside ours: audits of what each returned on one exported run.

`python -m tests.benchmarks.others.others_page --run DIR --row "NAME=WEIGHTS.npz=SENT" ...`, where SENT is the number of
weights that the program printed.
"""

import argparse
from pathlib import Path

from fedquit import AuditResult, audit, read_report

ABOUT = """# Others' code beside ours

Made by `python -m tests.benchmarks.others.others_page` from one run and the weights that others' code returned; each
program in that folder says which repository it needs, and runs as `python run_NAME.py --code REPOSITORY --run RUN.npz
--out WEIGHTS.npz` in an environment that has what that code needs.

One run on `digits-wrong-labels` (three clients of 100 digits, an mlp, 45 rounds of two local epochs; client 0, with
a fifth of its labels wrong, is forgotten), exported with `fedquit simulate --export-partition`. The programs
`tests/benchmarks/others/run_*.py` gave it to the published code, and `fedquit audit` measured the weights that came
back, beside five models retrained for as many rounds as our recovered model. One seed: an example, no ranking. What
was changed to run their code is said at the top of each program; the values in their papers were chosen for other
data and models. Their *sent* weights are counted from their rounds, not measured. Gaps are accuracy minus the
retrained models' mean, in points. FedUP is missing: no repository of its authors was found.

| model | forget | retain | test | gap of forget accuracy | weights sent, % of retraining | verdict |
|---|---|---|---|---|---|---|
"""


def make_page(run: Path, rows: list[tuple[str, Path, int]]) -> str:
    """Return the page; rows are name, file and weights sent."""
    report = read_report(run)
    config, kept = report.document["config"], report.document["phases"]
    retrain = kept["retrain"]["bytes_down"] + kept["retrain"]["bytes_up"]
    ours = sum(kept[phase][f"bytes_{way}"] for phase in ("forget", "recover") for way in ("down", "up"))
    recover = sum(kept["recover"][f"bytes_{way}"] for way in ("down", "up"))
    lines = [
        row("original", audit(report.model("original"), run, relearn_steps=1), 0.0),
        row(f"{config['method']}, ours", audit(report.model("recovered"), run, relearn_steps=1), ours / retrain),
        row("continue, ours", audit(run / "models" / "control.safetensors", run, relearn_steps=1), recover / retrain),
        *(row(name, audit(file, run, relearn_steps=1), 4 * sent / retrain) for name, file, sent in rows),
    ]
    return ABOUT + "\n".join(lines) + "\n"


def row(name: str, found: AuditResult, share: float) -> str:
    """Return a line of the table."""
    model = found.model
    shown = [f"{100 * value:.1f} %" for value in (model.forget_accuracy, model.retain_accuracy, model.test_accuracy)]
    gap = f"{100 * found.gaps['forget_accuracy']:+.1f}"
    return f"| {' | '.join([name, *shown, gap, f'{100 * share:.1f}', found.verdict.outcome])} |"


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--row", action="append", default=[])
    given = parser.parse_args()
    parts = [text.split("=") for text in given.row]
    print(make_page(given.run, [(name, Path(file), int(sent)) for name, file, sent in parts]), end="")


if __name__ == "__main__":
    main()
