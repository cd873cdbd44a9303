"""Kill one process of a deployment with SIGKILL at each step of a request, and compare with what nothing disturbed.

    make kills-deployed > table.md

Real processes (see `deployed`): SuperLink with TLS and node keys, ServerApp, forget service, three devices. A device
asks once for each step, one request after the other; the process is killed at that step of that request. A step is
seen from outside: in the ledger, in a device's record and among the processes. At that moment everything is stopped
(SIGSTOP), looked at once more, the one is killed and the others go on (SIGCONT). Every copy of a deployment is asked
the same bytes, so that the models can be compared bit for bit.
"""

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedquit.client.device.local_data.sample_names import digests_of, salt_of
from fedquit.client.receipts import read_receipt
from fedquit.client.requests import outbox
from fedquit.client.requests.keys import read_private
from fedquit.client.requests.signed_request import LONGEST_FRESH, Granularity, make_ask
from fedquit.errors import FedquitError, UnrecoveredError
from fedquit.server.ledger import ENDS, Request
from tests.harness.deployed.observed_steps import ASKER, OTHER, STEPS, Seen, Step, home_of
from tests.harness.deployment import Deployment, Process, made

ROUNDS = 2
SAMPLES = 12
"""Samples that each request is about."""
FRESH = LONGEST_FRESH
"""Seconds that an ask's time may be off; the asks are dated ahead, so that they are taken for almost twice as long."""
LIMIT = 600.0
"""Seconds for a request to end, with what a kill costs."""
TABLES: dict[str, dict[str, Any]] = {
    "schedule": {"every": "1s", "rounds": ROUNDS, "min-clients": 3},
    "forgetting": {"method-settings": {"epochs": 1000}, "guard": "adopt", "recover-rounds": 1},
    "asking": {"fresh": FRESH},
    "trusted": {"data": "trusted.npz"},
}


PARTS = ("SuperLink", "SuperExec", "ServerApp", "forget service")
SERVER, CLIENTAPP, SUPERNODE = "all of the server", "the asking device's ClientApp", "its SuperNode and ClientApp"
DEVICE = "all of the asking device"
TARGETS = (*PARTS, SERVER, CLIENTAPP, SUPERNODE, DEVICE)
UNDISTURBED = "undisturbed"
CODES = {"done": 0, "unrecovered": UnrecoveredError.exit_code}
"""Ends of a request whose data is forgotten, and the exit codes of `fedquit forget --wait` for them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        status: of the request.
        requests: how many there are that ask for the same.
        forgets: how many forget steps it has; `ended`: how often the log says that it came to its end.
        before: SHA-256 of the model that it met; `unlearned`, `final`: of those after forgetting and after recovery.
        took_part: members in each of its steps.
        code: exit code of `fedquit forget --wait`.
        wrong: what is wrong with the log.
        verifies: whether its receipt does, and names the final model.
        seconds: from the ask to the end.
        killed: how many processes were killed.
    """

    status: str
    requests: int
    forgets: int
    ended: int
    before: str
    unlearned: str
    final: str
    took_part: tuple[tuple[int, ...], ...]
    code: int
    wrong: tuple[str, ...]
    verifies: bool
    seconds: float = 0.0
    killed: int = 0

    def is_sound(self) -> bool:
        """Say whether the request was carried out once, ended, and can be proved."""
        once = (self.requests, self.forgets, self.ended) == (1, 1, 1)
        return once and self.code == CODES.get(self.status) and self.verifies and not self.wrong

    def beside(self, undisturbed: "Outcome") -> str:
        """Say in a few words how it compares with the same request when nothing is disturbed."""
        if not self.is_sound():
            return f"NOT SOUND: {self}"
        if not self.killed:
            return "was not there"
        took = f"{self.seconds:.0f} s"
        if self.before != undisturbed.before:
            return f"sound, {took}"
        if (self.unlearned, self.final) == (undisturbed.unlearned, undisturbed.final):
            return f"same, {took}"
        if self.took_part != undisturbed.took_part:
            return f"other model: {len(self.took_part[-1])} devices in recovery, {took}"
        return f"OTHER MODEL: {self}"


def names_of(number: int) -> list[str]:
    """Return the names of the samples that request `number` is about."""
    return [str(row) for row in range(SAMPLES * number, SAMPLES * (number + 1))]


def prepare(folder: Path, steps: Sequence[Step] = STEPS) -> Deployment:
    """Make a deployment that has trained, with an ask for each step in the device's kit; nothing runs.

    Args:
        folder: where to.
        steps: for which to make asks.
    """
    deployment = made(folder, TABLES, samples=600)
    with deployment.running(), deployment.ledger() as ledger:
        deployment.until(lambda: len(ledger.steps()) == ROUNDS, "training", LIMIT, 0.5)
    kit = deployment.kits[ASKER]
    for number, step in enumerate(steps):
        samples = () if step.whole else digests_of(kit, names_of(number))
        granularity: Granularity = "sample" if samples else "client"
        ahead = time.time() + FRESH - 60.0
        signed = make_ask(
            read_private(kit.key_file),
            kit.federation,
            granularity,
            samples=samples,
            salt=salt_of(kit, samples),
            now=ahead,
        )
        outbox.keep(kit, signed)
        (folder / f"{number}.id").write_text(signed.id, encoding="utf-8")
        (folder / f"{number}.names").write_text("\n".join(names_of(number)), encoding="utf-8")
    return deployment


def rows_of(prepared: Deployment, scratch: Path, target: str, steps: Sequence[Step] = STEPS) -> Iterator[Outcome]:
    """Yield how the request of each step ends in a copy in which `target` is killed at that step, if it is there.

    Args:
        prepared: see `prepare`.
        scratch: a folder for the copy.
        target: one of `TARGETS`, or `UNDISTURBED`.
        steps: those that it was prepared for.

    Raises:
        FedquitError: a step was not seen, or a request did not end.
    """
    deployment = prepared.copy(scratch / target.replace(" ", "-"))
    with contextlib.ExitStack() as stack:
        stack.enter_context(deployment.running())
        ledger = stack.enter_context(deployment.ledger())
        record, other = (stack.enter_context(deployment.record(name)) for name in (ASKER, OTHER))
        for number, step in enumerate(steps):
            name = (prepared.folder.parent / f"{number}.id").read_text(encoding="utf-8")
            names = None if step.whole else prepared.folder.parent / f"{number}.names"
            yield one(Seen(deployment, ledger, record, other, name), names, step, target)


def one(seen: Seen, names: Path | None, step: Step, target: str) -> Outcome:
    """Ask once, kill `target` when the request is at `step`, and return how it ended, once all runs again."""
    deployment = seen.deployment
    arguments = ["forget", deployment.kits[ASKER].folder, "--wait", "--json", *(["--samples", names] if names else [])]
    held = deployment.processes(step.held) if step.held else []
    _all(held, signal.SIGSTOP)
    began, since = time.monotonic(), datetime.now(UTC)
    forget = deployment.run("forget", *arguments)
    found: list[Process] = []
    if target != UNDISTURBED:
        found = freeze_and_kill(seen, step, target)
    _all(held, signal.SIGCONT)
    if found and target == SERVER:
        deployment.serve()
        deployment.until(lambda: seen.status() or forget.poll() is not None, "ask", LIMIT, 0.25)
        if not seen.status():  # the command gave up before the server was back; its owner gives it again
            forget = deployment.run("forget", *arguments)
    if found and target == DEVICE:
        forget.wait()
        deployment.join(ASKER)
        forget = deployment.run("forget", *arguments)
    deployment.until(lambda: seen.status() in ENDS, "end of the request", LIMIT, 0.25)
    seconds, code = time.monotonic() - began, forget.wait(LIMIT)
    for part in {process.part for process in found if target in (*PARTS, SERVER)} & set(PARTS):
        deployment.until(lambda part=part: deployment.processes(part), part, LIMIT, 0.25)  # type: ignore[misc]
    if any(process.part == "SuperNode" for process in found):
        deployment.until(lambda: deployment.online(since), "device", LIMIT, 0.25)
    return replace(outcome(seen, code), seconds=seconds, killed=len(found))


def freeze_and_kill(seen: Seen, step: Step, target: str) -> list[Process]:
    """Stop every process at a step, kill those that `target` names, let the others go on, and return what was killed.

    Raises:
        FedquitError: the step was not seen, or was over before all stood still.
    """
    seen.deployment.until(lambda: step.here(seen), f"step '{step.name}'", LIMIT)
    for _ in range(2):  # what was started meanwhile too
        _all(seen.deployment.processes(), signal.SIGSTOP)
    try:
        if not step.here(seen):
            raise FedquitError(f"step '{step.name}' was over too soon")
        found = aimed_at(seen.deployment, target)
        _all(found, signal.SIGKILL)
    finally:
        _all(seen.deployment.processes(), signal.SIGCONT)
    return found


def aimed_at(deployment: Deployment, target: str) -> list[Process]:
    """Return the processes that `target` names and that live now."""
    home, kit, flower = home_of(deployment), deployment.kits[ASKER].folder, deployment.server / "flower"
    if target == CLIENTAPP:
        return deployment.processes("ClientApp", home=home)
    if target == SUPERNODE:
        return deployment.processes(home=home)
    if target == DEVICE:
        own = [process for process in deployment.processes("join", "forget") if str(kit) in process.command.split()]
        return [*own, *deployment.processes(home=home)]
    if target == SERVER:
        own = [process for process in deployment.processes() if str(deployment.server) in process.command.split()]
        return [*own, *deployment.processes(home=flower)]
    return deployment.processes(target, home=None if target == "forget service" else flower)


def outcome(seen: Seen, code: int) -> Outcome:
    """Return how the request ended."""
    ledger = seen.ledger
    request, steps = ledger.request(seen.id), ledger.steps(request=seen.id)
    forgets = [step for step in steps if step.phase == "forget"]
    return Outcome(
        status=request.status,
        requests=sum(_what(other) == _what(request) for other in ledger.requests()),
        forgets=len(forgets),
        ended=sum(event.kind == request.status for event in ledger.events(request=seen.id)),
        before=request.model_before,
        unlearned=forgets[0].model_after if forgets else "",
        final=request.model_after,
        took_part=tuple(tuple(sorted(given.member for given in step.contributions)) for step in steps),
        code=code,
        wrong=tuple(ledger.check_chain()),
        verifies=_verifies(seen.deployment, request),
    )


def _what(request: Request) -> tuple[object, ...]:
    return request.subject, request.granularity, request.samples_digest


def _verifies(deployment: Deployment, request: Request) -> bool:
    key = load_pem_public_key((deployment.server / "receipts.pub").read_bytes())
    if request.receipt is None or not isinstance(key, Ed25519PublicKey):
        return False
    try:
        receipt = read_receipt(request.receipt, key)
        receipt.check_model((deployment.server / "models" / f"{request.model_after}.safetensors").read_bytes())
    except (FedquitError, OSError):
        return False
    return bool(receipt.request["id"] == request.id)


def _all(processes: Iterable[Process], number: int) -> None:
    for process in processes:
        process.signal(number)


def table_of(
    undisturbed: Sequence[Outcome], rows: Mapping[str, Sequence[Outcome]], steps: Sequence[Step] = STEPS
) -> list[str]:
    """Return the table: at each step, how the request ended whose target was killed, beside the undisturbed one.

    >>> ended = Outcome("done", 1, 1, 1, "a", "b", "c", ((0,), (0, 1)), 0, (), True, seconds=40.0)
    >>> table_of([ended], {"SuperLink": [replace(ended, seconds=50.0, killed=1)]})[-1]
    '| the ask is on its way | 40 s | same, 50 s |'
    """
    lines = [f"| killed at | nothing | {' | '.join(rows)} |", "|---" * (len(rows) + 2) + "|"]
    for number, step in enumerate(steps[: len(undisturbed)]):
        cells = [
            outcomes[number].beside(undisturbed[number]) if number < len(outcomes) else "" for outcomes in rows.values()
        ]
        lines.append(f"| {step.name} | {undisturbed[number].seconds:.0f} s | {' | '.join(cells)} |")
    return lines


@click.command()
@click.argument("targets", nargs=-1, type=click.Choice(TARGETS))
@click.option("--at-once", default=2, show_default=True, help="deployments that run beside each other")
@click.option(
    "--step", "numbers", multiple=True, type=click.IntRange(1, len(STEPS)), help="at these steps only, from 1"
)
def main(targets: tuple[str, ...], at_once: int, numbers: tuple[int, ...]) -> None:
    """Print the table of these TARGETS, or of all."""
    steps = [STEPS[number - 1] for number in sorted(set(numbers))] or STEPS
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        prepared = prepare(scratch / "prepared", steps)
        with ThreadPoolExecutor(at_once) as pool:
            chosen = targets or TARGETS
            rows_for = partial(told, prepared, scratch, steps)
            undisturbed, *rows = pool.map(rows_for, [UNDISTURBED, *chosen])
    click.echo("\n".join(table_of(undisturbed, dict(zip(chosen, rows, strict=True)), steps)))
    sys.exit(0 if all(len(row) == len(steps) for row in [undisturbed, *rows]) else 1)


def told(prepared: Deployment, scratch: Path, steps: Sequence[Step], target: str) -> list[Outcome]:
    """Return what `rows_of` gives, to the first request that does not end; say how it goes."""
    found: list[Outcome] = []
    try:
        for outcome in rows_of(prepared, scratch, target, steps):
            click.echo(f"{target}: {steps[len(found)].name}: {outcome}", err=True)
            found.append(outcome)
    except FedquitError as error:
        click.echo(f"{target}: after {len(found)} requests: {error}", err=True)
    return found


if __name__ == "__main__":
    main()
