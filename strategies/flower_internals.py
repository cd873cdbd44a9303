"""Everything of Flower's that is not its public interface, in one place: a new Flower breaks this file or none."""

import hashlib
import math
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from flwr.clientapp import ClientApp
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_SIZE
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import Metadata as MetadataProto
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
)
from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER
from flwr.supercore.differential_privacy import KEY_NORM_BIT
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "CHUNK_SIZE",
    "HEAD_BODY_DIVIDER",
    "HEAD_VALUE_DIVIDER",
    "KEY_NORM_BIT",
    "MESSAGE_TABLES",
    "SUPERLINK_NODE_ID",
    "ClientAdaptiveClipping",
    "MessageProto",
    "MetadataProto",
    "NodeInfo",
    "RecordDictProto",
    "Run",
    "ServerAdaptiveClipping",
    "become_server_task",
    "fingerprint_of",
    "simulate",
]

TASK_ID = 1
MESSAGE_TABLES = ("message_ins", "message_res", "object_push_sessions", "objects")
"""Tables of a SuperLink's database that hold messages or let them in; what else is about messages goes with these."""


def become_server_task(run_id: int) -> Run:
    """Let this process build messages outside a run of Flower's, and return the run they belong to."""
    TaskIdentity.task_id = TASK_ID
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    run = Run.create_empty(run_id)
    run.primary_task_id = TASK_ID
    return run


def fingerprint_of(node: NodeInfo) -> str:
    """Return the SHA-256 (hex) of the public key that a node has proven to own; "" if it has none.

    Flower gives keys as PEM; members are known by the hash of the same key's DER SubjectPublicKeyInfo.
    """
    try:
        der = load_pem_public_key(node.public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return ""
    return hashlib.sha256(der).hexdigest()


def simulate(server_app: ServerApp, client_app: ClientApp, clients: int, *, app_folder: str, workers: int) -> None:
    """Run two apps on Flower's simulation runtime, with the run config of `app_folder`'s pyproject.toml.

    Flower's public `run_simulation` is deprecated and hands no run config to the clients.
    """
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.constant import NOOP_FEDERATION_ID
    from flwr.supercore.telemetry import EventType

    run = become_server_task(run_id=1)
    run.federation_id = NOOP_FEDERATION_ID
    backend: dict[str, Any] = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": workers},
    }
    _run_simulation(
        num_supernodes=clients,
        exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
        client_app=client_app,
        server_app=server_app,
        backend_config=backend,
        app_dir=app_folder,
        is_app=True,
        run=run,
    )


class _NormOfThePaper:
    """Flower's differential privacy with adaptive clipping, with the norm of Andrew et al. (arXiv 1905.03871).

    Flower 1.41 makes the norm smaller when more updates than wanted were clipped, and larger when fewer were: away from
    its goal. And its noise fits the norm of the next round, not that to which this round's updates were clipped.
    """

    clipping_norm: float
    clip_norm_lr: float
    target_clipped_quantile: float
    next_norm: float

    def _geometric_update(self, clipped_fraction: float) -> None:
        away = clipped_fraction - self.target_clipped_quantile
        self.next_norm = self.clipping_norm * math.exp(self.clip_norm_lr * away)


class ServerAdaptiveClipping(_NormOfThePaper, DifferentialPrivacyServerSideAdaptiveClipping):
    """The server clips."""


class ClientAdaptiveClipping(_NormOfThePaper, DifferentialPrivacyClientSideAdaptiveClipping):
    """Devices clip, and say whether they did."""
