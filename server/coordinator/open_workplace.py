"""Open the workplace of a server from its folder: server.toml, ledger, keys, and the rules of admission."""

import time
from pathlib import Path
from typing import Any

from fedquit.client.requests.signed_request import Signed
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.federation import FILE, Federation
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.check_methods import check_methods
from fedquit.server.receipts.make_receipt import read_receipts_key
from fedquit.server.service.admission import Rules, admit
from fedquit.strategies.grid.metered_grid import MeteredGrid

KEY = "receipts.key"


def open_place(grid: MeteredGrid, folder: Path, **how: Any) -> Workplace:
    """Return the workplace of the server whose folder is `folder`.

    Args:
        grid: carries the messages; it has no members yet.
        folder: the server's, as `fedquit provision` makes it.
        how: more of `Workplace`, such as a clock.

    Raises:
        InputError: server.toml or a key cannot be used.
        FedquitError: another coordinator is at work in the folder.
    """
    federation, key = Federation.read(folder), folder / KEY
    check_methods(federation, folder / FILE)
    has_key = key.is_file()
    receipts_key = read_receipts_key(key) if has_key else None
    seal = read_seal(key) if has_key else None
    ledger = Ledger.open(federation.ledger_url(folder), seal=seal, clock=how.get("clock", time.time))
    rules = Rules.of(federation)

    def take(ask: bytes, signature: bytes) -> str:
        return admit(ledger, Signed(ask, signature), rules, now=place.clock(), came_from="reply").request.id

    place = Workplace(grid, federation, folder, ledger, receipts_key=receipts_key, admit=take, **how)
    return place
