"""A round of Flower's SecAgg+ between its own mod on the devices and a server that does what Flower's workflow does.

Only what a server receives in such a round is given back: what it can make of that is in `secagg_masks`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key, Stage
from flwr.compat.common import recorddict_compat
from numpy.typing import NDArray

from fedquit.strategies.flower_internals import become_server_task

MODULUS = 2**32
TARGET_RANGE, CLIPPING_RANGE, MAX_WEIGHT = 2**22, 8.0, 1000.0
"""The defaults of Flower's workflow."""
THRESHOLD = 2
NUM_EXAMPLES = 100


@dataclass(slots=True)
class Device:
    """A device that runs Flower's mod; its model is what it would send in the clear.

    Attributes:
        node: its node id.
        model: what it has trained, any shape.
        sent: all that its last reply contains.
    """

    node: int
    model: NDArray[np.float64]
    sent: RecordDict = field(default_factory=RecordDict)
    _context: Context = field(init=False)

    def __post_init__(self) -> None:
        self._context = Context(1, self.node, {}, RecordDict(), {})

    @property
    def state(self) -> ConfigRecord:
        """What Flower's mod stores between the stages, secret keys included."""
        return self._context.state.config_records[RECORD_KEY_STATE]

    def reply(self, stage: str, configs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what Flower's mod replies in a stage."""
        record = ConfigRecord({Key.STAGE: stage, **configs})
        message = Message(RecordDict({RECORD_KEY_CONFIGS: record}), dst_node_id=self.node, message_type="train")
        message.metadata.__dict__["_message_id"] = "1"  # as a message that was sent has
        self.sent = secaggplus_mod(message, self._context, self._train).content
        return dict(self.sent.config_records[RECORD_KEY_CONFIGS])

    def _train(self, message: Message, context: Context) -> Message:
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.model]), NUM_EXAMPLES, {})
        return Message(recorddict_compat.fitres_to_recorddict(result, False), reply_to=message)


@dataclass(frozen=True, slots=True)
class Received:
    """What the server has of a round.

    Attributes:
        keys: the two public keys of each device, as it sent them.
        masked: the masked arrays of each device that stayed: the weight, then the model.
        seeds: the seed of the private mask of each device that stayed; the protocol gives it to the server.
        secrets: the first secret key of each device that dropped out; the protocol gives it to the server.
    """

    keys: dict[int, tuple[bytes, bytes]]
    masked: dict[int, list[NDArray[np.int64]]]
    seeds: dict[int, bytes]
    secrets: dict[int, bytes]


def setup(devices: Sequence[Device]) -> dict[int, tuple[bytes, bytes]]:
    """Return the public keys that the devices send first."""
    sizes = {Key.SAMPLE_NUMBER: len(devices), Key.SHARE_NUMBER: len(devices), Key.THRESHOLD: THRESHOLD}
    ranges = {Key.CLIPPING_RANGE: CLIPPING_RANGE, Key.TARGET_RANGE: TARGET_RANGE, Key.MOD_RANGE: MODULUS}
    keys = {}
    become_server_task(1)
    for device in devices:
        found = device.reply(Stage.SETUP, {**sizes, **ranges, Key.MAX_WEIGHT: MAX_WEIGHT})
        keys[device.node] = (found[Key.PUBLIC_KEY_1], found[Key.PUBLIC_KEY_2])
    return keys


def honest_round(devices: Sequence[Device], dropped: int) -> Received:
    """Return what a server that follows the protocol receives, where a device drops out before its model is sent."""
    keys = setup(devices)
    relayed = {str(node): list(pair) for node, pair in keys.items()}
    packets = {device.node: device.reply(Stage.SHARE_KEYS, relayed) for device in devices}
    stayed = [device for device in devices if device.node != dropped]
    masked = {device.node: masked_arrays(device, forwarded(packets, device.node)) for device in stayed}
    lists = {Key.ACTIVE_NODE_ID_LIST: [device.node for device in stayed], Key.DEAD_NODE_ID_LIST: [dropped]}
    shares: dict[int, list[bytes]] = {}
    for device in stayed:
        found = device.reply(Stage.UNMASK, lists)
        for owner, share in zip(found[Key.NODE_ID_LIST], found[Key.SHARE_LIST], strict=True):
            shares.setdefault(int(owner), []).append(share)
    secrets = {node: combine_shares(each) for node, each in shares.items()}
    return Received(keys, masked, {node: secrets[node] for node in masked}, {dropped: secrets[dropped]})


def forwarded(packets: Mapping[int, Mapping[str, Any]], node: int) -> dict[str, Any]:
    """Return the encrypted shares for a node, and from whom each is."""
    sources, texts = [], []
    for source, packet in packets.items():
        for to, text in zip(packet[Key.DESTINATION_LIST], packet[Key.CIPHERTEXT_LIST], strict=True):
            if to == node:
                sources.append(source)
                texts.append(text)
    return {Key.SOURCE_LIST: sources, Key.CIPHERTEXT_LIST: texts}


def masked_arrays(device: Device, shares: Mapping[str, Any]) -> list[NDArray[np.int64]]:
    """Return the masked weight and model that a device sends."""
    found = device.reply(Stage.COLLECT_MASKED_VECTORS, shares)
    return [bytes_to_ndarray(each) for each in found[Key.MASKED_PARAMETERS]]


def models(count: int, size: int, seed: int = 0) -> list[Device]:
    """Return devices with random models, node ids from 1."""
    draw = np.random.default_rng(seed)
    return [Device(node, draw.normal(size=size)) for node in range(1, count + 1)]
