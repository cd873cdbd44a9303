"""Measure the effect of malicious requests: many in a row, chosen samples, a hidden backdoor.

    python -m tests.benchmarks.requests.malicious_requests [--seeds 5 --out docs/results/malicious_requests.md --json]

Ten clients train an mlp on digits; the guard decides about each model as in a deployment (`admit_model`, policy
`refuse`, a validation set). After each request all train a round on what they have left. Every attack is carried out on
federations of several seeds.
"""

import json
from collections.abc import Callable, Sequence
from copy import copy
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev

import click
import torch

from fedquit.client.data.evaluation_sets import held_out_and_test
from fedquit.documents import Document
from fedquit.server.lifecycle.evaluator import accuracy_of
from fedquit.server.lifecycle.rounds.observed_rounds import recent_rounds
from fedquit.settings import Settings
from fedquit.strategies.guard.decide import Decision, Policy, admit_model
from fedquit.strategies.guard.step_checks import Recent, bounds_of
from fedquit.unlearning.evaluation.backdoor import attack_success_rate, plant, stamp
from fedquit.unlearning.evaluation.prediction_interval import quantile
from fedquit.unlearning.leak.observation import cosine, gradient
from fedquit.unlearning.methods.base import make_method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.arithmetic import difference, moved, norm
from fedquit.unlearning.tensors.convert import StateDict
from tests.benchmarks.requests.leak_federation import Federation
from tests.benchmarks.requests.leak_report import table

GIVEN: Document = {"dataset": "digits", "model": "mlp", "clients": 10, "alpha": 1.0, "rounds": 10}
METHOD = make_method("fedquit")
WATCHED, TARGET, SIZE = 5, 0, 10
IN_A_ROW = (1, 5, 20)
NO_REQUEST = "no request"
AFTER = 3
"""Rounds of recovery before the last figure of a row."""


class Attacked:
    """A federation in which one request after the other is served."""

    def __init__(self, federation: Federation) -> None:
        self.federation, self.state = copy(federation), dict(federation.current)
        self.test = held_out_and_test(federation.settings.key())[1]

    def accuracy(self, label: int | None = None) -> float:
        """Return the accuracy on test samples, or on those of one class."""
        model = self.federation.model(self.state)
        mine = self.test if label is None else self.test.subset((self.test.labels == label).nonzero().flatten())
        return float(accuracy_of(model, mine).overall)

    def recent(self) -> Recent:
        """Return what the guard compares with: the last rounds of training."""
        history, names = self.federation.history, self.federation.names
        rounds = history.rounds()[-WATCHED:]
        lengths = [
            [
                norm({n: v for n, v in step.items() if n in names})
                for (at, _), step in history.updates.items()
                if at == r
            ]
            for r in rounds
        ]
        measures = []
        for found in lengths:
            middle = median(found)
            spread = median(abs(each - middle) for each in found)
            measures.append({"update_norm": middle, "update_norm_mad": spread})
        models = [*(history.model(number) for number in rounds), self.federation.current]
        return recent_rounds(measures, [each["update_norm"] for each in measures], pairwise(models), list(self.state))

    def admit(self, new: StateDict, size: int, *, clip: float = 0.0, noise: float = 0.0) -> Decision:
        """Have the guard decide, and continue with the model that it admits; it knows the clip and the noise."""
        bounds = bounds_of(METHOD, self.federation.names, [size], clip=clip, noise=noise)
        unseen = self.federation.unseen
        decision = admit_model(
            new, self.state, self.recent(), bounds, Policy(), lambda s: accuracy_of(self.federation.model(s), unseen)
        )
        if decision.state is not None:
            self.state = dict(decision.state)
        return decision

    def forgotten(self, samples: Samples, seed: int) -> StateDict:
        """Return what an honest device hands back."""
        model = self.federation.model(self.state)
        METHOD.on_device(model, samples, seed=seed)
        return {name: value.detach() for name, value in model.state_dict().items()}

    def harmful(self, samples: Samples, seed: int, times: float = 0.99) -> StateDict:
        """Return a model moved towards wrong labels, each weight `times` as far as the method can move it.

        A little less than once is the most that the guard cannot tell from honest forgetting.
        """
        wrong = Samples(samples.inputs, (samples.labels + 1) % 10)
        step = difference(self.federation.trained(self.state, wrong, seed), self.state, self.federation.names)
        return self._signed(step, times, len(samples))

    def against(self, targets: Samples, size: int, times: float = 0.99) -> StateDict:
        """Return a model with a higher loss on some targets, which no client holds; `times` as in `harmful`."""
        return self._signed(gradient(self.federation.model(self.state), targets), times, size)

    def _signed(self, direction: StateDict, times: float, size: int) -> StateDict:
        reach = times * (METHOD.reach(size) or 0.0)
        return moved(self.state, {name: value.sign() * reach for name, value in direction.items()})

    def recover(self, number: int) -> None:
        """Have all train a round on what they have left."""
        self.state = dict(self.federation.round(self.state, -1, number))

    def drop(self, client: int, which: torch.Tensor) -> Samples:
        """Take the samples at an index from a client, and return them."""
        mine = self.federation.samples[client]
        left = torch.tensor(sorted(set(range(len(mine))) - set(which.tolist())))
        others = list(self.federation.samples)
        others[client] = mine.subset(left)
        self.federation.samples = others
        return mine.subset(which)


def in_a_row(federation: Federation, kind: str) -> Document:
    """Serve requests of different clients one after the other, and say what is left after some of them.

    Args:
        federation: trained.
        kind: "honest", "harmful within reach", or "none": the rounds alone.
    """
    attacked = Attacked(federation)
    found, adopted = {"before": attacked.accuracy()}, 0
    for number in range(1, max(IN_A_ROW) + 1):
        asker, seed = number % len(federation.samples), derive_seed(0, "in a row", number)
        if kind != "none":
            size = len(attacked.federation.samples[asker])
            samples = attacked.drop(asker, torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:SIZE])
            make = attacked.forgotten if kind == "honest" else attacked.harmful
            adopted += attacked.admit(make(samples, seed), len(samples)).state is not None
        attacked.recover(number)
        if number in IN_A_ROW:
            found[f"after {number}"] = attacked.accuracy()
    return {"accuracy": found, "adopted": "" if kind == "none" else f"{adopted} of {max(IN_A_ROW)}"}


def against_a_class(federation: Federation, label: int, *, asks: bool = True) -> Document:
    """Have a client ask, truthfully, that all its samples of one class be forgotten; or only drop them."""
    attacked = Attacked(federation)
    asker = max(range(len(federation.samples)), key=lambda c: int((federation.samples[c].labels == label).sum()))
    mine = federation.samples[asker]
    which = (mine.labels == label).nonzero().flatten()
    return _one(attacked, asker, which, lambda: attacked.accuracy(label), asks=asks)


def against_targets(federation: Federation, times: float = 0.0, *, asks: bool = True) -> Document:
    """Have a client ask for the samples whose unlearning moves some targets' predictions most (FedMUA, 2501.11848).

    The targets are ten test samples that the model predicts correctly; the samples are those of the client whose
    gradients are most like the targets'.

    Args:
        federation: trained.
        times: 0: the client unlearns those samples honestly. Otherwise it amplifies the request, as FedMUA does: it
            returns a model that goes up the targets' loss, each weight this many times as far as the method can go.
        asks: false: it only drops the samples.
    """
    attacked, asker = Attacked(federation), 0
    model = federation.model(attacked.state)
    right = model(attacked.test.batch(slice(None))[0]).argmax(dim=1) == attacked.test.labels
    targets = attacked.test.subset(right.nonzero().flatten()[:SIZE])
    wanted, mine = gradient(model, targets), federation.samples[asker]
    like = [cosine(wanted, gradient(model, mine.subset(torch.tensor([i])))) for i in range(len(mine))]
    which = torch.tensor(like).argsort(descending=True)[:SIZE]

    def kept() -> float:
        return float(accuracy_of(federation.model(attacked.state), targets).overall)

    make = (lambda _: attacked.against(targets, SIZE, times)) if times else None
    return _one(attacked, asker, which, kept, make, asks=asks)


def wrong_labels(federation: Federation) -> Document:
    """Have a client return a model that goes towards wrong labels ten times as far as the method can go."""
    attacked, asker = Attacked(federation), 0
    return _one(attacked, asker, torch.arange(SIZE), attacked.accuracy, lambda given: attacked.harmful(given, 0, 10.0))


def hidden_backdoor(settings: Settings, *, asks: bool = True) -> Document:
    """Have a client hide a backdoor by samples with the trigger and their right labels, then ask to forget those.

    BadFU, arXiv 2508.15541; the client's own samples are its poison and its camouflage, in equal parts. For comparison
    it can drop the camouflage without a request (`asks` false): the same rounds, and nothing is unlearned.
    """
    federation = Federation(settings, poisoned)
    attacked, asker = Attacked(federation), 0
    held = len(federation.samples[asker])

    def success() -> float:
        return attack_success_rate(federation.model(attacked.state), attacked.test, stamp, TARGET)

    return _one(attacked, asker, torch.arange(held // 2, held), success, asks=asks)


def poisoned(samples: list[Samples]) -> list[Samples]:
    """Return the clients' samples, of client 0 poison and then camouflage."""
    mine = samples[0]
    poison = plant(mine, stamp, TARGET)
    both = Samples(
        torch.cat([poison.inputs, poison.inputs]), torch.cat([poison.labels, mine.labels])
    )  # the same pictures with the trigger: called TARGET, and called what they are
    return [both, *samples[1:]]


def _one(
    attacked: Attacked,
    asker: int,
    which: torch.Tensor,
    figure: Callable[[], float],
    make: Callable[[Samples], StateDict] | None = None,
    *,
    asks: bool = True,
) -> Document:
    """Serve one request about some of a client's samples, honestly unless `make` returns another model.

    Where the client does not ask it only stops training on them, and nothing is unlearned.
    """
    before, whole, samples = figure(), attacked.accuracy(), attacked.drop(asker, which)
    verdict, off = NO_REQUEST, ""
    if asks:
        decision = attacked.admit(make(samples) if make else attacked.forgotten(samples, 0), len(samples))
        verdict, off = decision.verdict, decision.reason
    after = figure()
    for number in range(1, AFTER + 1):
        attacked.recover(number)
    return {
        "samples": len(samples), "verdict": verdict, "off": off, "before": before, "after": after,
        "recovered": figure(), "accuracy": {"before": whole, "recovered": attacked.accuracy()},
    }  # fmt: skip


def measure(given: Document) -> Document:
    """Carry out every attack on the federation of one seed."""
    federation, settings = Federation(Settings.read(given)), Settings.read(given)
    return {
        **{f"in a row, {kind}": in_a_row(federation, kind) for kind in ("none", "honest", "harmful within reach")},
        "wrong labels, 10 times the reach": wrong_labels(federation),
        **{f"against class {label}": against_a_class(federation, label) for label in (3, 8)},
        **{f"class {label} dropped": against_a_class(federation, label, asks=False) for label in (3, 8)},
        "against ten targets": against_targets(federation),
        "against ten targets, amplified within reach": against_targets(federation, 0.99),
        "against ten targets, amplified 10 times": against_targets(federation, 10.0),
        "those samples dropped": against_targets(federation, asks=False),
        "hidden backdoor": hidden_backdoor(settings),
        "its camouflage dropped": hidden_backdoor(settings, asks=False),
    }


def markdown(found: Sequence[Document]) -> str:
    """Return the document in Markdown, from what each seed gave."""
    rows = [
        (
            name.removeprefix("in a row, "),
            _counted([each[name]["adopted"] for each in found]),
            *(_mean([each[name]["accuracy"][when] for each in found]) for when in first["accuracy"]),
            "" if name.endswith("none") else _mean([_lost(each, name) for each in found]),
        )
        for name, first in found[0].items()
        if name.startswith("in a row")
    ]
    single = [
        (
            name, _range([each[name]["samples"] for each in found]),
            _counted([each[name]["verdict"] + _why(each[name]["off"]) for each in found]),
            *(_mean([each[name][when] for each in found]) for when in ("before", "after", "recovered")),
            _mean([each[name]["recovered"] - each[name]["before"] for each in found]),
            *(_mean([each[name]["accuracy"][when] for each in found]) for when in ("before", "recovered")),
        )
        for name in found[0]
        if not name.startswith("in a row")
    ]  # fmt: skip
    whole: Sequence[str] = [
        INTRO.replace("SEEDS", str(len(found))),
        table(("requests of 10 samples in a row", "adopted", "before", *map(_after, IN_A_ROW),
               f"after {max(IN_A_ROW)}, minus none"), rows),
        "",
        table(("request", "samples", "guard", "figure before", "after forgetting", "after 3 rounds", "change",
               "test accuracy before", "after 3 rounds"), single),
    ]  # fmt: skip
    return "\n".join([*whole, "", READING])


def _lost(each: Document, name: str) -> float:
    """Return what requests in a row cost in accuracy, against the same rounds without."""
    when = _after(max(IN_A_ROW))
    return float(each[name]["accuracy"][when] - each["in a row, none"]["accuracy"][when])


def _mean(values: Sequence[float]) -> str:
    """Return the mean in per cent, and half of its 95 % interval by Student's distribution.

    >>> _mean([0.5, 0.6, 0.7]), _mean([0.5])
    ('60.0 ± 24.8', '50.0')
    """
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    half = quantile(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f"{100 * fmean(values):.1f} ± {100 * half:.1f}"


def _counted(values: Sequence[str]) -> str:
    """Return each different text, with the number of seeds that gave it.

    >>> _counted(["adopt", "adopt"]), _counted(["adopt", "refuse"])
    ('adopt', 'adopt (1 seed), refuse (1 seed)')
    """
    kinds = {value: values.count(value) for value in values}
    if len(kinds) == 1:
        return next(iter(kinds))
    return ", ".join(f"{value} ({count} seed{'s' if count > 1 else ''})" for value, count in kinds.items())


def _why(reason: str) -> str:
    """Return what the guard found, without its figures: those differ from seed to seed."""
    return f": {reason.split(';')[0].split(',')[0]}" if reason else ""


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


def _after(number: int) -> str:
    return f"after {number}"


INTRO = """# Malicious requests

    python -m tests.benchmarks.requests.malicious_requests --out docs/results/malicious_requests.md

Ten clients (Dirichlet 1) train an mlp on digits for ten rounds; FedQUIT's defaults; SEEDS federations, each of a seed
of its own. The guard decides as in a deployment, with a validation set. All values are per cent: means over the seeds,
with the half-width of a 95 % interval (Student). The first table has test accuracy. In the second, the *figure* is the
accuracy on the class, the targets or the test samples that the attack is against, or the share of images with the
trigger that get its label.
"""
READING = """- *none*: the same rounds without a request. After each request all clients train one
  round on their remaining data.
- *harmful within reach*: each weight moves as far as the method can move it, towards wrong labels: the largest step
  that the guard cannot tell from honest forgetting. It costs what honest requests cost.
- *wrong labels, 10 times the reach*: the same, ten times as far. The guard's bound on single weights catches it.
- *against class ...*, *against ten targets*: the client honestly unlearns samples that it chose to harm a class or some
  targets (FedMUA's choice of samples). The guard cannot see the choice, so the request is served.
- *amplified*: the client returns a model made to raise the targets' loss instead of what it was asked for (FedMUA's
  second part), as far as the method can move each weight, or ten times as far, which the guard catches.
- *hidden backdoor*: the client trains on images with a trigger, under the backdoor's label and under their own, and
  then asks to forget the second kind (BadFU). The guard sees an honest step.
- *dropped*: the client only stops training on the same samples. That needs no request, and nobody can prevent or see
  it. Where a row and its *dropped* row agree, the harm comes from the missing data, and not from being forgotten.
"""


@click.command()
@click.option("--seeds", default=5, show_default=True, help="number of federations")
@click.option("--out", type=click.Path(path_type=Path), help="file for the tables, in Markdown")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def main(seeds: int, out: Path | None, as_json: bool) -> None:
    """Carry out every attack and print what came of it."""
    found = []
    for seed in range(seeds):
        found.append(measure({**GIVEN, "seed": seed}))
        click.echo(f"seed {seed}: done", err=True)
    if out:
        out.write_text(markdown(found), encoding="utf-8")
    click.echo(json.dumps(found, indent=1) if as_json else markdown(found))


if __name__ == "__main__":
    main()
