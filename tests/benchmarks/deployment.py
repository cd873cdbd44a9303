"""Measure a deployment of real processes on loopback: memory of each when idle, and seconds from ask to receipt.

    python -m tests.benchmarks.deployment [--devices 3 --asks 5 --trusted --json --write docs/deploy.md]

`fedquit serve` without a proxy, `fedquit join` for each device, digits, an mlp; a round of training, then nothing to do
until a device asks that some of its samples be forgotten, one ask after the other. What happens to each message is read
from the SuperLink's database while it is there; nothing in what runs knows of it. `--write` puts the figures between
the two marks in a document.
"""

import contextlib
import json
import math
import os
import platform
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from fedquit.files import write_whole
from fedquit.server.ledger import ENDS, Request
from fedquit.server.message_store import DATABASE
from tests.benchmarks.deployment_page import page_of, replaced
from tests.harness.deployment import Deployment, Process, made
from tests.harness.waiting import until

ASKER = "north"
SAMPLES = 4
"""Samples that each ask is about."""
LIMIT = 600.0
SERVER = ("fedquit serve", "fedquit.server.service", "fedquit.server.page")
"""Processes of a server that have nothing to do with a model."""
NAMES = (
    *("fedquit serve", "fedquit.server.service", "fedquit.server.page", "flower-superlink", "flwr-serverapp"),
    *("fedquit join", "warm_clientapp", "flower-supernode", "flower-superexec", "flwr-clientapp"),
)
"""What tells the processes of a deployment from each other, in their command lines."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds.

    Attributes:
        name: of its kind, as in `NAMES`.
        pid: its id.
        pss_mb: its own, and its share of what it shares with others on this machine.
        rss_mb: all of it.
        private_mb: of `pss_mb`, what lies in no file, and so cannot be dropped and read again.
        files: pages of files, in MB, by the file and the place in it.
    """

    name: str
    pid: int
    pss_mb: float
    rss_mb: float
    private_mb: float
    files: Mapping[str, float]

    def document(self) -> dict[str, str | float]:
        """Return this without the files."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "files"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One message to one or more devices, and its replies; seconds.

    Attributes:
        kind: of message.
        devices: that it went to.
        poll: from the push to the moment at which the last of them had fetched it.
        device: from there to its reply, the longest.
        server: from the last reply to the next exchange, or to the receipt.
    """

    kind: str
    devices: int
    poll: float
    device: float
    server: float


@dataclass(frozen=True, slots=True)
class Ask:
    """One ask: how it ended, seconds from ask to receipt, and where they went.

    Attributes:
        status: in which it ended.
        seconds: from the moment at which the server took the ask to that at which its receipt was made.
        command: seconds that `fedquit forget --wait` took, its own start included.
        before: seconds from the ask to the first message.
        exchanges: with devices, in order.
    """

    status: str
    seconds: float
    command: float
    before: float
    exchanges: tuple[Exchange, ...]


class Messages(threading.Thread):
    """Notes every message in the SuperLink's database, for as long as it runs.

    Attributes:
        sent: message -> (kind, when pushed); `fetched`, `replied`: when; Unix seconds.
    """

    def __init__(self, database: Path) -> None:
        super().__init__(daemon=True)
        self.sent: dict[str, tuple[str, float]] = {}
        self.fetched: dict[str, float] = {}
        self.replied: dict[str, float] = {}
        self._database, self._over = database, threading.Event()

    def run(self) -> None:
        """Look five times a second."""
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as database:
            while not self._over.wait(0.2):
                with contextlib.suppress(sqlite3.OperationalError):  # it is busy
                    self._look(database)

    def _look(self, database: sqlite3.Connection) -> None:
        for name, kind, at, fetched in database.execute(
            "SELECT message_id, message_type, created_at, delivered_at FROM message_ins"
        ):
            self.sent.setdefault(name, (kind, at))
            if fetched:
                self.fetched.setdefault(name, datetime.fromisoformat(fetched).timestamp())
        for name, at in database.execute("SELECT reply_to_message_id, created_at FROM message_res"):
            self.replied.setdefault(name, at)

    def end(self) -> None:
        """End, and wait until it has."""
        self._over.set()
        self.join()

    def exchanges(self, until: float) -> tuple[Exchange, ...]:
        """Return what was noted as exchanges; the last one's server time ends at `until`."""
        names = sorted((name for name in self.sent if name in self.replied), key=lambda name: self.sent[name][1])
        groups = list[list[str]]()
        for name in names:
            begun = self.sent[name][1]
            if groups and begun < max(self.replied[one] for one in groups[-1]):
                groups[-1].append(name)
            else:
                groups.append([name])
        ends = [min(self.sent[name][1] for name in group) for group in groups[1:]] + [until]
        return tuple(self._exchange(group, end) for group, end in zip(groups, ends, strict=True))

    def _exchange(self, group: Sequence[str], until: float) -> Exchange:
        pushed = min(self.sent[name][1] for name in group)
        last = max(group, key=lambda name: self.replied[name])
        fetched, replied = self.fetched.get(last, pushed), self.replied[last]
        rounded = (round(seconds, 2) for seconds in (fetched - pushed, replied - fetched, until - replied))
        return Exchange(self.sent[last][0], len(group), *rounded)


def memory_of(process: Process) -> Memory | None:
    """Return what a process holds; None: it has ended."""
    found = dict[str, float]()
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
            name, value = line.split()[:2]
            found[name] = int(value) / 1024
    except OSError:
        return None
    name = next((name for name in NAMES if name in process.command), process.command[-40:])
    pss, rss, private = (round(found[key], 1) for key in ("Pss:", "Rss:", "Pss_Anon:"))
    return Memory(name, process.pid, pss, rss, private, files_of(process.pid))


def files_of(pid: int) -> dict[str, float]:
    """Return the pages of files that a process has in memory, MB by the file and the place in it."""
    found, place, resident = dict[str, float](), "", 0.0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if not words[0].endswith(":"):  # a mapping begins: addresses, rights, offset, device, inode, path
                place = f"{words[5]}@{words[2]}" if len(words) > 5 and words[5].startswith("/") else ""
            elif words[0] == "Rss:":
                resident = int(words[1]) / 1024
            elif words[0] == "Anonymous:" and place:
                found[place] = found.get(place, 0.0) + resident - int(words[1]) / 1024
    return found


def alone(memories: Iterable[Memory]) -> dict[str, float]:
    """Return what processes would hold on a machine of their own: `private_mb`, and `files_mb`, each page once."""
    files, private = dict[str, float](), 0.0
    for memory in memories:
        private += memory.private_mb
        for place, size in memory.files.items():
            files[place] = max(files.get(place, 0.0), size)
    return {"private_mb": round(private, 1), "files_mb": round(math.fsum(files.values()), 1)}


def of_device(deployment: Deployment) -> list[Process]:
    """Return the processes of the device that asks."""
    kit = deployment.kits[ASKER].folder
    joins = [process for process in deployment.processes("join") if str(kit) in process.command.split()]
    return [*joins, *deployment.processes(home=kit / "flower")]


def ask(deployment: Deployment, number: int) -> Ask:
    """Ask that some samples be forgotten, wait for the receipt, and return what happened."""
    names = deployment.folder / f"{number}.names"
    names.write_text("\n".join(map(str, range(SAMPLES * number, SAMPLES * (number + 1)))), encoding="utf-8")
    messages, began = Messages(deployment.server / DATABASE), time.time()
    messages.start()
    command = deployment.run("forget", "forget", deployment.kits[ASKER].folder, "--samples", names, "--wait")
    with deployment.ledger() as ledger:

        def over() -> Request | None:
            return next((r for r in ledger.requests() if r.asked_at >= began and r.status in ENDS), None)

        request = deployment.until(over, "end of the request", LIMIT, 0.1)
        assert request is not None
    deployment.until(lambda: command.poll() is not None, "end of the command", LIMIT)
    took = time.time() - began
    messages.end()
    exchanges = messages.exchanges(request.changed_at)
    first = min((at for _, at in messages.sent.values()), default=request.changed_at)
    seconds = request.changed_at - request.asked_at
    return Ask(request.status, round(seconds, 2), round(took, 2), round(first - request.asked_at, 2), exchanges)


def at_work(deployment: Deployment) -> list[Process]:
    """Return the processes that carry out a message or are ready for one."""
    return [one for one in deployment.processes() if one.part == "ClientApp" or "warm_clientapp" in one.command]


def is_idle(deployment: Deployment) -> bool:
    """Say whether a round is done and no device works."""
    with deployment.ledger() as ledger:
        return bool(ledger.steps()) and not deployment.processes("ClientApp")


def figures(devices: int, asks: int, *, trusted: bool, settle: float) -> dict[str, Any]:
    """Return the figures of a deployment that is made for them.

    Args:
        devices: how many.
        asks: how many, one after the other.
        trusted: whether the server has a validation set.
        settle: seconds to wait once no device has a process for messages, before memory is measured.
    """
    tables: dict[str, dict[str, Any]] = {
        "schedule": {"every": "1h", "rounds": 1, "min-clients": devices},
        "forgetting": {"guard": "adopt", "tolerance": 0.99},
        **({"trusted": {"data": "trusted.npz"}} if trusted else {}),
    }
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        deployment = made(Path(temporary) / "federation", tables, devices=devices, samples=200 * devices)
        with deployment.running():
            deployment.until(lambda: is_idle(deployment), "first round", LIMIT, 0.5)
            until(lambda: not at_work(deployment), "end of the processes that are ready for a message", every=1.0)
            time.sleep(settle)
            idle = [memory for process in deployment.processes() if (memory := memory_of(process))]
            idle_device = [memory for process in of_device(deployment) if (memory := memory_of(process))]
            asked = [ask(deployment, number) for number in range(asks)]
    seconds = [one.seconds for one in asked]
    return {
        "devices": devices,
        "trusted": trusted,
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("fedquit", "flwr", "torch")},
        "memory": [memory.document() for memory in idle],
        "server_without_model": alone(memory for memory in idle if memory.name in SERVER),
        "device": alone(idle_device),
        "asks": [asdict(one) for one in asked],
        "profile": profile_of(asked),
        "median_seconds": round(statistics.median(seconds), 1) if seconds else None,
    }


def profile_of(asks: Sequence[Ask]) -> dict[str, dict[str, float]]:
    """Return where the seconds of an ask go on average, by kind of exchange, in the order in which they come.

    >>> profile_of([Ask("done", 9.0, 9.5, 1.0, (Exchange("evaluate", 3, 2.0, 1.5, 4.5),))])["evaluate"]
    {'exchanges': 1.0, 'poll': 2.0, 'device': 1.5, 'server': 4.5}
    """
    found: dict[str, dict[str, float]] = {"before the first": dict.fromkeys(("exchanges", "poll", "device"), 0.0)}
    found["before the first"]["server"] = sum(one.before for one in asks)
    for exchange in (exchange for one in asks for exchange in one.exchanges):
        row = found.setdefault(exchange.kind, dict.fromkeys(("exchanges", "poll", "device", "server"), 0.0))
        row["exchanges"] += 1
        for name in ("poll", "device", "server"):
            row[name] += getattr(exchange, name)
    return {kind: {name: round(value / len(asks), 2) for name, value in row.items()} for kind, row in found.items()}


def lines_of(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures as tables for people."""
    yield f"{found['devices']} devices, load {found['load_before']} before, {found['load_after']} after"
    yield "| process, idle | PSS | RSS |"
    yield "|---|---|---|"
    for memory in sorted(found["memory"], key=lambda memory: str(memory["name"])):
        yield f"| {memory['name']} | {memory['pss_mb']:.0f} MB | {memory['rss_mb']:.0f} MB |"
    for what, name in (("server without the model's process", "server_without_model"), ("a device", "device")):
        yield f"{what}, alone: private {found[name]['private_mb']:.0f} MB, files {found[name]['files_mb']:.0f} MB"
    for one in found["asks"]:
        yield f"{one['status']}: {one['seconds']:.1f} s; until the first message {one['before']:.1f} s"
        yield "| exchange | devices | fetched after | replied after | server |"
        yield "|---|---|---|---|---|"
        for exchange in one["exchanges"]:
            times = (f"{exchange[name]:.1f} s" for name in ("poll", "device", "server"))
            yield f"| {exchange['kind']} | {exchange['devices']} | {' | '.join(times)} |"
    yield f"ask to receipt, median of {len(found['asks'])}: {found['median_seconds']} s"


@click.command()
@click.option("--devices", default=3, show_default=True, help="each several processes of its own")
@click.option("--asks", default=5, show_default=True, help="one after the other")
@click.option("--trusted", is_flag=True, help="the server has a validation set")
@click.option(
    "--settle",
    default=10.0,
    show_default=True,
    help="seconds before memory is measured, once no device has a process for messages",
)
@click.option(
    "--write", type=click.Path(path_type=Path, exists=True), help="document whose figures, between marks, are replaced"
)
@click.option("--json", "as_json", is_flag=True, help="print JSON, and nothing else")
def main(devices: int, asks: int, trusted: bool, settle: float, write: Path | None, as_json: bool) -> None:
    """Print the figures."""
    if write:
        replaced(write.read_text(encoding="utf-8"), [])  # it must have the marks
    found = figures(devices, asks, trusted=trusted, settle=settle)
    if write:
        command = f"python -m tests.benchmarks.deployment --devices {devices} --asks {asks}{' --trusted' * trusted}"
        write_whole(write, replaced(write.read_text(encoding="utf-8"), page_of(found, command)).encode())
    for line in [json.dumps(found, indent=1)] if as_json else lines_of(found):
        click.echo(line)


if __name__ == "__main__":
    main()
