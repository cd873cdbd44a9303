"""The ClientApp: how a device serves the server's messages. Glue only; the work is in plain functions."""

from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedquit.client.device.device import NOTHING, Device, ReceivedConfig
from fedquit.client.messages.message_records import config_of, device_of, received_tensors, reply_to
from fedquit.client.messages.message_work import Work
from fedquit.client.messages.model_mods import clip, compress
from fedquit.client.models.model_file import model_hash
from fedquit.client.training.sgd import deterministic, evaluate
from fedquit.client.training.without_compiler import spare_the_compiler
from fedquit.errors import InputError, OutOfBoundsError

spare_the_compiler()


app = ClientApp(mods=[compress])


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say who this is, and how many samples it has."""
    device = device_of(message, context)
    with device.at_work("query", NOTHING):
        return reply_to(message, device, {"metrics": MetricRecord({**device.who()})})


@app.train(mods=[clip])
def train(message: Message, context: Context) -> Message:
    """Train the model that was sent on this device's samples for one round."""
    work = Work(message, context)
    objective = work.objective()
    with work.device.at_work("train", work.config):
        done = work.trained_ahead()
        if done is None:
            state, samples = work.recall(), work.samples
            model = work.own_model(state) if work.owns else work.model
            with work.timed():
                done = objective.train(model, samples, work.local_round(state))
        work.keep(done.keep)
        work.device.trained(work.config, done.send)
        return work.reply(done.loss, done.send)


@app.train("forget")
def forget(message: Message, context: Context) -> Message:
    """Carry out the method's step on the model that was sent, and return what it becomes."""
    work = Work(message, context)
    with work.device.at_work("forget", work.config):
        done = work.device.forget(work.config, work.model, work.extra, work.forgotten)
        return work.reply(done.loss, done.state, done.num_examples, done.metrics)


@app.evaluate()
def evaluate_global(message: Message, context: Context) -> Message:
    """Evaluate the global model on this device's samples, or on those of a request while it has them."""
    device, config = device_of(message, context), config_of(message)
    with device.at_work("evaluate", config):
        model = device.model(received_tensors(message, "arrays"))
        verified = _verified(device, model, config)
        samples = device.samples(config)
        with deterministic(0):
            loss, accuracy = evaluate(model, samples)
        metrics = MetricRecord({"num-examples": len(samples), "loss": loss, "accuracy": accuracy, **verified})
        return reply_to(message, device, {"metrics": metrics})


def _verified(device: Device, model: nn.Module, config: ReceivedConfig) -> dict[str, float]:
    """Return how the model does on the samples of a request, if the message asks for that too and they are there."""
    if "verify" not in config:
        return {}
    try:
        forgotten = device.samples({**config, "samples": "forget"})
    except (InputError, OutOfBoundsError):
        return {}
    with deterministic(0):
        loss, accuracy = evaluate(model, forgotten)
    return {"forget-loss": loss, "forget-accuracy": accuracy}


@app.evaluate("own")
def evaluate_personal(message: Message, context: Context) -> Message:
    """Evaluate this device's personalised model, as it was when the round that the message names began."""
    work = Work(message, context)
    with work.device.at_work("evaluate", work.config):
        model = work.own_model(work.recall())
        with work.timed():
            measures = work.measures(model)
        metrics: dict[str, Any] = {"num-examples": len(work.samples), "cpu-seconds": work.seconds, **measures}
        sha256 = ConfigRecord({"sha256": model_hash(model.state_dict())})
        return Message(RecordDict({"metrics": MetricRecord(metrics), "model": sha256}), reply_to=message)
