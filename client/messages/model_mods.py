"""Flower mods around the ClientApp: models are compressed on the wire, and clipped for differential privacy."""

import time
from copy import copy
from typing import cast

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.mod import adaptiveclipping_mod
from flwr.clientapp.typing import ClientAppCallable

from fedquit.client.compression.build_compression import Compression, compression_of
from fedquit.client.compression.device_side import compress_model, memory_for, read_model
from fedquit.client.messages.message_records import (
    config_of,
    memory_of_message,
    record_of,
    settings_of,
)


def compress(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Decompress the received model and compress the returned one, as the settings say; the outermost of all mods."""
    if "arrays" not in message.content.array_records:
        return call_next(message, context)
    settings = settings_of(message, context)
    compression = compression_of(settings)
    if compression == Compression():
        return call_next(message, context)
    started, config = time.process_time(), config_of(message)
    memory = memory_for(compression.up, config, lambda: memory_of_message(message, context))
    given = {name: array.data for name, array in message.content.array_records["arrays"].items()}
    received, plain = read_model(compression.down, given, settings), copy(message)
    plain.content = RecordDict({**message.content, "arrays": record_of(received)})
    spent = time.process_time() - started
    reply = call_next(plain, context)
    if compression.up is None or "arrays" not in reply.content.array_records:
        return reply
    started = time.process_time()
    model = {name: array.numpy() for name, array in reply.content.array_records["arrays"].items()}
    sent = compress_model(compression.up, model, received, config, memory)
    metrics = reply.content.metric_records["metrics"]
    metrics["compression-error"] = sent.error
    metrics["cpu-seconds"] = cast(float, metrics["cpu-seconds"]) + spent + time.process_time() - started
    reply.content["arrays"] = record_of(sent.arrays)
    return reply


def clip(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the update of `train` by Flower's own mod, if the server's differential privacy gives a norm.

    The mod also reports whether it clipped; where the norm is fixed, the server does not read that.
    """
    config = message.content.config_records["config"]
    if "clipping_norm" not in config:
        return call_next(message, context)
    sent = list(message.content.array_records["arrays"])

    def in_order(message: Message, context: Context) -> Message:
        """Return the reply with its arrays in the order of the received ones, as the mod demands."""
        reply = call_next(message, context)
        arrays = reply.content.array_records["arrays"]
        reply.content["arrays"] = ArrayRecord({name: arrays[name] for name in sent})
        return reply

    return adaptiveclipping_mod(message, context, in_order)
