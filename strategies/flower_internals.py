"""Everything of Flower's that is not its public interface, in one place: a new Flower breaks this file or none."""

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, Self

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from flwr.clientapp import ClientApp
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as CHUNK_SIZE
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
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
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.differential_privacy import KEY_NORM_BIT
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedquit.errors import FedquitError, FlowerRefusedError

__all__ = [
    "CHUNK_SIZE",
    "HEAD_BODY_DIVIDER",
    "HEAD_VALUE_DIVIDER",
    "KEY_NORM_BIT",
    "MESSAGE_TABLES",
    "SUPERLINK_NODE_ID",
    "ClientAdaptiveClipping",
    "Control",
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
PULL_PAUSE = 2.0
"""Seconds at most between two tries to pull a part of a reply."""
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


def limit_pulls(seconds: Callable[[], float]) -> None:
    """Have Flower's grid give up the parts of a reply that do not come; by itself it tries for two hours.

    A reply is announced before its parts are sent: whoever does not send them, in bad faith or because a disk was full,
    would hold up every other reply. Given up, the reply is an error.

    Args:
        seconds: returns for how long the parts of a reply are waited for that was announced now.
    """
    from flwr.superlink.grid import http_grid

    module: Any = http_grid
    pull = getattr(module.pull_objects, "__wrapped__", module.pull_objects)

    @functools.wraps(pull)
    def limited(*arguments: Any, **how: Any) -> Any:
        return pull(*arguments, **{"max_time": seconds(), "backoff_cap": PULL_PAUSE, **how})

    module.pull_objects = limited


def fingerprint_of(node: NodeInfo) -> str:
    """Return the SHA-256 (hex) of the public key that a node has proven to own; "" if it has none.

    Flower gives keys as PEM; members are known by the hash of the same key's DER SubjectPublicKeyInfo.
    """
    try:
        der = load_pem_public_key(node.public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return ""
    return hashlib.sha256(der).hexdigest()


class Control:
    """One connection to the control API of a SuperLink on this machine: `flwr` without a process for each call.

    Args:
        address: host and port.
        authority: certificate (PEM) of the authority that signed the SuperLink's.
    """

    def __init__(self, address: str, authority: bytes) -> None:
        from flwr.supercore.interceptors.http import RuntimeVersionHttpInterceptor  # takes a simulation long to import

        versions = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        self._client = ControlHttpClient.from_server_address(
            address, insecure=False, root_certificates=authority, interceptors=[versions]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def keys(self) -> set[str]:
        """Return the fingerprints of the nodes that are registered."""
        with _explained("list nodes"):
            return {fingerprint_of(node) for node in self._registered()}

    def register(self, key: bytes, name: str) -> None:
        """Let in a node with this public key (PEM); one that is in already stays.

        Raises:
            FlowerRefusedError: the SuperLink does not take the key: it is of another kind, or was unregistered before.
        """
        with _explained(f"register '{name}'"):
            try:
                self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
            except httpx.HTTPStatusError as error:
                if not _is_key_in_use(error.response.text):
                    raise
                if key not in {node.public_key for node in self._registered()}:
                    raise FlowerRefusedError(
                        f"Flower does not register '{name}': its key was unregistered, and Flower never takes such a "
                        "key again; revoke it with `fedquit member revoke` and provision the device by another name"
                    ) from None

    def unregister(self, fingerprints: Collection[str]) -> None:
        """Let the nodes whose keys have these fingerprints in no more; one that is not in stays out."""
        with _explained("unregister a node"):
            for node in self._registered():
                if fingerprint_of(node) in fingerprints:
                    self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))

    def runs(self, limit: int) -> dict[int, str]:
        """Return the latest runs with their states, such as "running" or "finished:failed"."""
        with _explained("list runs"):
            found = self._client.ListRuns(ListRunsRequest(limit=limit)).run_dict
        return {run: ":".join(filter(None, (r.status.status, r.status.sub_status))) for run, r in found.items()}

    def stop(self, run: int) -> None:
        """End a run."""
        with _explained(f"stop run {run}"):
            self._client.StopRun(StopRunRequest(run_id=run))

    def _registered(self) -> list[NodeInfo]:
        """Return the nodes that are registered; Flower lists those that were unregistered too."""
        return [node for node in self._client.ListNodes(ListNodesRequest()).nodes_info if not node.unregistered_at]


def _is_key_in_use(said: str) -> bool:
    """Say whether a refusal says that the key is registered already."""
    from flwr.supercore.error import ApiErrorCode, FlowerError  # with FastAPI, which takes long to import

    error = FlowerError.from_json(said)
    return error is not None and error.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what goes wrong with the control API into one line."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        from flwr.supercore.error import FlowerError

        error_body = FlowerError.from_json(error.response.text)
        raise FlowerRefusedError(f"Flower does not {what}: {error_body.message if error_body else error}") from None
    except (httpx.TransportError, ValueError) as error:
        raise FedquitError(f"Flower does not {what}: {error or type(error).__name__}") from None


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
