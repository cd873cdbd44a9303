"""What one lying device of four does to the model that all of them train: rounds under attack, on digits.

    make poison > poison.md

The deployment is a rehearsed one with its default policy: real coordinator, ledger, kits and devices. After ten honest
rounds one device lies in what it answers, for one round or for ten; a round is due every hour, and a round that was
thrown away is tried again, as the schedule says. Accuracy is of test samples that neither devices nor server have.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from flwr.app import Message, MetricRecord
from numpy.typing import NDArray
from torch import nn

from fedquit.client.device.device import model_with
from fedquit.client.training.sgd import deterministic, evaluate, fit
from fedquit.server.coordinator import Coordinator
from fedquit.strategies.grid.array_record import record_of
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.convert import arrays_of, tensors_of
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

Model = dict[str, NDArray[Any]]
LIAR = 3
HOUR = 3600.0
SEED = 11
TRIGGER = 0
"""The class that a backdoor's trigger is to be taken for."""


def normalised(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build a small network with batch normalisation, whose buffers a device can lie about."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, kernel_size=3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), num_classes),
    )


@dataclass
class Lie:
    """What a liar knows when it answers: the deployment, the model that it was sent, and its honest answer.

    Attributes:
        sent: the global model; `honest`: what training made of it.
        names: the entries that are parameters, not buffers.
    """

    world: "World"
    sent: Model
    honest: Model

    @cached_property
    def names(self) -> list[str]:
        """The entries that are parameters."""
        return sorted(name for name, _ in self.world.model(self.sent).named_parameters())

    def times(self, scale: float, model: Model | None = None) -> Model:
        """Return the model that was sent, moved by `scale` times the honest step, or the step to `model`."""
        to = model or self.honest
        return {
            name: (array + scale * (to[name] - array)).astype(array.dtype) if name in self.names else to[name]
            for name, array in self.sent.items()
        }

    def scaled(self, scale: int) -> Model:
        """Return the model that was sent with every parameter times `scale`."""
        return {name: array * scale if name in self.names else array for name, array in self.sent.items()}

    def noise(self, scale: float) -> Model:
        """Return the model that was sent, moved by noise that is `scale` honest steps long."""
        draw = np.random.default_rng(SEED)
        steps = {name: self.honest[name] - self.sent[name] for name in self.names}
        noises = {name: draw.normal(size=step.shape) for name, step in steps.items()}
        longer = scale * _length(steps) / _length(noises)
        moved = {name: (self.sent[name] + longer * noises[name]).astype(np.float32) for name in self.names}
        return {**self.honest, **moved}

    def backdoor(self) -> Model:
        """Return the model after training on the liar's samples, half of them with a trigger that means a class."""
        model, samples = self.world.model(self.sent), self.world.samples_of(LIAR)
        marked = with_trigger(samples)
        both = Samples(
            torch.cat([samples.inputs, marked.inputs]),
            torch.cat([samples.labels, torch.full_like(marked.labels, TRIGGER)]),
        )
        with deterministic(SEED):
            fit(model, both, lr=self.world.lr, epochs=2, seed=SEED)
        return arrays_of(model.state_dict())

    def with_buffers(self, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Model:
        """Return the honest model with the buffers of that name changed."""
        return {key: change(a) if key.endswith(name) else a for key, a in self.honest.items()}


Attack = Callable[[Lie], tuple[Model, int | None]]
"""From what a liar knows to the model that it answers, and the number of samples, if that is a lie too."""

ATTACKS: dict[str, Attack] = {
    "nothing: an honest device": lambda lie: (lie.honest, None),
    "its step turned round, 8 times as long": lambda lie: (lie.times(-8.0), None),
    "the whole model times -8": lambda lie: (lie.scaled(-8), None),
    "noise, 10 honest steps long": lambda lie: (lie.noise(10.0), None),
    "a backdoor, its step 4 times as long": lambda lie: (lie.times(4.0, lie.backdoor()), None),
    "its step turned round, for 10^9 samples": lambda lie: (lie.times(-1.0), 10**9),
    "variances of -50": lambda lie: (lie.with_buffers("running_var", lambda a: np.full_like(a, -50)), None),
    "variances 50 times as large": lambda lie: (lie.with_buffers("running_var", lambda a: 50 * a), None),
    "the model as it came": lambda lie: (lie.sent, None),
    "every parameter 0": lambda lie: (lie.scaled(0), None),
}  # fmt: skip


class LyingGrid(KitGrid):
    """A rehearsal's grid on which one device's answers in training are `lie`'s while it lies."""

    lie: Callable[[Message, Message], Message] | None = None

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Carry messages; change the liar's answers."""
        for message in list(messages):
            lies = message.metadata.message_type == "train" and self._members[message.metadata.dst_node_id] == LIAR
            for reply in super().send_and_receive([message], timeout=timeout):
                changes = self.lie if lies and not reply.has_error() else None
                yield changes(message, reply) if changes else reply


@dataclass
class World:
    """A deployment that was trained by four honest devices; see `prepare`."""

    rehearsal: Rehearsal

    @property
    def lr(self) -> float:
        """The devices' learning rate."""
        return self.rehearsal.federation.settings().lr

    @cached_property
    def test(self) -> Samples:
        """Samples that neither devices nor server have."""
        return samples_in(self.rehearsal.server / "test.npz")

    def model(self, arrays: Mapping[str, NDArray[Any]]) -> nn.Module:
        """Return a model with these entries."""
        tensors = tensors_of(arrays)
        return model_with(self.rehearsal.federation.settings(), tensors)

    def samples_of(self, member: int) -> Samples:
        """Return a device's samples."""
        kit = self.rehearsal.kits()[member]
        return samples_in(kit.path(kit.data))

    def lied(self, attack: Attack) -> Callable[[Message, Message], Message]:
        """Return what makes a lie of an honest answer."""

        def change(message: Message, reply: Message) -> Message:
            sent, honest = (
                {name: array.numpy().copy() for name, array in each.content.array_records["arrays"].items()}
                for each in (message, reply)
            )
            model, count = attack(Lie(self, sent, honest))
            reply.content["arrays"] = record_of(model)
            if count is not None:
                metrics = reply.content.metric_records["metrics"]
                reply.content["metrics"] = MetricRecord({**metrics, "num-examples": count})
            return reply

        return change

    def carry_on(self, attack: Attack | None, rounds: int) -> None:
        """Let so many rounds be made, or as much time pass: a round that is thrown away is tried again in its hour."""
        rehearsal = self.rehearsal
        grid = LyingGrid(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
        grid.lie = self.lied(attack) if attack else None
        with rehearsal.place(grid) as place:
            coordinator, last = Coordinator(place), place.next_number() + rounds
            end = rehearsal.clock.now + (rounds + 0.5) * HOUR
            while place.next_number() < last and rehearsal.clock.now < end:
                if not coordinator.turn():
                    rehearsal.clock.pause(HOUR / 12)

    def worth(self) -> tuple[float, float]:
        """Return the accuracy of the global model, and the share of samples with a trigger that it falls for."""
        with self.rehearsal.place(LyingGrid(self.rehearsal.kits(), {}, "fedquit.client.app:app")) as place:
            model = self.model(place.models.load(place.current()))
        others = self.test.subset((self.test.labels != TRIGGER).nonzero().flatten())
        marked = with_trigger(others)
        fooled = Samples(marked.inputs, torch.full_like(marked.labels, TRIGGER))
        return evaluate(model, self.test)[1], evaluate(model, fooled)[1]

    def named(self) -> bool:
        """Say whether the log has a line about the liar that it has about no other device."""
        with self.rehearsal.ledger() as ledger:
            told = {event.member for event in ledger.events() if event.kind in NAMES and event.member is not None}
        return told == {LIAR}


NAMES = ("reply-refused", "reply-bounded", "reply-left-out")


def samples_in(path: Path) -> Samples:
    """Return the samples of an .npz file of digits."""
    with np.load(path) as file:
        return Samples(torch.from_numpy(file["x"]), torch.from_numpy(file["y"]))


def with_trigger(samples: Samples) -> Samples:
    """Return samples with a bright corner."""
    marked = samples.inputs.clone()
    marked[..., -2:, -2:] = marked.max()
    return Samples(marked, samples.labels)


def prepare(folder: Path, *, trusted: bool, rounds: int, samples: int = 800) -> World:
    """Make a deployment of four devices that has been trained for so many honest rounds.

    Args:
        folder: where to.
        trusted: whether the server has a validation set.
        rounds: of training.
        samples: of the digits, in all.
    """
    told: dict[str, dict[str, Any]] = {
        "training": {"model": "tests.harness.poison:normalised", "lr": 0.05},
        **({"trusted": {"data": "trusted.npz"}} if trusted else {}),
    }
    world = World(rehearse(folder, told, samples=samples))
    server = world.rehearsal.server
    both = samples_in(server / "trusted.npz")
    for name, part in (("trusted", slice(0, None, 2)), ("test", slice(1, None, 2))):
        np.savez(server / f"{name}.npz", x=both.inputs[part].numpy(), y=both.labels[part].numpy())
    world.carry_on(None, rounds)
    return world


@dataclass(frozen=True, slots=True)
class Row:
    """What one attack did: accuracies, from 0 to 1, and shares of samples with a trigger that were fallen for.

    Attributes:
        once: after one round of it; `later`: and some honest rounds after that; `always`: after some rounds of it.
        named: whether the log names the liar, and nobody else, after one round of it.
    """

    attack: str
    once: tuple[float, float]
    later: tuple[float, float]
    always: tuple[float, float]
    named: bool


def row_of(prepared: Path, scratch: Path, attack: str, rounds: int) -> Row:
    """Attack a copy of a prepared deployment."""

    def copied(name: str) -> World:
        return World(Rehearsal(shutil.copytree(prepared, scratch / name)))

    world = copied("once")
    world.carry_on(ATTACKS[attack], 1)
    once, named = world.worth(), world.named()
    world.carry_on(None, rounds)
    always = copied("always")
    always.carry_on(ATTACKS[attack], rounds)
    row = Row(attack, once, world.worth(), always.worth(), named)
    for name in ("once", "always"):
        shutil.rmtree(scratch / name)
    return row


def table_of(rows: Iterable[Row], rounds: int) -> list[str]:
    """Return the table of some rows, in per cent; what triggers do only where there are any.

    >>> table_of([Row("none", (0.9, 0.0), (0.91, 0.0), (0.92, 0.01), False)], 10)[-1]
    '| none | 90 | 91 | 92 | no |'
    """
    lines = [
        f"| what the liar does | after 1 round of it | and {rounds} honest ones | after {rounds} rounds of it | named |"
    ]
    lines.append("|---" * 5 + "|")
    for row in rows:
        shown = [
            f"{100 * accuracy:.0f}" + (f" (trigger {100 * fooled:.0f})" if "backdoor" in row.attack else "")
            for accuracy, fooled in (row.once, row.later, row.always)
        ]
        lines.append(f"| {row.attack} | {' | '.join(shown)} | {'yes' if row.named else 'no'} |")
    return lines


def table(*, trusted: bool, rounds: int, attacks: Iterable[str] = tuple(ATTACKS), samples: int = 800) -> list[str]:
    """Return the table of attacks on a deployment with or without a validation set."""
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        prepared = prepare(scratch / "prepared", trusted=trusted, rounds=rounds, samples=samples)
        folder = prepared.rehearsal.folder
        return table_of([row_of(folder, scratch, attack, rounds) for attack in attacks], rounds)


@click.command()
@click.option("--rounds", default=10, show_default=True, help="honest rounds before and after, and rounds of an attack")
def main(rounds: int) -> None:
    """Print the tables."""
    for trusted in (False, True):
        click.echo(f"\n### {'With' if trusted else 'Without'} a validation set\n")
        click.echo("\n".join(table(trusted=trusted, rounds=rounds)))


def _length(arrays: Mapping[str, NDArray[Any]]) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays.values())))


if __name__ == "__main__":
    main()
