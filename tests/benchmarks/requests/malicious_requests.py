"""Measure the effect of malicious requests: many in a row, chosen samples, a hidden backdoor.

    python -m tests.benchmarks.requests.malicious_requests [--out docs/results/malicious_requests.md --json]

Ten clients train an mlp on digits; the guard decides about each model as in a deployment (`admit_model`, policy
`refuse`, a validation set). After each request all train a round on what they have left.
"""

import json
from collections.abc import Callable, Sequence
from copy import copy
from itertools import pairwise
from pathlib import Path
from statistics import median

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

    def admit(self, new: StateDict, size: int) -> Decision:
        """Have the guard decide, and go on with what it lets through."""
        bounds = bounds_of(METHOD, self.federation.names, [size])
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

    def harmful(self, samples: Samples, seed: int) -> StateDict:
        """Return a model moved towards wrong labels, each weight as far as the method can: the guard sees no more."""
        wrong = Samples(samples.inputs, (samples.labels + 1) % 10)
        step = difference(self.federation.trained(self.state, wrong, seed), self.state, self.federation.names)
        reach = 0.99 * (METHOD.reach(len(samples)) or 0.0)
        return moved(self.state, {name: value.sign() * reach for name, value in step.items()})

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


def against_a_class(federation: Federation, label: int) -> Document:
    """Have a client ask, truthfully, that all its samples of one class be forgotten."""
    attacked = Attacked(federation)
    asker = max(range(len(federation.samples)), key=lambda c: int((federation.samples[c].labels == label).sum()))
    mine = federation.samples[asker]
    which = (mine.labels == label).nonzero().flatten()
    return _one(attacked, asker, which, lambda: attacked.accuracy(label))


def against_targets(federation: Federation) -> Document:
    """Have a client ask for the samples whose unlearning moves some targets' predictions most (FedMUA, 2501.11848).

    The targets are ten test samples that the model has right; the samples are those of the client whose gradients are
    most like the targets'.
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

    return _one(attacked, asker, which, kept)


def hidden_backdoor(settings: Settings) -> Document:
    """Have a client hide a backdoor by samples with the trigger and their right labels, then ask to forget those.

    BadFU, arXiv 2508.15541; the client's own samples are its poison and its camouflage, in equal parts.
    """
    federation = Federation(settings, poisoned)
    attacked, asker = Attacked(federation), 0
    held = len(federation.samples[asker])

    def success() -> float:
        return attack_success_rate(federation.model(attacked.state), attacked.test, stamp, TARGET)

    return _one(attacked, asker, torch.arange(held // 2, held), success)


def poisoned(samples: list[Samples]) -> list[Samples]:
    """Return the clients' samples, of client 0 poison and then camouflage."""
    mine = samples[0]
    poison = plant(mine, stamp, TARGET)
    both = Samples(
        torch.cat([poison.inputs, poison.inputs]), torch.cat([poison.labels, mine.labels])
    )  # the same pictures with the trigger: called TARGET, and called what they are
    return [both, *samples[1:]]


def _one(attacked: Attacked, asker: int, which: torch.Tensor, figure: Callable[[], float]) -> Document:
    """Serve one honest request about some of a client's samples; the client stays."""
    before, whole, samples = figure(), attacked.accuracy(), attacked.drop(asker, which)
    decision = attacked.admit(attacked.forgotten(samples, 0), len(samples))
    after = figure()
    for number in range(1, AFTER + 1):
        attacked.recover(number)
    return {
        "samples": len(samples), "verdict": decision.verdict, "off": decision.reason, "before": before, "after": after,
        "recovered": figure(), "accuracy": {"before": whole, "recovered": attacked.accuracy()},
    }  # fmt: skip


def measure(given: Document) -> Document:
    """Carry out every attack."""
    federation = Federation(Settings.read(given))
    return {
        **{f"in a row, {kind}": in_a_row(federation, kind) for kind in ("none", "honest", "harmful within reach")},
        **{f"against class {label}": against_a_class(federation, label) for label in (3, 8)},
        "against ten targets": against_targets(federation),
        "hidden backdoor": hidden_backdoor(Settings.read(given)),
    }


def markdown(found: Document) -> str:
    """Return the document in Markdown."""
    rows = [
        (
            name.removeprefix("in a row, "),
            each["adopted"],
            *(f"{100 * value:.1f}" for value in each["accuracy"].values()),
        )
        for name, each in found.items()
        if name.startswith("in a row")
    ]
    single = [
        (
            name, str(each["samples"]), each["verdict"] + (f": {each['off']}" if each["off"] else ""),
            *(f"{100 * each[when]:.1f}" for when in ("before", "after", "recovered")),
            *(f"{100 * value:.1f}" for value in each["accuracy"].values()),
        )
        for name, each in found.items()
        if not name.startswith("in a row")
    ]  # fmt: skip
    whole: Sequence[str] = [
        INTRO,
        table(("requests of 10 samples in a row", "adopted", "before", *map(_after, IN_A_ROW)), rows),
        "",
        table(("request", "samples", "guard", "figure before", "after forgetting", "after 3 rounds",
               "test accuracy before", "after 3 rounds"), single),
    ]  # fmt: skip
    return "\n".join([*whole, "", READING])


def _after(number: int) -> str:
    return f"after {number}"


INTRO = """# Malicious requests

    python -m tests.benchmarks.requests.malicious_requests

Ten clients (Dirichlet 1) train an mlp on digits for ten rounds; FedQUIT's defaults; one federation, one seed. The guard
decides as in a deployment, with a validation set. All values are per cent. The first table has test accuracy. In the
second, the *figure* is the accuracy on the class or the targets, or the share of images with the trigger that get its
label.
"""
READING = """- *none*: the same rounds without a request. After each request all clients train one
  round on their remaining data.
- *harmful within reach*: each weight moves as far as the method can move it, towards wrong labels: the largest step
  that the guard cannot tell from honest forgetting.
- *against ...*: the client honestly unlearns samples that it chose to harm a class or some targets. The guard cannot
  see the choice, so the request is served.
- *hidden backdoor*: the client trains on images with a trigger, under the backdoor's label and under their own, and
  then asks to forget the second kind (BadFU). The guard sees an honest step.
"""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="file for the tables, in Markdown")
@click.option("--json", "as_json", is_flag=True, help="print as JSON")
def main(out: Path | None, as_json: bool) -> None:
    """Carry out every attack and print what came of it."""
    found = measure(GIVEN)
    if out:
        out.write_text(markdown(found), encoding="utf-8")
    click.echo(json.dumps(found, indent=1) if as_json else markdown(found))


if __name__ == "__main__":
    main()
