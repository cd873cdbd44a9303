"""A device's side of compression: it decodes the model that came, and saves what compressing its own left out.

What is owed of a phase's update is stored next to the objective's state, in the device's memory. So it survives a
restart, starts empty in every phase, and is deleted with the request whose samples may be in it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from fedquit.client.compression.codecs import Chain, Compressed, slot_of
from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.device.memory import Memory
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.unlearning.tensors.convert import Arrays, arrays_of

OWED = "-owed"


def read_model(chain: Chain | None, given: Mapping[str, bytes], settings: Settings) -> dict[str, NDArray[Any]]:
    """Return the model that the server sent, which must be one of the federation's, to the byte.

    Args:
        chain: the codecs it was compressed by; None: it was not.
        given: names to the bytes of `.npy` files.
        settings: of the run.

    Raises:
        InputError: it is something else, or is not finite.

    >>> read_model(None, {}, Settings())
    Traceback (most recent call last):
    fedquit.errors.InputError: '0.weight' is missing
    """
    state = empty_model(settings.key()).state_dict()
    return (chain or Chain(())).decode(given, {name: slot_of(tensor.numpy()) for name, tensor in state.items()})


def memory_for(chain: Chain | None, config: Mapping[str, Any], find: Callable[[], Memory | None]) -> Memory | None:
    """Return the memory for what is owed; None: none is needed, by the chain or by the message.

    Args:
        chain: the codecs of the reply.
        config: what the server's message says; one that counts no rounds of a phase leaves nothing behind.
        find: looks for the device's memory.

    Raises:
        InputError: the device has none.

    >>> memory_for(None, {"phase": "train"}, lambda: None) is None
    True
    """
    if chain is None or not chain.keeps or "phase" not in config:
        return None
    memory = find()
    if memory is None:
        raise InputError(
            f"compress-up '{chain.name}' needs state on the device from round to round: "
            "set device-folder, in the node's config or in the run's"
        )
    return memory


def compress_model(
    chain: Chain, model: Arrays, received: Arrays, config: Mapping[str, Any], memory: Memory | None = None
) -> Compressed:
    """Compress the model trained from `received`; what is left out is saved for the next round.

    Args:
        chain: the codecs.
        model: the trained one.
        received: the model that came.
        config: of the server's message.
        memory: where what is owed is saved; None: nowhere.

    Raises:
        InputError: the model is not finite.

    >>> import numpy as np
    >>> from fedquit.client.compression.codecs import chain_of
    >>> start = {"w": np.zeros((1, 2), np.float32)}
    >>> compress_model(chain_of("int8"), {"w": start["w"] + 1}, start, {}).arrays["w/levels"].tolist()
    [[127, 127]]
    """
    if memory is None:
        return chain.encode(model, received)
    place = f"{config['phase']}{OWED}", int(config.get("requests", 0)), int(config["server-round"])
    memory.forget_before(place[1])
    owed = memory.recall(*place)
    compressed = chain.encode(model, received, None if owed is None else arrays_of(owed))
    memory.keep({name: torch.from_numpy(lost) for name, lost in compressed.owed.items()}, *place)
    return compressed
