"""Others' code beside ours: the same exported runs given to each, and audits of what came back.

    python -m tests.benchmarks.others.others_page --work DIR --code fedosd=PYTHON=REPOSITORY ...

carries out our runs in DIR and gives them to `run_NAME.py` for every NAME for which --code says the interpreter and the
folder of the published code; takes what is in DIR already; and writes docs/results/others.json and, from that,
docs/results/others.md.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from fedquit import AuditResult, RunResult, audit, read_report, simulate
from fedquit.documents import Document
from fedquit.files import write_json
from fedquit.simulations.api.run_parts import Stage
from fedquit.unlearning.evaluation.verdict import CONSISTENT, NO_EVIDENCE, NOT_CONSISTENT, UNDETERMINED

HERE = Path(__file__).parent
PAGE, JSON = (Path("docs/results") / f"others.{kind}" for kind in ("md", "json"))
SEEDS = (0, 1)
RUN: Mapping[str, Any] = {
    "dataset": "digits-wrong-labels", "model": "mlp", "clients": 3, "scheme": "column", "column": "client",
    "rounds": 45, "local-epochs": 2, "momentum": 0.9, "guard": "adopt", "recover": "budget", "recover-rounds": 5,
    "references": 5,
}  # fmt: skip
OURS: Mapping[str, Mapping[str, Any]] = {
    "orthogonal, ours": {"method": "orthogonal"},
    "orthogonal, ours, FedOSD's steps": {"method": "orthogonal", "method-settings": {"rounds": 100, "lr": 4e-4}},
    "orthogonal, ours, one step on all samples": {
        "method": "orthogonal", "method-settings": {"epochs": 1, "batch-size": 200},
    },
}  # fmt: skip
"""Further runs from the same training; FedQUIT and `continue` are in the first."""
LIKE_OURS = {"UR": 10, "R": 15, "lr": 0.1, "r_lr": 0.1, "decay": 1.0, "B": 32, "E": 2}
THEIRS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "FedOSD, their code and values": ("fedosd", {}),
    "FedOSD, their code, our rounds, two local epochs of batches of 32": ("fedosd", LIKE_OURS),
    "FUSED, their code and values": ("fused", {}),
    "FUSED, their code and values, our rounds": ("fused", {"global_epoch": 5}),
    "FedQUIT, their code and values, recovery ours in Keras": ("fedquit_keras", {}),
    "FedOSD, their code, our rounds, one step on all samples": ("fedosd", {**LIKE_OURS, "B": 200, "E": 1}),
}
REPOSITORIES = {
    "fedosd": "zibinpan/FedOSD",
    "fused": "Zhong-Zhengyi/FUSED-Code",
    "fedquit_keras": "alessiomora/FedQUIT",
}
OUTCOMES = {CONSISTENT: "c", NOT_CONSISTENT: "n", NO_EVIDENCE: "e", UNDETERMINED: "u"}

ABOUT = """# Others' code beside ours

Made by `python -m tests.benchmarks.others.others_page --work DIR --code NAME=PYTHON=REPOSITORY ...`; figures in
[others.json](others.json). Each program `run_NAME.py` in `tests/benchmarks/others` says at its top which repository it
runs, and what had to be changed for that; it runs in an environment that has what that code needs. Their code is of
these commits: {commits}.

Each run uses the data set `digits-wrong-labels` (three clients of 100 digits, an mlp, 45 rounds of two local epochs;
client 0, with a fifth of its labels wrong, is forgotten), exported with `fedquit simulate --export-partition`, seeds
{seeds}. The programs pass the exported runs to the published code, and `fedquit audit` measured the weights that came
back, beside five models retrained for as many rounds as our recovered model.

**Budgets differ.** Ours recover for five rounds. *Their values* are those of their repositories, chosen for other data
and models: FedOSD's are 200 rounds, FUSED's 100. The rows *our rounds* give them five rounds of recovery or of
training, FedOSD ten of unlearning before, with steps of 0.1, as our `orthogonal` has. In those rows their clients
and ours train in unlearning for the same epochs in batches of the same size, theirs in one fixed order, ours shuffled.
In recovery ours has the run's momentum of 0.9 and weights clients by samples; theirs has no momentum and weights them
alike. The two rows *one step on all samples* take one gradient a round of unlearning. *FedOSD's steps* are its rounds
and step size, with the run's epochs and batches. FedQUIT has its paper's values in both rows. Two seeds are an example,
not a ranking. Accuracies and gaps are means over seeds, in % and points; gaps are accuracy minus the
retrained models' mean. *Sent* is in % of retraining's bytes; theirs is counted from rounds and weights, not measured.
Verdicts by seed: c consistent, n not consistent, e no evidence, u undetermined. FedUP is missing: no repository of its
authors was found.

| model | forget | retain | test | gap of forget accuracy, by seed | sent | verdicts |
|---|---|---|---|---|---|---|
"""


def our_run(work: Path, seed: int) -> RunResult:
    """Return our run of a seed, exported; carried out if it is not there."""
    folder = work / str(seed) / "run"
    if not (work / str(seed) / "run.npz").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        resume = (folder / "settings.json").is_file()
        export = folder.with_suffix(".npz")
        simulate(RUN, out=folder, resume=resume, workers=1, seed=seed, export_partition=export)
    return read_report(folder)


def further_run(run: RunResult, work: Path, seed: int, number: int, settings: Mapping[str, Any]) -> RunResult:
    """Return another method's run from the same training; carried out if it is not there."""
    folder = work / str(seed) / f"ours-{number}"
    if not (folder / "report.json").is_file():
        given = {**RUN, **settings, "reference": "none", "seed": seed}
        simulate(given, out=folder, overwrite=folder.is_dir(), workers=1, start=run)
    return read_report(folder)


def their_weights(work: Path, seed: int, number: int, code: Mapping[str, tuple[str, Path]]) -> Path | None:
    """Return the file that their code wrote; made if it is not there; None: that was not asked for."""
    (program, values), folder = list(THEIRS.values())[number], work / str(seed)
    out = (folder / f"theirs-{number}.npz").resolve()
    if not out.is_file():
        if program not in code:
            return None
        python, repository = code[program]
        command: list[str | Path] = [
            python,
            HERE / f"run_{program}.py",
            "--code",
            repository,
            "--run",
            folder.resolve() / "run.npz",
        ]
        subprocess.run([*command, "--out", out, "--values", json.dumps(values)], check=True)
    return out


def make_results(work: Path, code: Mapping[str, tuple[str, Path]]) -> Document:
    """Return what the page shows: a list of rows for each seed, and the commits of their code."""
    work.mkdir(parents=True, exist_ok=True)
    commits = work / "commits.json"
    known = json.loads(commits.read_text(encoding="utf-8")) if commits.is_file() else {}
    for program, (_, repository) in code.items():
        head = subprocess.run(
            ["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        known[program] = head.stdout.strip()
    write_json(commits, known)
    return {"commits": known, "seeds": {str(seed): list(rows(work, seed, code)) for seed in SEEDS}}


def rows(work: Path, seed: int, code: Mapping[str, tuple[str, Path]]) -> Iterator[Document]:
    """Yield the rows of one seed."""
    run = our_run(work, seed)
    retrain = sent_in(run, "retrain")
    original = audit(run.model("original"), run, relearn_steps=1)
    yield row("retrained, mean of five", original.references, None, 1.0)
    yield row("original", [original.model], original, 0.0)
    recovery = sent_in(run, "recover")
    for name, stage, sent in (
        ("fedquit, ours", "recovered", sent_in(run, "forget") + recovery),
        ("continue, ours", "control", recovery),
    ):
        yield audited(name, run.model(stage), run, sent / retrain)
    for number, (name, settings) in enumerate(OURS.items()):
        further = further_run(run, work, seed, number, settings)
        sent = sent_in(further, "forget") + sent_in(further, "recover")
        yield audited(name, further.model("recovered"), run, sent / retrain)
    for number, name in enumerate(THEIRS):
        file = their_weights(work, seed, number, code)
        if file is not None:
            weights = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["sent"]
            yield audited(name, file, run, 4 * weights / retrain)


def sent_in(run: RunResult, phase: str) -> int:
    """Return the bytes of a phase, both ways."""
    return run.phases[phase].bytes_down + run.phases[phase].bytes_up


def audited(name: str, file: Path, run: RunResult, share: float) -> Document:
    """Return the row of a model file."""
    found = audit(file, run, relearn_steps=1)
    return row(name, [found.model], found, share)


def row(name: str, models: list[Stage], found: AuditResult | None, share: float) -> Document:
    """Return a row: accuracies in shares, means over the models."""
    parts = ("forget", "retain", "test")
    return {
        "model": name,
        **{part: fmean(getattr(model, f"{part}_accuracy") for model in models) for part in parts},
        "gap": found.gaps["forget_accuracy"] if found else 0.0,
        "sent": share,
        "verdict": found.verdict.outcome if found else "",
    }


def make_page(results: Document) -> str:
    """Return the page."""
    by_model: dict[str, list[Document]] = {}
    for found in results["seeds"].values():
        for each in found:
            by_model.setdefault(each["model"], []).append(each)
    named = (f"{REPOSITORIES[program]} {commit[:7]}" for program, commit in sorted(results["commits"].items()))
    head = ABOUT.format(commits=", ".join(named), seeds=" and ".join(results["seeds"]))
    families = list(dict.fromkeys(name.partition(",")[0] for name in by_model))
    rows = sorted(by_model.items(), key=lambda row: families.index(row[0].partition(",")[0]))
    return head + "".join(f"{line(name, found)}\n" for name, found in rows)


def line(name: str, found: list[Document]) -> str:
    """Return a line of the table, over the seeds."""
    shown = [f"{100 * fmean(each[part] for each in found):.1f}" for part in ("forget", "retain", "test")]
    judged = [each for each in found if each["verdict"]]
    gaps = ", ".join(f"{100 * each['gap']:+.1f}" for each in judged)
    outcomes = ", ".join(OUTCOMES[each["verdict"]] for each in judged)
    sent = f"{100 * fmean(each['sent'] for each in found):.1f}"
    return f"| {' | '.join([name, *shown, gaps, sent, outcomes])} |"


def main() -> None:
    """Make what is missing, and write figures and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, help="folder for runs and weights")
    parser.add_argument("--code", action="append", default=[], metavar="NAME=PYTHON=REPOSITORY")
    parser.add_argument("--page", action="store_true", help="only make the page from the JSON that is there")
    given = parser.parse_args()
    if not given.page:
        if not given.work:
            parser.error("give --work DIR, or --page")
        parts = [text.split("=") for text in given.code]
        write_json(JSON, make_results(given.work, {name: (python, Path(code)) for name, python, code in parts}))
    PAGE.write_text(make_page(json.loads(JSON.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
