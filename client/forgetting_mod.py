"""Add forgetting to an existing Flower app: the client's side, as a mod of its ClientApp.

    app = ClientApp(mods=[forgetting_mod(Net, load_samples)])

The app's own `train` and `evaluate` stay as they are. `fedquit.strategies.forgetting.Forgetting` sends train
messages with a record of its own, which the mod handles and the app never sees. Once the device has been forgotten, the
mod replies to every other train message with an error: it does not train again, whatever the server sends.
"""

import json
from collections.abc import Callable

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod
from torch import Tensor, nn

from fedquit.errors import FedquitError
from fedquit.unlearning.methods.base import Method, make_method
from fedquit.unlearning.samples import Samples

RECORD = "fedquit.forgetting"
"""The record that makes a train message one of ours, and in which a device remembers that it was forgotten."""
FORGOTTEN = 900
"""Code of the error with which a forgotten device answers a train message."""
Load = Callable[[Context], Samples | tuple[Tensor, Tensor]]


def forgetting_mod(model: Callable[[], nn.Module], samples: Load) -> Mod:
    """Return the mod.

    Args:
        model: builds the model, whose state dict is what the app's `ArrayRecord` holds.
        samples: loads this device's training samples as (inputs [N, ...], integer labels [N]), inputs as the model
            takes them or uint8 images, which are scaled to [-1, 1].
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type.partition(".")[0] != "train":
            return call_next(message, context)
        if RECORD not in message.content.config_records:
            if RECORD in context.state.config_records:
                return Message(Error(FORGOTTEN, "this device was forgotten, and trains no more"), reply_to=message)
            return call_next(message, context)
        asked = message.content.config_records[RECORD]
        if asked["step"] == "who":
            return _reply(message, {"partition": int(str(context.node_config.get("partition-id", -1)))})
        context.state[RECORD] = ConfigRecord({"forgotten": True})  # first, so that a crash cannot leave it undone
        return _forget(message, asked, model(), _samples(samples(context)))

    return mod


def _forget(message: Message, asked: ConfigRecord, model: nn.Module, samples: Samples) -> Message:
    """Run the method on the received model, and return the result."""
    method = device_method(str(asked["method"]), json.loads(str(asked["settings"])))
    (record,) = message.content.array_records.values()
    model.load_state_dict(record.to_torch_state_dict())
    losses = method.on_device(model, samples, seed=int(str(asked["seed"])))
    metrics = MetricRecord({"num-examples": len(samples), "loss": float(losses[-1])})
    reply = _reply(message, {"forgotten": True})
    reply.content["arrays"] = ArrayRecord(model.state_dict())
    reply.content["metrics"] = metrics
    return reply


def device_method(name: str, settings: dict[str, object]) -> Method:
    """Return a method that runs on the asking device alone, in a single step.

    Raises:
        InputError: there is no such method or setting.
        FedquitError: it needs the server or other devices too.

    >>> device_method("fedquit", {"lr": 0.001}).name
    'fedquit'
    """
    method = make_method(name, **settings)
    if method.traits.runs_at != "device":
        raise FedquitError(f"method '{name}' needs more than the asking device; use fedquit")
    return method


def _samples(loaded: Samples | tuple[Tensor, Tensor]) -> Samples:
    return loaded if isinstance(loaded, Samples) else Samples(*loaded)


def _reply(message: Message, said: dict[str, bool | int]) -> Message:
    return Message(RecordDict({RECORD: ConfigRecord({**said})}), reply_to=message)
