"""A deployment in one process: the real coordinator, ledger, kits and devices, on the in-process engine.

What it leaves out is what lies between them: SuperLink, SuperNodes, TLS and the gRPC service. Time is made: pauses take
none, so weeks can be rehearsed in seconds.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from fedquit.client.data.build_data_and_model import dataset_of, form_of, split
from fedquit.client.device.local_data.gather import gather
from fedquit.client.device.record import Mark, Record
from fedquit.client.kit import FILE, Kit
from fedquit.client.requests.keys import read_private
from fedquit.client.requests.signed_request import Granularity, Signed, make_ask
from fedquit.server.coordinator import Coordinator, Workplace, open_place
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger, Request
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from fedquit.server.service.admission import Rules, admit
from fedquit.settings import Scalar, Settings, load_settings_file
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, RUN_ID, InProcessGrid
from fedquit.strategies.flower_internals import NodeInfo
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.user_factory import is_factory

BEGIN = 1_750_000_000.0
"""When rehearsals begin, Unix seconds."""
IDLE = 300.0
"""Seconds that pass when there is nothing to do."""
HOUR = 3600
SETTINGS: dict[str, Any] = {"model": "mlp", "classes": 10, "input-shape": [1, 8, 8], "lr": 0.1, "seed": 7}
NAMES = ("north", "east", "south", "west", "upper", "lower", "inner", "outer")


@dataclass
class Clock:
    """A clock that only moves when somebody waits, and a little with every look.

    Attributes:
        now: Unix seconds, as a clock would show them that nobody sets.
        ahead: seconds by which it was set ahead.
    """

    now: float = BEGIN
    ahead: float = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.steady() + self.ahead

    def steady(self) -> float:
        """Return the time, however the clock was set."""
        self.now += 0.001
        return self.now

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def name_model(kit: Kit, model: str) -> None:
    """Let the server have the device of a kit call a model factory, as the device's owner does in device.toml."""
    if is_factory(model) and "bounds" not in (document := load_settings_file(kit.folder / FILE)):
        told = tomli_w.dumps({**document, "bounds": {"model": [model]}})
        (kit.folder / FILE).write_text(told, encoding="utf-8")


class KitGrid(InProcessGrid):
    """The devices of a rehearsal as nodes, known by their keys.

    Attributes:
        away: members that are not connected.
    """

    def __init__(self, kits: list[Kit], config: dict[str, Any], client_app: ClientApp | str) -> None:
        super().__init__(len(kits), config, client_app=client_app)
        self.away: set[int] = set()
        self._keys: dict[int, bytes] = {}
        self._members: dict[int, int] = {}
        for place, kit in enumerate(kits):
            name_model(kit, str(config.get("model", "")))
            node = FIRST_NODE_ID + place
            node_config: dict[str, Scalar] = {"kit": str(kit.folder), "number": kit.number}
            self._contexts[node] = Context(RUN_ID, node, node_config, RecordDict(), config)
            key = load_ssh_public_key((kit.folder / "node.pub").read_bytes())
            self._keys[node] = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            self._members[node] = kit.number

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are connected."""
        return [node for node in self._contexts if self._members[node] not in self.away]

    def get_nodes(self) -> list[NodeInfo]:
        """Return the nodes that are connected, with the keys that they have proven to own."""
        return [NodeInfo(node_id=node, public_key=self._keys[node]) for node in self.get_node_ids()]


@dataclass
class Rehearsal:
    """A deployment in `folder`, made by `rehearse`."""

    folder: Path
    clock: Clock = field(default_factory=Clock)

    @property
    def server(self) -> Path:
        """The server's folder."""
        return self.folder / "server"

    @property
    def federation(self) -> Federation:
        """What the server is told."""
        return Federation.read(self.server)

    def tell(self, tables: Mapping[str, dict[str, Any]]) -> None:
        """Write server.toml anew; see `told`."""
        (self.server / "server.toml").write_text(tomli_w.dumps(told(tables)), encoding="utf-8")

    def kits(self) -> list[Kit]:
        """Return the devices' kits, by number."""
        found = (Kit.read(path) for path in (self.folder / "kits").iterdir())
        return sorted((kit for kit in found if kit.role == "device"), key=lambda kit: kit.number)

    def operator(self) -> Kit:
        """Return the operator's kit."""
        return next(kit for path in (self.folder / "kits").iterdir() if (kit := Kit.read(path)).role == "operator")

    def grid(self, client_app: ClientApp | str = "fedquit.client.app:app") -> KitGrid:
        """Return a grid of the devices."""
        return KitGrid(self.kits(), self.federation.settings().run_config(), client_app)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open the ledger."""
        ledger = Ledger.open(
            self.federation.ledger_url(self.server), seal=read_seal(self.server / "receipts.key"), clock=self.clock
        )
        try:
            self.clock.now = max([self.clock.now, *(event.at for event in ledger.events()[-1:])])
            yield ledger
        finally:
            ledger.close()

    @contextlib.contextmanager
    def place(self, grid: KitGrid, reached: Callable[[str], None] = lambda _point: None) -> Iterator[Workplace]:
        """Open the coordinator's workplace."""
        with self.ledger():
            pass  # the clock continues where the log ends
        place = open_place(
            MeteredGrid(grid, {}, patience=600), self.server, clock=self.clock, steady=self.clock.steady,
            pause=self.clock.pause, reached=reached,
        )  # fmt: skip
        try:
            yield place
        finally:
            place.close()
            place.ledger.close()

    def run(
        self,
        grid: KitGrid,
        *,
        rounds: int,
        reached: Callable[[str], None] = lambda _point: None,
        turns: int = 2000,
    ) -> None:
        """Have the coordinator work until that many rounds of training are done and every request has ended.

        Raises:
            TimeoutError: it is not there after so many turns.
        """
        with self.place(grid, reached) as place:
            coordinator = Coordinator(place)
            for _ in range(turns):
                waiting = place.ledger.in_progress() or place.ledger.next_asked()
                if waiting is None and len(place.ledger.steps(phase="train")) >= rounds:
                    return
                if not coordinator.turn():
                    self.clock.pause(IDLE)
        raise TimeoutError(f"after {turns} turns there is still something to do")

    def signed(self, member: int, samples: Iterable[bytes] = (), **said: Any) -> Signed:
        """Return an ask of a device, the same bytes within an hour; its samples are marked on the device."""
        kit, digests = self.kits()[member], tuple(samples)
        granularity: Granularity = "sample" if digests else "client"
        nonce = bytes([member]) * 16
        with contextlib.closing(Record(kit.path(kit.record), draw=bytes)) as record:  # a salt of zeros, always the same
            salt = record.salt(digests) if digests else b""
            fixed: dict[str, Any] = {"samples": digests, "salt": salt, "now": self._hour(), "nonce": nonce, **said}
            signed = make_ask(read_private(kit.key_file), kit.federation, granularity, **fixed)
            if digests:
                record.mark(Mark(signed.id, "sample", digests))
        return signed

    def ask(self, signed: Signed) -> Request:
        """Have the server take an ask, as its service would."""
        with self.ledger() as ledger:
            rules = replace(Rules.of(self.federation), fresh=1e9)
            return admit(ledger, signed, rules, now=self.clock()).request

    def ask_for_class(self, *classes: int) -> Request:
        """Have the operator ask that classes be forgotten."""
        kit = self.operator()
        fixed: dict[str, Any] = {"classes": classes, "now": self._hour(), "nonce": b"c" * 16}
        return self.ask(make_ask(read_private(kit.key_file), kit.federation, "class", **fixed))

    def _hour(self) -> float:
        """Return the begin of this hour: a look at the clock moves it, and asks are to be the same bytes."""
        return self.clock.now // HOUR * HOUR

    def digests(self, member: int) -> tuple[bytes, ...]:
        """Return the digests of a device's samples."""
        kit = self.kits()[member]
        form = form_of(self.federation.settings())
        return gather(kit.path(kit.data), form, lambda *_: True).digests


def told(tables: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what a rehearsal's server.toml says: what `tables`, such as `forgetting`, say, and else what is usual."""
    return {
        **tables,
        "name": "rehearsal",
        "training": {**SETTINGS, **tables.get("training", {})},
        "schedule": {"every": 3600, "min-clients": 2, **tables.get("schedule", {})},
        # Whether so small a model gets back to its accuracy is chance; tests say how near where it matters.
        "forgetting": {"recover-rounds": 2, "tolerance": 0.99, **tables.get("forgetting", {})},
    }


def rehearse(
    folder: Path, tables: Mapping[str, dict[str, Any]] | None = None, *, devices: int = 4, samples: int = 160
) -> Rehearsal:
    """Make a deployment of `devices` devices that share `samples` of the digits.

    Args:
        folder: where to; must not be there.
        tables: see `told`.
        devices: how many.
        samples: how many in all.
    """
    folder.mkdir(parents=True)
    document = {
        **told(tables or {}),
        "device": [{"name": name, "data": "data.npz"} for name in NAMES[:devices]],
        "operator": [{"name": "ada"}],
    }
    (folder / "federation.toml").write_text(tomli_w.dumps(document), encoding="utf-8")
    provision(read_plan(folder / "federation.toml"), folder / "out")
    shares = Settings.read({"clients": devices, "scheme": "iid", "samples": samples})
    data = dataset_of(shares)
    for place, part in enumerate(split(shares.key())):
        kit = folder / "out" / "kits" / NAMES[place]
        np.savez(kit / "data.npz", x=data.train.inputs.numpy()[part], y=data.train.labels.numpy()[part])
    np.savez(folder / "out" / "server" / "trusted.npz", x=data.test.inputs.numpy(), y=data.test.labels.numpy())
    return Rehearsal(folder / "out")
