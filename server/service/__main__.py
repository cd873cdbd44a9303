"""`python -m fedquit.server.service FOLDER`: run the forget service of the server in FOLDER."""

import logging
import signal
import sys
import threading
from pathlib import Path

import click

from fedquit.client.requests.keys import check_private
from fedquit.errors import FedquitError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.service.admission import Rules
from fedquit.server.service.grpc_server import ForgetServer
from fedquit.server.service.servicer import LOG, Servicer


def serve(folder: Path, port: int | None, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Args:
        folder: the server's folder, as `fedquit provision` makes it.
        port: instead of the one in server.toml; 0: a free one.
        stop: ends it.

    Raises:
        FedquitError: it cannot begin.
    """
    federation = Federation.read(folder)
    seal_file = folder / "receipts.key"
    seal = read_seal(seal_file)
    check_private(seal_file)
    ledger = Ledger.open(federation.ledger_url(folder), seal=seal)
    try:
        server = ForgetServer.start(
            Servicer(ledger, Rules.of(federation)),
            bind=federation.server.bind,
            port=federation.server.forget_port if port is None else port,
            certificate=folder / "server.pem",
            key=folder / "server.key",
        )
        LOG.info("the forget service of %s listens on %s", federation.name, server.address)
        try:
            stop.wait()
        finally:
            server.stop()
            LOG.info("stopped")
    finally:
        ledger.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), help="instead of that in server.toml; 0: a free one")
def command(folder: Path, port: int | None) -> None:
    """Run the forget service of the server in FOLDER."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        signal.signal(which, lambda _number, _frame: stop.set())
    try:
        serve(folder, port, stop)
    except FedquitError as error:
        click.echo(f"fedquit: {' '.join(str(error).split())}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    command()
