"""The forget service on a port: gRPC with TLS, bounds on what a caller may use up, health, an orderly end."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedquit.client.requests.keys import check_private
from fedquit.errors import FedquitError, InputError
from fedquit.server.serve.certificate_pair import CertificatePair
from fedquit.server.service.servicer import Servicer

SERVICE = "fedquit.v1.Forget"
THREADS = 48  # of which at most 32 are held by watches
MOST_AT_ONCE = 512  # calls that run or wait; beyond, gRPC turns calls away itself
GRACE = 5.0  # seconds that calls have to end
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 65_536),  # bytes; what is larger never reaches us
    ("grpc.max_metadata_size", 8_192),
    ("grpc.absolute_max_metadata_size", 16_384),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: a small message stays small
    ("grpc.max_concurrent_streams", 64),  # of one connection
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_ping_strikes", 2),
)


@dataclass
class ForgetServer:
    """A running forget service.

    Attributes:
        address: HOST:PORT that it listens on.
    """

    address: str
    _server: grpc.Server
    _servicer: Servicer
    _health: health.HealthServicer

    @classmethod
    def start(cls, servicer: Servicer, *, bind: str, port: int, certificate: Path, key: Path) -> Self:
        """Listen on `port` (0: a free one) of the address `bind`, with TLS.

        Args:
            servicer: what answers.
            bind: address to listen on.
            port: TCP port.
            certificate: PEM file of the server's certificate and those that signed it.
            key: PEM file of its private key, which nobody else may read.

        Raises:
            InputError: a file cannot be used.
            FedquitError: the port cannot be used.
        """
        credentials = _credentials(certificate, key)
        server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="forget-service"),
            options=OPTIONS,
            maximum_concurrent_rpcs=MOST_AT_ONCE,
        )
        server.add_generic_rpc_handlers((servicer.handler(),))
        state = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(state, server)
        host = f"[{bind}]" if ":" in bind else bind
        try:
            chosen = server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError as error:
            raise FedquitError(
                f"cannot listen on {host}:{port} with {certificate} and {key}; is the port in use, is the pair valid?"
            ) from error
        server.start()
        for name in ("", SERVICE):
            state.set(name, health_pb2.HealthCheckResponse.SERVING)
        return cls(f"{host}:{chosen}", server, servicer, state)

    def stop(self, grace: float = GRACE) -> None:
        """Say that it ends, take no more calls, let those under way end, and come back when all did."""
        self._health.enter_graceful_shutdown()
        self._servicer.stop()
        self._server.stop(grace).wait()


def _credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Return credentials that show a renewed certificate to whoever connects from then on."""
    pair = CertificatePair(certificate, key)
    first = grpc.ssl_server_certificate_configuration([(_content(key, secret=True), _content(certificate))])

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        found = pair.replaced()
        return None if found is None else grpc.ssl_server_certificate_configuration([(found[1], found[0])])

    return grpc.dynamic_ssl_server_credentials(first, fetch)  # type: ignore[arg-type]  # None: the same as before


def _content(path: Path, *, secret: bool = False) -> bytes:
    try:
        if secret:
            check_private(path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; 'fedquit provision' makes it") from error
