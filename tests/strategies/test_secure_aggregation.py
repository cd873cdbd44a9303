"""Why there is no secure aggregation here: what Flower has, and what it does not hide. One fails when that changes."""

import os

import numpy as np
import pytest
from flwr.app import Context, MetricRecord, RecordDict
from flwr.clientapp import mod
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_separate
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
)

from fedquit.simulations.engine.inprocess import InProcessGrid
from tests.benchmarks.requests import secagg_masks
from tests.benchmarks.requests.secagg_round import (
    MODULUS,
    NUM_EXAMPLES,
    Device,
    Received,
    forwarded,
    honest_round,
    masked_arrays,
    models,
    setup,
)


def test_flower_still_has_no_secure_aggregation_for_the_message_api() -> None:
    assert not [name for name in dir(mod) if "secagg" in name.lower()]
    assert not hasattr(FedAvg, "configure_fit")
    with pytest.raises(TypeError, match="LegacyContext"), InProcessGrid(1, {}) as grid:
        SecAggPlusWorkflow(3, 2)(grid, Context(1, 1, {}, RecordDict(), {}))


def test_flowers_masks_of_two_long_seeds_are_still_the_same() -> None:
    seed = os.urandom(32)
    other = seed[4:] + seed[:4]
    assert seed != other
    first, second = (pseudo_rand_gen(each, MODULUS, [(1000,)])[0] for each in (seed, other))
    assert np.array_equal(first, second), "Flower has changed how it makes masks: see docs/strategies.md"


def test_flowers_keys_of_pairs_still_leave_2_28_seeds() -> None:
    (mine, _), (_, theirs) = generate_key_pairs(), generate_key_pairs()
    key = generate_shared_key(mine, theirs)
    assert len(key) == 44
    assert max(key) < 128, "base64: the highest bit of each byte is 0, and so it is after the XOR"
    assert secagg_masks.fold(key) & 0x80808080 == 0


def test_a_server_that_keeps_to_flowers_protocol_can_read_a_model() -> None:
    devices = models(3, size=50)
    received = honest_round(devices, dropped=3)
    left, factor = secagg_masks.without_known_masks(received, node=1), secagg_masks.sign(1, 2)
    index = number_of(seed_between(devices[0], received, 2))
    found = secagg_masks.seeds_of(secagg_masks.first_of_mask(left, factor), max(0, index - 2000), index + 2000)
    read = [secagg_masks.model_with(seed, left, factor) for seed in found]
    (model,) = [each for each in read if secagg_masks.is_plausible(each)]
    assert np.abs(model - devices[0].model).max() < 1e-4, "the benchmark tries all 2^28 seeds"


def test_flowers_mod_sends_the_number_of_samples_in_the_clear() -> None:
    device, *others = models(2, size=1)
    relayed = {str(node): list(keys) for node, keys in setup([device, *others]).items()}
    packets = {each.node: each.reply(Stage.SHARE_KEYS, relayed) for each in (device, *others)}
    masked_arrays(device, forwarded(packets, device.node))
    assert device.sent["fitres.num_examples"] == MetricRecord({"num_examples": NUM_EXAMPLES})


def seed_between(device: Device, received: Received, other: int) -> int:
    """Return the 32 bits of the mask of two devices; a test may look into one of them."""
    secret = device.state["sk1"]
    assert isinstance(secret, bytes)
    key = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(received.keys[other][0]))
    return secagg_masks.fold(key)


def number_of(seed: int) -> int:
    """Return the number of a seed, as in `spread`."""
    return sum((seed >> 8 * byte & 0x7F) << 7 * byte for byte in range(4))


def test_a_server_that_puts_its_own_keys_between_devices_is_not_noticed() -> None:
    device, *others = models(3, size=50)
    own = setup([device, *others])[1]
    made_up = {str(node): generate_key_pairs() for node in (7, 8)}
    relayed = {
        node: [public_key_to_bytes(generate_key_pairs()[1]), public_key_to_bytes(public)]
        for node, (_, public) in made_up.items()
    }
    packet = device.reply(Stage.SHARE_KEYS, {"1": list(own), **relayed})
    shares = [
        share_keys_plaintext_separate(decrypt(generate_shared_key(secret, bytes_to_public_key(own[1])), text))
        for (secret, _), text in zip(made_up.values(), packet[Key.CIPHERTEXT_LIST], strict=True)
    ]
    assert combine_shares([seed for _, _, seed, _ in shares]) == device.state["rd_seed"]
    assert combine_shares([key for _, _, _, key in shares]) == device.state["sk1"]
