"""`python -m fedquit.server.page FOLDER`: run the page of the server in a folder; `--check` asks it if all is well."""

import contextlib
import json
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import uvicorn

from fedquit.errors import FedquitError
from fedquit.processes.supervisor import reached_at
from fedquit.server.federation import Federation
from fedquit.server.page.access import Access
from fedquit.server.page.routes import make_page
from fedquit.server.serve.certificate_pair import on_renewal

PATIENCE = 10.0  # seconds
LONGEST = 65_536  # bytes of an answer that are read
LOOK_EVERY = 10.0  # seconds between two looks at the certificate


def main(folder: Path) -> None:
    """Serve the page until the process is ended: on loopback, or with TLS and a token where server.toml says."""
    federation = Federation.read(folder)
    access = Access.of(folder, federation)
    page = make_page(folder, federation, access=access)
    server = federation.server
    tls: dict[str, Any] = {}
    if access.token:
        tls = {"ssl_certfile": str(folder / "server.pem"), "ssl_keyfile": str(folder / "server.key")}
    config = uvicorn.Config(
        page, host=server.page_bind, port=server.page_port, log_level="warning", access_log=False, server_header=False,
        **tls,
    )  # fmt: skip
    config.load()
    if config.ssl is not None:
        threading.Thread(target=_keep_up, args=(config.ssl, folder), daemon=True).start()
    uvicorn.Server(config).run()


def _keep_up(context: ssl.SSLContext, folder: Path) -> None:
    """Present a renewed certificate to new connections."""
    look = on_renewal(folder, lambda: context.load_cert_chain(folder / "server.pem", folder / "server.key"))
    while True:
        time.sleep(LOOK_EVERY)
        with contextlib.suppress(OSError):  # replaced again meanwhile
            look()


def is_well(folder: Path) -> str:
    """Ask the page of the server in `folder` at the address that it listens on; return what it says.

    Raises:
        FedquitError: it does not answer, or says that something is wrong.
    """
    federation = Federation.read(folder)
    server, access = federation.server, Access.of(folder, federation)
    host = reached_at(server.page_bind)
    address = f"{f'[{host}]' if ':' in host else host}:{server.page_port}"
    context, scheme, headers = None, "http", dict[str, str]()
    if access.token:
        context, scheme = ssl.create_default_context(cafile=str(folder / "ca.crt")), "https"
        context.check_hostname = False  # it is this machine, at an address that need not be in the certificate
        headers = {"Authorization": f"Bearer {access.token}"}
    request = urllib.request.Request(f"{scheme}://{address}/healthz", headers=headers)  # noqa: S310 - our own page
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:  # noqa: S310
            return str(json.load(answer)["status"])
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(LONGEST)
        raise FedquitError(f"the page at {scheme}://{address} is not well: {_reason(said) or error}") from None
    except (OSError, ValueError, KeyError) as error:
        raise FedquitError(f"the page at {scheme}://{address} is not well: {error}") from None


def _reason(said: bytes) -> str:
    """Return what a page that is not well says of that; "": nothing that can be understood."""
    try:
        return "; ".join(map(str, json.loads(said)["troubles"]))
    except (ValueError, KeyError, TypeError):
        return ""


if __name__ == "__main__":
    try:
        if sys.argv[2:] == ["--check"]:
            print(is_well(Path(sys.argv[1])))  # noqa: T201
        else:
            main(Path(sys.argv[1]))
    except FedquitError as error:
        print(f"fedquit: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
