"""How fast models learn from each `init`: held-out accuracy during the first rounds, same seeds and same split.

    python -m tests.benchmarks.paper.inits_compared --work DIR

resumes what is in DIR, writes docs/results/initialisation.json, and from that docs/results/initialisation.md.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedquit.documents import Document
from fedquit.files import write_json
from fedquit.server.run.run_folder import read_state
from fedquit.simulations.compare.results.paired_differences import paired
from fedquit.simulations.simulate.run_simulation import run_simulation
from tests.benchmarks.measured_page import write_results

PAGE, JSON = (Path("docs/results") / f"initialisation.{kind}" for kind in ("md", "json"))
DEFAULT, GLOROT = INITS = ("default", "glorot")
SEEDS = (0, 1, 2)
FIXED: Mapping[str, Any] = {"clients": 10, "rounds": 10, "references": 1}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "digits, mlp, lr 0.1": {"dataset": "digits", "model": "mlp"},
    "digits, mlp, lr 0.01": {"dataset": "digits", "model": "mlp", "lr": 0.01},
    "digits, cnn, lr 0.1": {"dataset": "digits", "model": "cnn"},
    "digits, cnn, lr 0.01": {"dataset": "digits", "model": "cnn", "lr": 0.01},
    "Fashion-MNIST, mlp, lr 0.1": {"dataset": "fashion-mnist", "model": "mlp", "samples": 4000},
    "Fashion-MNIST, mlp, lr 0.01": {"dataset": "fashion-mnist", "model": "mlp", "samples": 4000, "lr": 0.01},
    "Fashion-MNIST, cnn, lr 0.1": {"dataset": "fashion-mnist", "model": "cnn", "samples": 2000},
    "Fashion-MNIST, cnn, lr 0.01": {"dataset": "fashion-mnist", "model": "cnn", "samples": 2000, "lr": 0.01},
}

ABOUT = """# Initial weights

Made by `python -m tests.benchmarks.paper.inits_compared --work DIR` (minutes of one core; resumes after a kill);
figures in [initialisation.json](initialisation.json).

`--init glorot` draws the weights of linear layers and convolutions uniformly within `sqrt(6 / (inputs + outputs))` of
zero, with biases of zero, as Keras does. The defaults are PyTorch's own, uniform within `1 / sqrt(inputs)`, biases
included, which for layers of equal width is {ratio:.2f} times narrower.

Ten clients, Dirichlet 0.3, ten rounds of one epoch, batches of 32, seeds {seeds}; all of digits, 4,000 samples of
Fashion-MNIST for the mlp and 2,000 for the cnn. Held-out accuracy in %, mean over seeds; *mean of ten rounds* says how
fast a model learns. The difference is glorot minus default in points, mean ± standard deviation over seeds, with the
p-value of a two-sided paired t-test.

| setting | after 3 rounds: default, glorot | after 10 rounds: default, glorot | difference of the mean of ten rounds |
|---|---|---|---|
"""


def measure(setting: Mapping[str, Any], init: str, seed: int, out: Path) -> list[float]:
    """Return the held-out accuracy after each round; a run that is there is read, or resumed."""
    given = {**FIXED, **setting, "init": init, "seed": seed}
    run_simulation(given, out=out, resume=(out / "settings.json").is_file(), workers=1, only=("train",))
    return [float(each.measures["holdout_accuracy"]) for each in read_state(out).of("train")]


def make_results(work: Path) -> Document:
    """Measure what is not in `work` yet, and return every curve by setting, init and seed."""
    curves: Document = {}
    for number, (name, setting) in enumerate(SETTINGS.items()):
        curves[name] = {init: {} for init in INITS}
        for seed in SEEDS:
            for init in INITS:
                file = work / f"{number}-{init}-{seed}.json"
                if not file.is_file():
                    write_json(file, {"curve": measure(setting, init, seed, work / f"{number}-{init}-{seed}")})
                curves[name][init][str(seed)] = json.loads(file.read_text(encoding="utf-8"))["curve"]
    return {"curves": curves}


def make_page(results: Document) -> str:
    """Return the page."""
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]] = results["curves"]
    seeds = ", ".join(map(str, SEEDS))
    lines = [ABOUT.format(ratio=3**0.5, seeds=seeds).rstrip("\n")]
    faster, clear = [], 0
    for name, found in curves.items():
        means = {init: {int(seed): 100 * fmean(curve) for seed, curve in found[init].items()} for init in INITS}
        difference = paired(means[GLOROT], means[DEFAULT])
        assert difference is not None
        apart = [means[GLOROT][seed] - means[DEFAULT][seed] for seed in means[DEFAULT]]
        faster += [name] if min(apart) > 0 else []
        clear += difference["p"] < 0.05
        at = [
            ", ".join(f"{100 * fmean(curve[after - 1] for curve in found[init].values()):.1f}" for init in INITS)
            for after in (3, 10)
        ]
        lines.append(
            f"| {name} | {at[0]} | {at[1]} | {fmean(apart):+.1f} ± {stdev(apart):.1f} (p {difference['p']:.2g}) |"
        )
    lines += [
        "",
        f"It learned faster on each of {len(SEEDS)} seeds in {len(faster)} of {len(curves)} settings; in {clear} the "
        f"p-value is below 0.05,\nnot corrected for {len(curves)} tests.",
        "",
        DEFAULT_STAYS,
    ]
    return "\n".join(lines)


DEFAULT_STAYS = """\
It is an option and not the default of `cnn`: a setting's default keeps what earlier versions computed. Their runs are
resumed, their models are known by their hash, and the figures on the other pages were measured with it.
"""


def main() -> None:
    """Measure, and write figures and page."""
    write_results(__doc__, json_file=JSON, page=PAGE, make_results=make_results, make_page=make_page, resumable=False)


if __name__ == "__main__":
    main()
