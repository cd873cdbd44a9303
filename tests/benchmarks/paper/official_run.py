"""The published federation of FedQUIT beside ours, on the same samples of the same clients.

    python -m tests.benchmarks.paper.official_run ours --work DIR --seed N

makes the data, carries out our run and exports it; `run_fedquit_whole.py` of tests/benchmarks/others gives DIR/N.npz
to their code, which writes the folder DIR/N-theirs, and

    python -m tests.benchmarks.paper.official_run page --work DIR

writes docs/results/official.md from all seeds in DIR.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedquit import read_report
from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.data.datasets import load_dataset
from fedquit.client.data.evaluation_sets import Sets, sets_of
from fedquit.client.models.architectures import MODELS, InputShape
from fedquit.client.models.copy_model import copied
from fedquit.client.models.initial_weights import draw_glorot
from fedquit.client.training.build_method import method_of
from fedquit.client.training.evaluate_model import outputs_of
from fedquit.documents import Document
from fedquit.files import write_json
from fedquit.server.run.run_folder import RunFolder
from fedquit.settings import Settings
from fedquit.simulations.audit.foreign_weights import load_weights
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.unlearning.evaluation.measures import accuracy
from fedquit.unlearning.methods.fedquit import FedQUIT

PAGE, JSON = (Path("docs/results") / f"official.{kind}" for kind in ("md", "json"))
SAMPLES = 10_000
STAGES = ("original", "retrained", "unlearned", "recovered")
SETTINGS: Mapping[str, Any] = {
    "model": "cnn", "clients": 10, "alpha": 0.3, "rounds": 10, "lr": 0.01, "lr-decay": 0.998, "init": "glorot",
    "method": "fedquit", "method-settings": {"lr": 1e-4}, "guard": "adopt", "recover": "oracle", "references": 1,
}  # fmt: skip
UNCOMPARED: Mapping[str, Any] = {"recover": "utility", "reference": "none"}
OTHER_STARTS: Mapping[str, Mapping[str, Any]] = {
    "default": {"init": "default"},
    "he": {"init": "default", "model": "tests.benchmarks.paper.official_run:he_cnn"},
}
"""Our training from other initial weights, for the accuracy of the original model alone."""
NAMES = {"default": "ours, default `init`", "he": "ours, weights drawn like theirs"}

ABOUT = """# The official code beside ours, whole

Made by `python -m tests.benchmarks.paper.official_run` and `tests/benchmarks/others/run_fedquit_whole.py`, which runs
the scripts of [alessiomora/FedQUIT](https://github.com/alessiomora/FedQUIT) (commit e447fa0, TensorFlow 2.15) and says
at its top what had to be done so that they run.

{samples:,} samples of Fashion-MNIST, pixels from 0 to 1, ten clients, Dirichlet 0.3, ten rounds of one epoch, batches
of 32, SGD at 0.01, multiplied by 0.998 after each round; FedQUIT's pass on client 0 is one epoch of Adam at 1e-4;
recovery ends when the retrained model's accuracy is reached. Both got the same samples of the same clients; all models
are measured here.

What differs: initial weights (theirs: He normal for convolutions, Glorot uniform for linear layers; ours: `--init
glorot`, which for the first convolution, of one channel, is {narrower:.1f} times narrower), the order of samples, and
what recovery looks at (theirs: the very test samples that are reported here; ours: 2,000 others).

Accuracies in %; *rounds* is the number of rounds of recovery. *Ours on theirs* is our pass on the
original model of their code; the last rows are our training from other initial weights. One seed: an example, not a
comparison.

| seed | whose | model | forget | retain | test | rounds |
|---|---|---|---|---|---|---|
"""


def make_data(path: Path, seed: int) -> None:
    """Write samples of Fashion-MNIST with pixels from 0 to 1, which fedquit leaves as they are."""
    data, draw = load_dataset("fashion-mnist"), np.random.default_rng(seed)
    chosen = np.sort(draw.choice(len(data.train), SAMPLES, replace=False))
    scaled = {name: part.inputs.numpy()[:, 0] / np.float32(255) for name, part in
              (("train", data.train), ("test", data.test))}  # fmt: skip
    np.savez_compressed(
        path,
        x_train=scaled["train"][chosen],
        y_train=data.train.labels.numpy()[chosen],
        x_test=scaled["test"],
        y_test=data.test.labels.numpy(),
    )


def he_cnn(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Build the cnn with initial weights of the kind that their code draws, and biases of zero."""
    model = MODELS["cnn"](input_shape, num_classes)
    draw_glorot(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return model


def ours(work: Path, seed: int) -> None:
    """Carry out our run, and the training from other initial weights; resume what is there."""
    data = work / f"{seed}-data.npz"
    if not data.is_file():
        make_data(data, seed)
    given = {**SETTINGS, "dataset": str(data), "seed": seed}
    run = partial(run_simulation, workers=1)
    out = work / str(seed)
    run(given, out=out, resume=(out / "settings.json").is_file(), export=work / f"{seed}.npz")
    for name, start in OTHER_STARTS.items():
        other = work / f"{seed}-{name}"
        resume = (other / "settings.json").is_file()
        run({**given, **UNCOMPARED, **start}, out=other, resume=resume, only=("train",))


def make_results(work: Path) -> Document:
    """Measure the models of every seed in `work` whose run of their code is finished."""
    seeds = sorted(int(path.parent.name.removesuffix("-theirs")) for path in work.glob("*-theirs/rounds.json"))
    return {"rows": [[str(seed), *cells] for seed in seeds for cells in rows(work, seed)]}


def make_page(results: Document) -> str:
    """Return the page."""
    lines = [f"| {' | '.join(cells)} |" for cells in results["rows"]]
    head = ABOUT.format(samples=SAMPLES, narrower=((25 + 32 * 25) / 25) ** 0.5)
    return head + "\n".join(lines) + "\n" + why_apart(results["rows"])


def why_apart(rows: Sequence[Sequence[str]]) -> str:
    """Return how far our original model is from theirs, from either initial weights; "": it was not measured."""
    original = {whose: [float(cell) for cell in cells[:3]] for _, whose, stage, *cells in rows if stage == "original"}
    if NAMES["he"] not in original:
        return ""
    glorot, like = (
        max(abs(a - b) for a, b in zip(original["theirs"], original[whose], strict=True))
        for whose in ("ours", NAMES["he"])
    )
    return (
        f"\nOur original model is up to {glorot:.1f} points from theirs, and from weights drawn like theirs up to "
        f"{like:.1f}: here initial\nweights are what sets the two apart.\n"
    )


def rows(work: Path, seed: int) -> Iterator[list[str]]:
    """Yield the cells of one seed's rows."""
    report, theirs = read_report(work / str(seed)), work / f"{seed}-theirs"
    settings = RunFolder(work / str(seed)).settings()
    sets = sets_of(settings)
    rounds = {"theirs": json.loads((theirs / "rounds.json").read_text())["recovery"],
              "ours": report.phases["recover"].rounds}  # fmt: skip
    for stage in STAGES:
        files = {"theirs": theirs / f"{stage}.npz", "ours": report.model(stage)}
        for whose, file in files.items():
            shown = str(rounds[whose]) if stage == "recovered" else ""
            yield [whose, stage, *measured(loaded(settings, file), sets), shown]
    yield ["ours on theirs", "unlearned", *measured(our_pass(settings, theirs / "original.npz", sets), sets), ""]
    for name in OTHER_STARTS:
        other, model = RunFolder(work / f"{seed}-{name}"), copied(empty_model(settings.key()))
        trained = other.load_state().models.get("original") if other.path.is_dir() else None
        if trained:
            model.load_state_dict(tensors(other.load_model(trained)))
            yield [NAMES[name], "original", *measured(model, sets), ""]


def tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays as tensors."""
    return {name: torch.tensor(array) for name, array in arrays.items()}


def loaded(settings: Settings, file: Path) -> nn.Module:
    """Return a model with the weights in a file."""
    model = copied(empty_model(settings.key()))
    load_weights(model, file.read_bytes(), file, "the run's model")
    return model


def our_pass(settings: Settings, file: Path, sets: Sets) -> nn.Module:
    """Return the model in a file after our pass of FedQUIT on the samples to forget."""
    model, method = loaded(settings, file), method_of(settings)
    assert isinstance(method, FedQUIT)
    method.forget(model, sets.forget, seed=settings.seed)
    return model


def measured(model: nn.Module, sets: Sets) -> list[str]:
    """Return forget, retain and test accuracy as text."""
    outputs = outputs_of(model, sets)
    return [f"{100 * accuracy(*outputs.pair(part)):.1f}" for part in ("forget", "retain", "test")]


def main() -> None:
    """Carry out our run, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("ours", "page"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "ours":
        given.work.mkdir(parents=True, exist_ok=True)
        ours(given.work, given.seed)
    else:
        results = make_results(given.work)
        write_json(JSON, results)
        PAGE.write_text(make_page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
