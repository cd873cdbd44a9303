"""Seeded faults on real processes, one after the other, while three devices train and honest requests come.

    make faults-deployed > docs/results/faults.md

Each fault (see `fault_plan`) has time to end: the next one comes when every part lives again, all three devices have
trained in a round that began after it, and every request has ended. Then the ledger, the receipts and what the owners'
commands said are checked. What cannot end within `LIMIT` counts as not healed, and a new deployment is begun. Every
outcome is appended to a file of lines of JSON; with `--resume` the faults that it has are not repeated.
"""

import contextlib
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedquit.client.receipts import read_receipt
from fedquit.errors import FedquitError
from fedquit.server.ledger import ENDS, FORGOTTEN, Ledger, Request, Step
from tests.harness.deployed.fault_plan import DEVICES, Fault, Target, fault
from tests.harness.deployed.forwarder import PASS, STALL
from tests.harness.deployed.owners import Owners
from tests.harness.deployed.site import Site, put_away, site

LIMIT = 900.0
"""Seconds for a deployment to recover; on a busy machine every start takes long."""
APPEARS = 30.0
"""Seconds for which a part that comes and goes is waited for."""
EACH = 25
"""Faults of one deployment, before a new one is begun: each device has samples for so many requests."""
LOOK = 0.5


@dataclass
class Scene:
    """A running site, its ledger, and its owners."""

    site: Site
    ledger: Ledger
    owners: Owners
    began: float = field(default_factory=time.monotonic)

    def tend(self) -> None:
        """Do what init systems and owners do."""
        self.site.tend()
        self.owners.tend()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tend()
            time.sleep(min(0.1, max(0.0, end - time.monotonic())))

    def last(self) -> int:
        """Return the number of the last step."""
        step = self.ledger.last_step()
        return step.number if step else 0


def inject(scene: Scene, what: Fault) -> int:
    """Carry out a fault, and take it back when its time is over; return how many processes or sides it hit."""
    if what.kind in ("kill", "kill two"):
        found = [process for target in what.targets for process in _awaited(scene, target)]
        for process in found:
            process.signal(signal.SIGKILL)
        return len(found)
    if what.kind == "stop and continue":
        found = _awaited(scene, what.targets[0], whole=True)
        for process in found:
            process.signal(signal.SIGSTOP)
        scene.wait(what.lasts)
        for process in found:
            process.signal(signal.SIGCONT)
        return len(found)
    begin, end = _sides(scene.site, what)
    for each in begin:
        each()
    scene.wait(what.lasts)
    for each in end:
        each()
    return len(begin)


def _awaited(scene: Scene, target: Target, *, whole: bool = False) -> list[Any]:
    """Return the processes of a part, once there are any; of nginx only the master unless the `whole` part is meant."""
    end = time.monotonic() + APPEARS
    while not (found := scene.site.found(target)) and time.monotonic() < end:
        scene.tend()
        time.sleep(0.05)
    return found[:1] if target.part == "proxy" and not whole else found


def _sides(here: Site, what: Fault) -> tuple[list[Callable[[], None]], list[Callable[[], None]]]:
    """Return what begins a fault that lasts, and what ends it, for each side that it hits."""
    names = [target.device or "server" for target in what.targets]
    if what.kind == "disk full":
        return [here.disks[name].fill for name in names], [here.disks[name].free for name in names]
    if what.kind == "clock jump":
        clocks = [here.clocks[name] for name in names]
        return [_call(clock.set_ahead, what.shift) for clock in clocks], [_call(clock.set_ahead, 0) for clock in clocks]
    lines = [here.forwarders[name] for name in names]
    if what.kind == "connections refused":
        return [line.refuse for line in lines], [line.listen for line in lines]
    if what.kind == "handshakes cut":
        return [line.break_off for line in lines], [_call(setattr, line, "mode", PASS) for line in lines]
    return [_call(setattr, line, "mode", STALL) for line in lines], [
        _call(setattr, line, "mode", PASS) for line in lines
    ]


def _call(function: Callable[..., object], *arguments: object) -> Callable[[], None]:
    def call() -> None:
        function(*arguments)

    return call


def lacking(scene: Scene, after: int, since: float) -> list[str]:
    """Return what a deployment lacks to be whole: parts, a round of all devices, ends of requests, of commands.

    Args:
        scene: where.
        after: number of the step after which that round comes.
        since: Unix seconds at which it begins at the earliest.
    """
    members = {scene.site.kits[name].number for name in DEVICES}
    found = scene.site.missing()
    steps = scene.ledger.steps(after=after)
    if not any(_trained(step) >= members and step.at - step.seconds >= since for step in steps):
        found.append(f"a round of all devices that began after step {after}")
    found += [f"request {r.id[:12]} is {r.status}" for r in scene.ledger.requests() if r.status not in ENDS]
    return found + scene.owners.waiting()


def _trained(step: Step) -> set[int]:
    return {given.member for given in step.contributions} if step.phase in ("train", "recover") else set()


def wrong(scene: Scene) -> list[str]:
    """Return what is wrong with what a deployment has written: nothing, unless a promise was broken."""
    ledger, requests = scene.ledger, scene.ledger.requests()
    key = load_pem_public_key((scene.site.server / "receipts.pub").read_bytes())
    found = [*ledger.check_chain(), *scene.owners.wrong]
    if len(requests) != scene.owners.asked:
        found.append(f"{len(requests)} requests, and {scene.owners.asked} were asked")
    for request in requests:
        ended = [event for event in ledger.events(request=request.id) if event.kind in ENDS]
        forgets = ledger.steps(request=request.id, phase="forget")
        if len(ended) != 1 or request.status not in FORGOTTEN or len(forgets) != 1:
            reason = f" ({request.reason})" if request.reason else ""
            found.append(
                f"{request.id[:12]}: {request.status}{reason}, {len(ended)} ends, {len(forgets)} times forgotten"
            )
        elif not _verifies(request, key):
            found.append(f"{request.id[:12]}: its receipt does not verify")
    return found


def _verifies(request: Request, key: object) -> bool:
    if request.receipt is None or not isinstance(key, Ed25519PublicKey):
        return False
    try:
        return bool(read_receipt(request.receipt, key).request["id"] == request.id)
    except FedquitError:
        return False


def one(scene: Scene, what: Fault) -> dict[str, Any]:
    """Inject a fault, wait until the deployment has recovered, and return the outcome.

    The ledger can lack nothing while its disk is full: whatever it raises then is what is lacking.
    """
    if what.asker:
        scene.owners.ask(what.asker)
    scene.wait(what.after)
    restarts, again = scene.site.restarts, scene.owners.repeated
    began = time.monotonic()
    hit = inject(scene, what)
    ended, after, since = time.monotonic(), scene.last(), time.time()
    while (left := lacking(scene, after, since)) and time.monotonic() - ended < LIMIT:
        scene.tend()
        time.sleep(LOOK)
    return {
        "number": what.number,
        "kind": what.kind,
        "fault": str(what),
        "asked": what.asker,
        "hit": hit,
        "lasted": round(ended - began, 1),
        "seconds": round(time.monotonic() - ended, 1),
        "lacking": left,
        "wrong": wrong(scene),
        "requests": len(scene.ledger.requests()),
        "steps": scene.last(),
        "started_again": scene.site.restarts - restarts,
        "asked_again": scene.owners.repeated - again,
        "load": round(os.getloadavg()[0], 1),
        "at": round(time.time()),
    }


def campaign(seed: int, numbers: Iterable[int], scratch: Path, *, each: int = EACH) -> Iterator[dict[str, Any]]:
    """Yield the outcome of each of these faults; where one does not heal, the next comes in a new deployment."""
    left = list(numbers)
    while left:
        with scene_in(scratch / f"from-{left[0]}") as scene:
            for _ in range(min(each, len(left))):
                outcome = {"seed": seed, **one(scene, fault(seed, left.pop(0)))}
                yield outcome
                if not is_good(outcome):
                    break


@contextlib.contextmanager
def scene_in(folder: Path) -> Iterator[Scene]:
    """Run a new deployment, and yield it once it has trained a round with all devices."""
    with site(folder) as running, running.ledger() as ledger:
        scene = Scene(running, ledger, Owners(running))
        end = time.monotonic() + LIMIT
        while left := lacking(scene, 0, 0.0):
            scene.tend()
            time.sleep(LOOK)
            if time.monotonic() > end:
                raise FedquitError(f"the deployment does not begin: {'; '.join(left)}; see {folder}")
        yield scene


def is_good(outcome: Mapping[str, Any]) -> bool:
    """Say whether a deployment recovered after a fault, and kept its promises."""
    return not outcome["lacking"] and not outcome["wrong"]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the outcomes in a file of lines of JSON; a line that a killed campaign did not finish is left out."""
    found = list[dict[str, Any]]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def table(outcomes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a table of outcomes by kind of fault, and a line for each that is not good.

    >>> outcome = {"kind": "kill", "lacking": [], "wrong": [], "hit": 1, "seconds": 20.0, "asked": "north"}
    >>> table([outcome, {**outcome, "seconds": 40.0}])[-1]
    '| **all** | 2 | 2 of 2 | 2 of 2 | 30 s | 40 s |'
    """
    rows = list(outcomes)
    lines = [
        "| kind | faults | recovered unaided | nothing wrong | median | longest |",
        "|---|---|---|---|---|---|",
    ]
    groups = {kind: [row for row in rows if row["kind"] == kind] for kind in sorted({row["kind"] for row in rows})}
    for name, group in [*groups.items(), ("**all**", rows)]:
        if not group:
            continue
        seconds = sorted(row["seconds"] for row in group)
        middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
        whole, right = (sum(not row[key] for row in group) for key in ("lacking", "wrong"))
        share = f"{whole} of {len(group)} | {right} of {len(group)}"
        lines.append(f"| {name} | {len(group)} | {share} | {middle:.0f} s | {seconds[-1]:.0f} s |")
    bad = [row for row in rows if not is_good(row)]
    return (
        lines
        + [""] * bool(bad)
        + [f"- {row['number']}, {row['fault']}: {'; '.join(row['lacking'] + row['wrong'])}" for row in bad]
    )


def document(outcomes: Iterable[Mapping[str, Any]], code: str = "") -> str:
    """Return docs/results/faults.md: how it was done, what was reached, and the table.

    Args:
        outcomes: of faults.
        code: which code was hit, for people.
    """
    rows = list(outcomes)
    loads, moments = [row["load"] for row in rows], sorted(row["at"] for row in rows)
    first, last = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(at)) for at in (moments[0], moments[-1]))
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    again, asked = sum(row["asked_again"] for row in rows), sum(bool(row["asked"]) for row in rows)
    begun, numbers = sum(row["started_again"] for row in rows), _ranges(row["number"] for row in rows)
    figures = (
        f"{len(rows)} faults of seed {seeds} ({numbers}), {first} to {last} UTC, at a load of {min(loads):.0f} to "
        f"{max(loads):.0f} on {os.cpu_count()} cores. Before {asked} of them a device asked. Commands that an init "
        f"system restarted: {begun}; that an owner repeated: {again}. {code}"
    )
    return "\n".join(
        [*HEAD.splitlines(), "", *textwrap.wrap(figures, 120), "", *table(rows), "", *FOUND.splitlines(), ""]
    )


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers for people.

    >>> _ranges([1, 2, 3, 7])
    '1 to 3, 7'
    """
    found = list[list[int]]()
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


HEAD = """\
# Seeded faults on real processes

`make faults-deployed` (`tests/harness/deployed/faults_deployed.py`, as root on Linux): `fedquit provision`,
`fedquit serve` with nginx, three `fedquit join`, TLS and node keys, on 127.0.0.1; an mlp, 900 digits, a round every ten
seconds. Faults are injected one after another; which, when and for how long follows from the seed
(`tests/harness/deployed/fault_plan.py`). Before about half of them a device asks that eight of its samples be
forgotten.

- *kill*, *kill two*: SIGKILL to one or two of SuperLink, SuperExec, ServerApp, forget service, page, nginx's master,
  `serve`; SuperNode, its SuperExec, the ClientApp or the warm process for the next one, `join`, or all processes of
  a device
- *stop and continue*: SIGSTOP to one of these, SIGCONT after 3 to 20 s
- *handshakes cut*, *connections refused*, *connections stalled*: by a TCP proxy between devices and nginx, for 3 to
  20 s
- *disk full*: the file system of the server, or of a device's kit, is full for 3 to 20 s
- *clock jump*: the clock of the server or of a device is off by 2 minutes, an hour or a day, for 3 to 20 s. A preloaded
  library shifts it, except for the forget service, as gRPC's waits in the kernel end at times of the real clock

*Recovered unaided* means, within 15 minutes: exactly one instance of every process runs; a round that began after the
fault has the replies of all three devices; every request has ended; the owners' `fedquit forget --wait` have ended.
Only what the documents advise is allowed: an init system restarts `serve` and `join` when they exit, and an owner
repeats a command that could not reach the server. *Nothing wrong* means: as many requests as were asked; each ended
once, as done or unrecovered, with one forget step, and its receipt verifies; the log's hash chain is intact; the
commands exited with 0 or 6. The seconds are from the end of the fault until all of this holds: at least the rest of
one round and all of the next."""

FOUND = """\
## Found by it

- A device whose SuperExec was killed kept accepting messages that nothing carried out: the SuperNode did not notice.
  Now both end together, and are restarted.
- A reply that was announced, but whose parts the SuperLink could not store on a full disk, blocked all other replies.
  Flower's grid retries for two hours; now the time limit of the reply also covers its parts. A device could do the same
  on purpose.
- A handshake that was cut just when a device fetched a message to forget (fault 47): Flower hands a message out once,
  so both sides waited until the device's time was up, here ten minutes. Now the coordinator sends it again after five
  minutes ([coordinator.md](../coordinator.md#what-happens-when-x-dies)). The figures are from before this change.
- *Not fixed*: a device's SuperNode retries as long for the parts of a message that its server announced and did not
  send (seen in Flower's code).
"""


@click.command()
@click.option("--faults", "most", default=200, show_default=True, help="carry out faults 1 to N")
@click.option("--first", default=1, show_default=True, help="begin at this one")
@click.option("--seed", default=1, show_default=True, help="of the campaign")
@click.option("--out", type=click.Path(path_type=Path), default=Path("faults.jsonl"), show_default=True)
@click.option("--scratch", type=click.Path(path_type=Path), default=Path("faults"), show_default=True)
@click.option("--each", default=EACH, show_default=True, help="faults of one deployment")
@click.option("--minutes", default=0.0, help="begin no fault after so many minutes [no limit]")
@click.option("--code", default="", help="which code is hit, for the document")
@click.option("--resume", is_flag=True, help="leave out the faults that the file has")
@click.option("--show", is_flag=True, help="print the document of the file, and inject nothing")
def main(
    most: int,
    first: int,
    seed: int,
    out: Path,
    scratch: Path,
    each: int,
    minutes: float,
    code: str,
    resume: bool,
    show: bool,
) -> None:
    """Inject seeded faults into deployments of real processes, and print what became of them."""
    if not show:
        if out.exists() and not resume:
            raise click.UsageError(f"{out} is there already: give --resume, or another --out")
        known = {row["number"] for row in read(out) if row["seed"] == seed}
        numbers = [number for number in range(first, most + 1) if number not in known]
        end = time.monotonic() + 60 * minutes if minutes else float("inf")
        scratch = scratch / f"{time.strftime('%H%M%S')}-{os.getpid()}"
        try:
            for outcome in campaign(seed, numbers, scratch, each=each):
                with out.open("a", encoding="utf-8") as file:
                    file.write(f"{json.dumps(outcome)}\n")
                click.echo(json.dumps(outcome), err=True)
                if time.monotonic() > end:
                    break
        finally:
            put_away(scratch)
    rows = read(out)
    click.echo(document(rows, code), nl=False)
    sys.exit(0 if all(map(is_good, rows)) else 1)


if __name__ == "__main__":
    main()
