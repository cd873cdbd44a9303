"""What a message says, which device serves it, and its reply."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from fedquit.client.compression.codecs import Slot, read_npy
from fedquit.client.device.deployed_device import deployed_device, deployed_settings, memory_of
from fedquit.client.device.device import NOTHING, Device, ReceivedConfig, SimulatedDevice, simulated_device
from fedquit.client.device.memory import Memory
from fedquit.client.kit import Kit
from fedquit.client.training.build_objective import NOT_DEPLOYED
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.unlearning.tensors.convert import Arrays, npy_head

SERIALISED = "numpy.ndarray"
"""How Flower says that an array is a `.npy` file."""


def reply_to(
    message: Message,
    device: Device,
    records: Mapping[str, ArrayRecord | MetricRecord],
    config: ReceivedConfig = NOTHING,
) -> Message:
    """Return a reply of these records and what the device adds to them."""
    added = {name: ConfigRecord(dict(record)) for name, record in device.adds(config).items()}
    return Message(RecordDict({**records, **added}), reply_to=message)


def settings_of(message: Message, context: Context) -> Settings:
    """Return the settings that a message is served with."""
    node = context.node_config
    if "kit" in node:
        return deployed_settings(Kit.read(Path(str(node["kit"]))), context.run_config, config_of(message))
    return Settings.from_run_config(context.run_config, int(node["num-partitions"]))


def memory_of_message(message: Message, context: Context) -> Memory | None:
    """Return where the device keeps state between rounds; None: nowhere."""
    node, settings = context.node_config, settings_of(message, context)
    if "kit" in node:
        return memory_of(Kit.read(Path(str(node["kit"]))), settings)
    return SimulatedDevice(int(node["partition-id"]), settings, str(node.get("device-folder", ""))).memory


def device_of(message: Message, context: Context) -> Device:
    """Return the device that serves a message: with its kit, or client `partition-id` of a simulation."""
    node = context.node_config
    if "kit" in node:
        return deployed_device(Path(str(node["kit"])), context.run_config, str(context.run_id), config_of(message))
    clients, folder = int(node["num-partitions"]), str(node.get("device-folder", ""))
    return simulated_device(context.run_config, int(node["partition-id"]), clients, folder)


def as_simulated(device: Device) -> SimulatedDevice:
    """Return a device that can have a personalised model.

    Raises:
        InputError: it is deployed.
    """
    if not isinstance(device, SimulatedDevice):
        raise InputError(NOT_DEPLOYED.format(device.settings.objective))
    return device


def config_of(message: Message) -> dict[str, Any]:
    """Return the config of a message; {}: it has none."""
    return dict(message.content.config_records.get("config", {}))


def record_of(arrays: Arrays) -> ArrayRecord:
    """Return arrays as Flower's record."""
    return ArrayRecord({name: array_of(array) for name, array in arrays.items()})


def array_of(array: NDArray[Any]) -> Array:
    """Return an array as Flower's `Array(array)` does, without making a header of the same form each time.

    >>> import numpy as np
    >>> array_of(np.ones((2, 3))).data == Array(np.ones((2, 3))).data
    True
    """
    if not array.flags.c_contiguous or array.dtype.hasobject:
        return Array(array)
    head = npy_head(array.dtype, array.shape)
    return Array(str(array.dtype), tuple(array.shape), SERIALISED, head + array.tobytes())


def received_tensors(message: Message, record: str) -> dict[str, Tensor]:
    """Return the tensors of a message's array record."""
    arrays = message.content.array_records[record]
    return {name: torch.from_numpy(_received(name, array)) for name, array in arrays.items()}


def _received(name: str, array: Array) -> NDArray[Any]:
    """Return what an array of a message holds; ordinary ones are read without parsing a known header again."""
    if array.stype != SERIALISED:
        return array.numpy()
    return read_npy(name, array.data, Slot(array.dtype, tuple(array.shape))).copy()
