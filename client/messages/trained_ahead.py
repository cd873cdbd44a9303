"""Training that is done before a message is served: for several devices at once, stacked, in a simulation.

The message is then served as any other, and its reply is the same message: only who did the arithmetic differs.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType

from flwr.app import Context, Message

from fedquit.client.compression.build_compression import Compression, compression_of
from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.messages.message_records import config_of, device_of, received_tensors
from fedquit.client.objectives import Done, Objective
from fedquit.client.training.build_objective import objective_of
from fedquit.client.training.sgd import deterministic
from fedquit.client.training.stacked_sgd import cannot_stack, fit_stacked
from fedquit.settings import Settings
from fedquit.unlearning.tensors.accelerator import accelerator, precision_dtype

OWN = frozenset({"seed"})
"""Entries of a config that may differ between devices that are trained at once."""


@dataclass(frozen=True, slots=True)
class TrainedAhead:
    """What training gave, and the processor seconds that it took."""

    done: Done
    seconds: float


_ahead: ContextVar[Mapping[str, TrainedAhead]] = ContextVar("ahead", default=MappingProxyType({}))


def trained_ahead(message: Message) -> TrainedAhead | None:
    """Return what the training that a message asks for gave; None: it was not done yet."""
    return _ahead.get().get(message.metadata.message_id)


@contextmanager
def known_ahead(found: Mapping[str, TrainedAhead]) -> Iterator[None]:
    """Have `trained_ahead` find these by the ids of their messages."""
    token = _ahead.set(found)
    try:
        yield
    finally:
        _ahead.reset(token)


def why_one_by_one(settings: Settings) -> str:
    """Return why the devices of a run with these settings are trained one by one; "": they need not be.

    >>> why_one_by_one(Settings(model="mlp")), why_one_by_one(Settings(model="mlp", objective="fedprox"))
    ('', "objective 'fedprox' has a loss of its own")
    """
    objective = objective_of(settings)
    kind, traits = type(objective), objective.needs()
    if traits.owns:
        return f"objective '{settings.objective}' trains personalised models"
    if kind.loss is not Objective.loss or kind.train is not Objective.train:
        return f"objective '{settings.objective}' has a loss of its own"
    if traits.keeps != "nothing" or traits.down != "model":
        return f"objective '{settings.objective}' has state, or sends more than the model"
    if compression_of(settings) != Compression():
        return "models are compressed, so devices may start from different ones"
    if accelerator().type != "cpu" or precision_dtype() is not None:
        return "--device or --precision is not cpu and fp32"
    reason = cannot_stack(empty_model(settings.key()))
    return f"model '{settings.model}' cannot be stacked: {reason}" if reason else ""


def train_stacked(asked: Sequence[tuple[Message, Context]]) -> dict[str, TrainedAhead]:
    """Return what training gives for these messages, by their ids; {}: they cannot be served at once.

    Raises:
        RuntimeError: the model does something that cannot be stacked.
    """
    messages = [message for message, _ in asked]
    if len(messages) < 2 or not _alike(messages):
        return {}
    devices = [device_of(message, context) for message, context in asked]
    settings, config = devices[0].settings, config_of(messages[0])
    if why_one_by_one(settings):
        return {}
    started = time.process_time()
    samples = [device.samples(config) for device in devices]
    with deterministic(0):
        trained = fit_stacked(
            devices[0].model(received_tensors(messages[0], "arrays")),
            samples,
            [int(config_of(message)["seed"]) for message in messages],
            lr=float(config["lr"]),
            epochs=int(config.get("epochs", settings.local_epochs)),
            batch_size=settings.batch_size,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    each = (time.process_time() - started) / sum(map(len, samples))
    return {
        message.metadata.message_id: TrainedAhead(Done(loss, state), each * len(own))
        for message, own, (state, loss) in zip(messages, samples, trained, strict=True)
    }


def _alike(messages: Sequence[Message]) -> bool:
    """Say whether messages want the same of different devices: to train the same model in the same way."""
    first = messages[0]
    if first.metadata.message_type != "train" or "proximal-mu" in config_of(first) or "phase" in config_of(first):
        return False
    models = {id(message.content.array_records.get("arrays")) for message in messages}
    same = {key: value for key, value in config_of(first).items() if key not in OWN}
    return len(models) == 1 and all(
        message.metadata.message_type == "train"
        and len(message.content.array_records) == 1
        and {key: value for key, value in config_of(message).items() if key not in OWN} == same
        for message in messages
    )
