"""The schedule of FedQUIT's paper, 200 rounds: the bytes of retraining beside those of forgetting and recovery.

    python -m tests.benchmarks.paper.long_schedule --work DIR

runs the config `fashion-mnist-paper` in parts of the data, resumes what is in DIR, writes docs/results/paper.json, and
from that docs/results/paper.md.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedquit import read_report, simulate
from fedquit.documents import Document
from tests.benchmarks.measured_page import write_results

PAGE, JSON = (Path("docs/results") / f"paper.{kind}" for kind in ("md", "json"))
CONFIG: str | Mapping[str, Any] = "fashion-mnist-paper"
HEADLINE = 117.6
"""How many times fewer bytes than retraining the paper's abstract says at best."""
STAGES = ("original", "unlearned", "recovered", "control", "retrained")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: which model, on how many samples, split how, with which seed."""

    model: str
    samples: int
    scheme: str
    seed: int

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self.model}-{self.scheme}-{self.samples}-{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Return what differs from the config; where clients are alike, the step size is the paper's for that."""
        own: dict[str, Any] = {"model": self.model, "samples": self.samples, "seed": self.seed}
        if self.scheme == "iid":
            return {**own, "scheme": "iid", "method_settings": {"lr": 1e-3}}
        return {**own, "alpha": float(self.scheme.removeprefix("dirichlet-"))}


SCHEMES = ("iid", "dirichlet-0.3", "dirichlet-0.1")
CELLS = (
    *(Cell("mlp", 4000, scheme, seed) for seed in (0, 1, 2) for scheme in SCHEMES),
    *(Cell("cnn", 2000, scheme, 0) for scheme in ("dirichlet-0.3", "iid")),
)

ABOUT = """# The paper's schedule

Made by `python -m tests.benchmarks.paper.long_schedule --work DIR` (hours of one core; resumes after a kill); figures
in [paper.json](paper.json). {date}, {versions}.

The headline of FedQUIT's paper (arXiv 2408.07587) is up to {headline} times fewer bytes than retraining, on CIFAR
with ResNet-18 and a transformer. This is its schedule, the config `fashion-mnist-paper`, on part of Fashion-MNIST: ten
clients, {rounds} rounds of one epoch, FedQUIT's pass on client 0 with the paper's values (Adam at 1e-4; at 1e-3 where
clients are alike), recovery until the held-out accuracy of the retrained model is reached. Each seed has its own split
and one retrained model, so there is no verdict.

**Bytes follow from rounds.** With ten clients, {rounds} rounds of retraining cost `9 * {rounds}` exchanges, and
forgetting with k rounds of recovery `1 + 9 k`: {one:.0f} times fewer for one round, {two:.0f} for two; {headline} would
be {k:.1f} rounds.

"""
VERSIONS = ("fedquit", "python", "flwr", "torch", "platform")
COLUMNS = (
    "model, samples, clients",
    "seeds",
    "rounds to recover",
    "times fewer bytes",
    "forget accuracy: original, unlearned, recovered, continued, retrained",
    "gap",
    "test accuracy: unlearned, recovered, retrained",
)
READ = """
*Continued* is the original trained on without client 0 for as many rounds as recovery took; it forgot nothing else.
*Gap* is forget accuracy, recovered minus retrained, in points. Means over seeds, ± standard deviation.

**What the bytes buy.** In {like} of {total} runs the forget accuracy after recovery is nearer to the continued model's
than to the retrained one's: few bytes are no evidence of forgetting ([visible.md](visible.md)). These are few seeds of
small models on part of the data: an example, not a ranking.

Not run: ResNet-18 (at no width), the vision transformer, CIFAR. Their configs need an accelerator: `fedquit compare`
with `paper-cifar10-resnet18`, `paper-cifar100-resnet18` or `paper-cifar100-vit`.
"""


def make_results(work: Path, *, only_measured: bool = False) -> Document:
    """Carry out what is not in `work` yet, and return the figures of every finished run."""
    found = []
    for cell in CELLS:
        folder = work / cell.name
        if not (folder / "report.json").is_file():
            if only_measured:
                continue
            resume = (folder / "settings.json").is_file()
            simulate(CONFIG, workers=1, out=folder, resume=resume, progress=True, **cell.settings)
        found.append(figures(cell, read_report(folder).document))
    left = [cell.name for cell in CELLS if not (work / cell.name / "report.json").is_file()]
    return {"date": time.strftime("%Y-%m-%d"), "not_run": left, "runs": found}


def figures(cell: Cell, report: Document) -> Document:
    """Return what the page shows of one run."""
    accuracies = {
        part: {stage: report["stages"][stage][f"{part}_accuracy"] for stage in STAGES} for part in ("forget", "test")
    }
    return {
        "model": cell.model,
        "samples": cell.samples,
        "scheme": cell.scheme,
        "seed": cell.seed,
        "rounds": report["phases"]["retrain"]["rounds"],
        "recovery": report["phases"]["recover"]["rounds"],
        "fewer": 1 / report["ratios_to_retraining"]["bytes"],
        "versions": report["versions"],
        **accuracies,
    }


def make_page(results: Document) -> str:
    """Return the page."""
    runs: Sequence[Document] = results["runs"]
    rounds = runs[0]["rounds"]
    head = ABOUT.format(
        date=results["date"],
        versions=", ".join(f"{name} {runs[0]['versions'][name]}" for name in VERSIONS),
        headline=HEADLINE,
        rounds=rounds,
        one=9 * rounds / 10,
        two=9 * rounds / 19,
        k=(9 * rounds / HEADLINE - 1) / 9,
    )
    left = results["not_run"]
    missing = [f"Not measured yet: {', '.join(left)} (model, split, samples, seed).\n"] if left else []
    table = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), *rows(runs)]
    like = sum(as_continued(run["forget"]) for run in runs)
    return head + "\n".join([*missing, *table]) + "\n" + READ.format(like=like, total=len(runs))


def as_continued(forget: Mapping[str, float]) -> bool:
    """Say whether the recovered model is nearer to the continued one than to the retrained one."""
    return abs(forget["recovered"] - forget["control"]) < abs(forget["recovered"] - forget["retrained"])


def rows(runs: Sequence[Document]) -> Iterator[str]:
    """Yield a line for each model and split, over its seeds."""
    groups: dict[tuple[str, int, str], list[Document]] = {}
    for run in runs:
        groups.setdefault((run["model"], run["samples"], run["scheme"]), []).append(run)
    for (model, samples, scheme), found in groups.items():
        gaps = [100 * (run["forget"]["recovered"] - run["forget"]["retrained"]) for run in found]
        shown = [
            f"{model}, {samples:,}, {scheme.replace('-', ' ')}",
            str(len(found)),
            ", ".join(str(run["recovery"]) for run in found),
            _spread([run["fewer"] for run in found]),
            means(found, "forget", STAGES),
            _spread(gaps),
            means(found, "test", ("unlearned", "recovered", "retrained")),
        ]
        yield f"| {' | '.join(shown)} |"


def means(runs: Sequence[Document], part: str, stages: Sequence[str]) -> str:
    """Return accuracies in %, means over runs."""
    return ", ".join(f"{100 * fmean(run[part][stage] for run in runs):.1f}" for stage in stages)


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Carry out what is missing, and write figures and page."""
    write_results(__doc__, json_file=JSON, page=PAGE, make_results=make_results, make_page=make_page)


if __name__ == "__main__":
    main()
