"""Run the page of the server in a folder: `python -m fedquit.server.page FOLDER`."""

import sys
from pathlib import Path

import uvicorn

from fedquit.errors import FedquitError
from fedquit.server.federation import Federation
from fedquit.server.page.app import make_page


def main(folder: Path) -> None:
    """Serve the page on loopback until the process is ended."""
    federation = Federation.read(folder)
    page = make_page(folder, federation)
    uvicorn.run(page, host="127.0.0.1", port=federation.server.page_port, log_level="warning", server_header=False)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except FedquitError as error:
        print(f"fedquit: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
