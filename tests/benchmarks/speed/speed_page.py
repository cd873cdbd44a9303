"""docs/results/speed.md and its figure, from the numbers of a run of the benchmark."""

from pathlib import Path
from typing import Any

HEAD = """# Speed

Made by `make bench` on {date}: {machine}, Python {python}, torch {torch}, flwr {flwr}, {workers} workers. Do not edit:
run it again. In each table the engines took turns, a round each, so that a slow moment of the machine hit all of them;
only ratios within a table mean anything. Flower on Ray took turns with the bare processes afterwards, as Ray's own
processes are never idle and would have slowed the others. *To bare processes* is the median of the ratios of rounds
that took turns, so it may differ from the ratio of the medians. The tables were made one after the other in one
process, so *start to end of round 1* is shorter in later ones; from the command it is under *Whole runs*. *Bare
processes* are the same training in plain PyTorch processes, without Flower or messages. The main process, which trains
too where clients are stacked, is not part of the memory. The load is the mean number of processes that wanted a
processor, at the start and the end; above {workers} they had to share.
"""
WORK = """
## {title}

Load {load}; one thread does {gflops:.0f} GFLOP/s in products of 512x512 matrices.

| engine | rounds | a round, median | to bare processes | start to end of round 1 | memory of its processes |
|---|---|---|---|---|---|
"""
ROW = "| {name} | {rounds} | {median:.3f} s | {to_bare:.2f} | {first:.1f} s | {memory} |\n"
PASS = """
## {title}

{date}, load {load}; one thread. *An epoch* is plain PyTorch with the same optimizer and batches, on the same
samples; the *teacher* is asked once before it, which is part of the pass.

| | median of {runs} | to an epoch |
|---|---|---|
"""
PASSES = {"pass": "FedQUIT's pass", "epoch": "an epoch", "teacher": "asking the teacher"}
WHOLE = """
## Whole runs

`fedquit simulate`, three rounds of training, one request, one round of recovery, report; synthetic 8x8 samples, five of
each client, mlp. Median of {count}; load {load}. From the command to the end of the first round of 100 clients of
digits: {first:.1f} s.

| clients | asked in a round | whole run | round 1 done | a client's update | server's peak | peak of all processes |
|---|---|---|---|---|---|---|
"""
WHOLE_ROW = (
    "| {name} | {asked:,} | {seconds:.1f} s | {first_round_seconds:.1f} s | {update:.2f} ms | "
    "{server_peak_mib:,.0f} MiB | {peak_mib:,.0f} MiB |\n"
)


def page(document: dict[str, Any]) -> str:
    """Return the page of a document that the benchmark made."""
    versions = document["versions"]
    text = HEAD.format(**versions, **{key: document[key] for key in ("date", "machine", "workers")})
    text += "\n![Rounds to those of bare processes](speed.png)\n"
    text += "".join(_work(work) for work in document["works"].values())
    text += _pass(document["pass"])
    return text + (_whole(document["whole"]) if document["whole"] else "")


def _work(work: dict[str, Any]) -> str:
    text = WORK.format(title=work["title"], load=_load(work), gflops=work["matrix_gflops"])
    text += "".join(
        ROW.format(name=name, rounds=len(engine["seconds"]), memory=_memory(engine["memory_mib"]), **engine)
        for name, engine in work["engines"].items()
    )
    apart = ", ".join(f"{name} {value:.0e}" for name, value in work["largest_difference"].items() if value)
    return text + (f"\nLargest difference of a weight from the bare processes' model: {apart}.\n" if apart else "")


def _pass(found: dict[str, Any]) -> str:
    text = PASS.format(title=found["title"], date=found["date"], load=_load(found), runs=len(found["seconds"]["pass"]))
    return text + "".join(
        f"| {said} | {found['medians'][name]:.3f} s | {found['to_epoch'][name]:.2f} |\n"
        for name, said in PASSES.items()
    )


def _memory(mib: float) -> str:
    """Say how much memory, if it could be read."""
    return f"{mib:,.0f} MiB" if mib else "not measured"


def _whole(whole: dict[str, Any]) -> str:
    from statistics import median

    from tests.benchmarks.speed.whole_runs import FEDERATIONS

    text = WHOLE.format(
        load=_load(whole), count=len(whole["first_round_seconds"]), first=median(whole["first_round_seconds"])
    )
    for name, run in whole["runs"].items():
        clients, asked = FEDERATIONS[name]
        text += WHOLE_ROW.format(name=f"{clients:,}", asked=asked, update=run["seconds_of_an_update"] * 1e3, **run)
    return text


def _load(part: dict[str, Any]) -> str:
    return " and ".join(f"{value:.1f}" for value in part["load"])


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw each engine's rounds as a multiple of the bare processes'."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    works = document["works"]
    names = list(dict.fromkeys(name for work in works.values() for name in work["engines"]))
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        rows = [
            (row, work["engines"][name]["to_bare"])
            for row, work in enumerate(works.values())
            if name in work["engines"]
        ]
        places = [row + (place - (len(names) - 1) / 2) * height for row, _ in rows]
        bars = axes.barh(places, [value for _, value in rows], height, label=name)
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.set_yticks(range(len(works)), [work["title"] for work in works.values()])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time of a round, to that of bare PyTorch processes")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
