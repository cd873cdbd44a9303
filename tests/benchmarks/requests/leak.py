"""Measure what a request tells, by method, size of the request, and who looks; resumed where it was stopped.

    python -m tests.benchmarks.requests.leak [--data digits --model mlp --trials 40 --out FOLDER --method fedquit]

One federation is trained in memory, then asked again and again to forget random samples. Each trial is a game of two
candidate sets; a third of what is reported is a control in which nothing was forgotten.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
from torch import Tensor

from fedquit.client.receipts.game_bound import game_bound
from fedquit.client.training.sgd import evaluate
from fedquit.documents import Document
from fedquit.files import write_whole
from fedquit.settings import Settings
from fedquit.unlearning.leak.blurred_step import blurred
from fedquit.unlearning.leak.candidate_game import play
from fedquit.unlearning.leak.class_read_off import class_evidence, read_off
from fedquit.unlearning.leak.image_quality import nearest, psnr, ssim
from fedquit.unlearning.leak.observation import cosine, gradient
from fedquit.unlearning.leak.reconstruct_inputs import Attack, reconstruct
from fedquit.unlearning.methods.base import METHODS, Method, make_method
from fedquit.unlearning.samples import Samples, normalised
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.arithmetic import difference
from tests.benchmarks.requests.leak_federation import Federation, Step
from tests.benchmarks.requests.leak_report import write_markdown
from tests.benchmarks.requests.malicious_requests import Attacked

SIZES = (1, 2, 8, 32, 120)
PICTURE_SIZES = (1, 2, 8)
KINDS = ("same_class", "different_class")
SLOW = {"mode": 8, "orthogonal": 8, "federaser": 8}
"""Methods of many exchanges, and the most trials they get; the intervals of their rows say how little that tells."""
DATA: dict[tuple[str, str], Document] = {
    ("digits", "mlp"): {"rounds": 10},
    ("digits", "cnn"): {"rounds": 10},
    ("fashion-mnist", "mlp"): {"rounds": 5, "samples": 5000},
    ("fashion-mnist", "cnn"): {"rounds": 5, "samples": 5000},
}
COMMON: Document = {"clients": 10, "alpha": 1.0}
CHANCE_CANDIDATES = 100
NOISES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TOGETHER = (1, 2, 4, 8)
CLIP = 0.06
"""FedQUIT's steps on these data are 0.02 to 0.1 long."""
RECOVERING = (0, 1, 2)
MOST_ROUNDS, TOLERANCE = 20, 0.01


@dataclass(frozen=True)
class Seen:
    """What somebody sees of one request, minus what they would have expected; `naive`: without subtracting."""

    step: Step
    naive: Step


def views(federation: Federation, asker: int, reply: Step, made: Step, method: Method) -> dict[str, Seen]:
    """Return what each that may look sees. Deferred, f itself is not sent to devices, nor is a model far from g."""
    found = {"device, direct": Seen(made, made)}
    if reply:
        found["server"] = Seen(reply, reply)
    if method.traits.step == "result":
        others = federation.others(asker)
        sent = {name: step + others[name] for name, step in made.items()}
        found["device, deferred"] = Seen(minus(sent, federation.usual), sent)
    return found


def controls(federation: Federation, asker: int) -> dict[str, Seen]:
    """Return what is seen where nothing is forgotten: an ordinary reply on unseen samples, and an ordinary round."""
    ordinary = federation.on_unseen(derive_seed(asker, "control"))
    others = federation.others(asker)
    return {
        "server": Seen(ordinary, ordinary),
        "device, direct": Seen(others, others),
        "device, deferred": Seen(minus(others, federation.usual), others),
    }


def minus(step: Step, other: Step) -> Step:
    """Return the difference of two steps."""
    return {name: value - other[name] for name, value in step.items()}


def plus(step: Step, other: Step) -> Step:
    """Return the sum of two steps."""
    return {name: value + other[name] for name, value in step.items()}


def candidates(pool: Samples, size: int, kind: str, seed: int) -> tuple[Samples, Samples]:
    """Return two sets of distinct samples: the same classes sample by sample, or no class in common."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pool), generator=draw)
    labels = pool.labels[order]
    if kind == "different_class":
        classes = torch.randperm(int(pool.labels.max()) + 1, generator=draw)
        half = torch.isin(labels, classes[: len(classes) // 2])
        return pool.subset(order[half][:size]), pool.subset(order[~half][:size])
    first, left, second = order[:size], order[size:].tolist(), list[int]()
    for label in labels[:size].tolist():
        fit = next(index for index in left if int(pool.labels[index]) == label)
        left.remove(fit)
        second.append(fit)
    return pool.subset(first), pool.subset(torch.tensor(second))


def cell(federation: Federation, method: Method, size: int, trials: int) -> Document:
    """Play the games of one method and size, and read classes off; by who looks."""
    scores: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    reads: dict[str, list[Document]] = {}
    clients, classes = len(federation.samples), int(federation.pool.labels.max()) + 1
    kept = [controls(federation, asker) for asker in range(clients)]
    model = federation.model(federation.current)
    for kind in KINDS:
        for trial in range(trials):
            asker = trial % clients
            seed = derive_seed(federation.settings.seed, "trial", kind, size, trial)
            truth, other = candidates(federation.pool, size, kind, seed)
            real = views(federation, asker, *federation.ask(method, asker, truth, seed), method)
            tries = [federation.ask(method, asker, each, derive_seed(seed, "attacker")) for each in (truth, other)]
            slopes = [gradient(model, each) for each in (truth, other)]
            for who, seen in real.items():
                replays = [reply if who == "server" else made for reply, made in tries]
                for what, there in ((who, seen), (f"{who}, control", kept[asker][who])):
                    pair = (cosine(there.step, replays[0]), cosine(there.step, replays[1]))
                    scores.setdefault((what, kind, "replay"), []).append(pair)
                    pair = (cosine(there.step, slopes[0]), cosine(there.step, slopes[1]))
                    scores.setdefault((what, kind, "gradient"), []).append(pair)
                    if kind == KINDS[0]:
                        reads.setdefault(what, []).append(reading(there, truth, classes))
    return {
        what: {
            "classes": averaged(found),
            "games": {
                kind: {
                    attack: asdict(play(played)) for (w, k, attack), played in scores.items() if (w, k) == (what, kind)
                }
                for kind in KINDS
            },
        }
        for what, found in reads.items()
    }


def reading(seen: Seen, truth: Samples, classes: int) -> Document:
    """Return how right the read-off was, naive and with the usual step subtracted."""
    counts = truth.labels.bincount(minlength=classes)
    found = {"naive": seen.naive, "informed": seen.step}
    return {name: asdict(read_off(class_evidence(step, classes), counts)) for name, step in found.items()}


def averaged(found: Sequence[Document]) -> Document:
    """Return the mean of each measure over trials, and how many trials there were."""

    def mean(name: str, measure: str) -> float | None:
        known = [float(each[name][measure]) for each in found if each[name][measure] is not None]
        return fmean(known) if known else None

    measures = ("guessed", "exact", "auc", "correlation")
    return {
        "trials": len(found),
        **{name: {measure: mean(name, measure) for measure in measures} for name in ("naive", "informed")},
    }


def pictures(federation: Federation, method: Method, size: int, trials: int, attack: Attack) -> Document:
    """Rebuild what was forgotten, from what each that may look sees, and score it against the truth."""
    rows: dict[str, list[Document]] = {}
    model, shape = federation.model(federation.current), tuple(federation.pool.inputs.shape[1:])
    for trial in range(trials):
        asker, seed = trial % len(federation.samples), derive_seed(federation.settings.seed, "picture", size, trial)
        truth, _ = candidates(federation.pool, size, KINDS[0], seed)
        order = torch.randperm(len(federation.pool), generator=torch.Generator().manual_seed(seed + 1))
        true = normalised(truth.inputs)
        others = normalised(federation.pool.inputs[order[: CHANCE_CANDIDATES - size]])
        seen = views(federation, asker, *federation.ask(method, asker, truth, seed), method)
        seen |= {"control": controls(federation, asker)["server"]}
        for who in ("server", "device, deferred", "control"):
            if who not in seen:
                continue
            made = reconstruct(model, seen[who].step, truth.labels, shape, attack, seed=seed).inputs
            quality = [max((ssim(each, one), psnr(each, one)) for each in made) for one in true]
            rows.setdefault(who, []).append(
                {
                    "ssim": fmean(each[0] for each in quality),
                    "psnr": fmean(each[1] for each in quality),
                    "hit": fmean(nearest(each, torch.cat([true, others])) < size for each in made),
                    **({"true": coarse(true), "made": coarse(made)} if trial < 6 and size == 1 else {}),
                }
            )
    return {"by_chance": size / CHANCE_CANDIDATES, "trials": trials, "who": rows}


def coarse(images: Tensor) -> list[Any]:
    """Return images to draw, each pixel in hundredths."""
    return [[[[round(x, 2) for x in row] for row in plane] for plane in image] for image in images.tolist()]


def curve(federation: Federation, noise: float, trials: int, size: int = 8) -> Document:
    """Play the game on steps that are clipped to `CLIP` and get noise, and recover from them.

    The clip is about what FedQUIT's step is long, so that clipping alone costs nothing.
    """
    method, scores = make_method("fedquit"), dict[str, list[tuple[float, float]]]()
    for trial in range(trials):
        asker, seed = trial % len(federation.samples), derive_seed(federation.settings.seed, "noise", trial)
        truth, other = candidates(federation.pool, size, KINDS[0], seed)
        made = noisy(federation, federation.ask(method, asker, truth, seed)[1], noise, seed)
        tries = [federation.ask(method, asker, each, derive_seed(seed, "attacker"))[1] for each in (truth, other)]
        sent = {name: step + federation.others(asker)[name] for name, step in made.items()}
        for who, seen in (("server", made), ("device, deferred", minus(sent, federation.usual))):
            scores.setdefault(who, []).append((cosine(seen, tries[0]), cosine(seen, tries[1])))
    recovery = [recovered(federation, method, asker, noise) for asker in RECOVERING]
    guard = [guarded(federation, method, asker, noise) for asker in RECOVERING]
    return {
        "noise": noise,
        "bound": game_bound(noise),
        "games": {who: asdict(play(found)) for who, found in scores.items()},
        "recovery": recovery,
        "guard": guard,
    }


def together(federation: Federation, number: int, trials: int, size: int = 8) -> Document:
    """Play the game where the steps of `number` requests of different clients are added up and adopted at once.

    What a server would give the others that serves all requests that wait in one step; it does not do so yet.
    """
    method, scores = make_method("fedquit"), dict[str, list[tuple[float, float]]]()
    reads: dict[str, list[Document]] = {}
    classes = int(federation.pool.labels.max()) + 1
    for trial in range(trials):
        asker, seed = trial % len(federation.samples), derive_seed(federation.settings.seed, "together", trial)
        truth, other = candidates(federation.pool, size, KINDS[0], seed)
        made = federation.ask(method, asker, truth, seed)[1]
        for more in range(1, number):
            stranger, _ = candidates(federation.pool, size, KINDS[0], derive_seed(seed, "stranger", more))
            made = plus(made, federation.ask(method, asker, stranger, derive_seed(seed, "stranger", more))[1])
        tries = [federation.ask(method, asker, each, derive_seed(seed, "attacker"))[1] for each in (truth, other)]
        sent = plus(made, federation.others(asker))
        for who, seen in (
            ("device, direct", Seen(made, made)),
            ("device, deferred", Seen(minus(sent, federation.usual), sent)),
        ):
            scores.setdefault(who, []).append((cosine(seen.step, tries[0]), cosine(seen.step, tries[1])))
            reads.setdefault(who, []).append(reading(seen, truth, classes))
    return {
        "number": number,
        "games": {who: asdict(play(found)) for who, found in scores.items()},
        "classes": {who: averaged(found) for who, found in reads.items()},
    }


def noisy(federation: Federation, step: Step, noise: float, seed: int) -> Step:
    """Return a step as a device would send it."""
    new, old = federation.plus(step), federation.current
    made = blurred(new, old, federation.names, clip=CLIP, noise=noise, seed=derive_seed(seed, "device"))
    return difference(made, old, federation.names)


def recovered(federation: Federation, method: Method, asker: int, noise: float) -> Document:
    """Have a client forgotten, and count the rounds of the others until the accuracy on unseen samples is back."""
    mine = federation.samples[asker]
    step = noisy(federation, federation.ask(method, asker, mine, asker)[1], noise, asker)
    state = federation.plus(step)
    before, after = (evaluate(federation.model(each), federation.unseen)[1] for each in (federation.current, state))
    rounds, accuracy = 0, after
    while rounds < MOST_ROUNDS and (rounds == 0 or accuracy < before - TOLERANCE):
        rounds += 1
        state = federation.round(state, asker, rounds)
        accuracy = evaluate(federation.model(state), federation.unseen)[1]
    return {"before": before, "after": after, "rounds": rounds, "reached": accuracy >= before - TOLERANCE}


def guarded(federation: Federation, method: Method, asker: int, noise: float) -> Document:
    """Return what the guard decides about the model of `recovered`, as in a deployment with a validation set."""
    mine = federation.samples[asker]
    step = noisy(federation, federation.ask(method, asker, mine, asker)[1], noise, asker)
    decision = Attacked(federation).admit(federation.plus(step), len(mine), clip=CLIP, noise=noise)
    return {"verdict": decision.verdict, "off": decision.reason}


def write_cells(file: Path, cells: Mapping[str, Document]) -> None:
    """Write a cell a line, so that a cell that is added or measured again is one line of a difference."""
    lines = [f"{json.dumps(name)}: {json.dumps(cell, allow_nan=False)}" for name, cell in cells.items()]
    write_whole(file, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def measured_methods() -> Iterator[str]:
    """Yield the methods that a request can be measured of: those that train again from the start show no step."""
    yield from (name for name, found in METHODS.items() if not found.traits.restarts)


@click.command()
@click.option("--data", default="digits", show_default=True)
@click.option("--model", default="mlp", show_default=True)
@click.option("--method", "methods", multiple=True, help="only these [all but retrain]")
@click.option("--size", "sizes", type=int, multiple=True, default=SIZES, show_default=True)
@click.option("--trials", default=40, show_default=True)
@click.option("--picture-trials", default=10, show_default=True, help="0: no reconstructions")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/results/leak"), show_default=True)
@click.option("--noise", "curves", is_flag=True, help="only what clipping and noise on the device give, and cost")
@click.option("--report-only", is_flag=True, help="only write the report of what is there")
def main(
    data: str,
    model: str,
    methods: tuple[str, ...],
    sizes: tuple[int, ...],
    trials: int,
    picture_trials: int,
    out: Path,
    curves: bool,
    report_only: bool,
) -> None:
    """Fill in the cells that OUT/leak.json lacks, and write OUT.md and pictures."""
    if not report_only:
        chosen = methods or (() if curves else tuple(measured_methods()))
        fill(data, model, chosen, sizes, trials, picture_trials, out / "leak.json", curves=curves)
    write_markdown(out)


def fill(
    data: str,
    model: str,
    methods: Sequence[str],
    sizes: Sequence[int],
    trials: int,
    picture_trials: int,
    file: Path,
    *,
    curves: bool = False,
) -> None:
    """Measure what is not in the file yet; each cell is written as soon as it is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done: Document = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    given = {**COMMON, **DATA.get((data, model), {}), "dataset": data, "model": model}
    trained = cache(lambda: Federation(Settings.read(given)))

    def keep(name: str, make: Callable[[Federation], Document]) -> None:
        if name not in done:
            done[name] = make(trained())
            write_cells(file, done)
            click.echo(f"{name}: done", err=True)

    for name in methods:
        method, played = make_method(name), min(trials, SLOW.get(name, trials))
        for size in sizes:
            keep(f"{data}/{model}/{name}/{size}", partial(cell, method=method, size=size, trials=played))
    for noise in NOISES if curves else ():
        keep(f"{data}/{model}/noise/{noise:g}", partial(curve, noise=noise, trials=trials))
    for number in TOGETHER if curves else ():
        keep(f"{data}/{model}/together/{number}", partial(together, number=number, trials=trials))
    for size in PICTURE_SIZES if picture_trials else ():
        keep(
            f"{data}/{model}/pictures/{size}",
            partial(pictures, method=make_method("fedquit"), size=size, trials=picture_trials, attack=Attack()),
        )


if __name__ == "__main__":
    main()
