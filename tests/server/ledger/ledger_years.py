"""Measure what the page, `/metrics` and the check of the ledger take after years of rounds.

    python -m tests.server.ledger.ledger_years [--rounds 43200 ...] [--devices 4] [--json]

Makes a sealed ledger of so many rounds, with a request that is done in the middle, and shows the processor seconds of
each call: the median of five for the page, one for the checks. 43,200 rounds are one an hour for five years.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient

from fedquit.server.federation import Federation
from fedquit.server.ledger import Contribution, Ed25519Seal, Ledger, Step, steps
from fedquit.server.page.routes import make_page
from fedquit.server.provision.certificates import public_pem

BEGIN, HOUR, AT_ONCE = 1_700_000_000.0, 3600.0, 2000
PAGES = ("/", "/rounds", "/requests", "/api/overview", "/api/steps", "/metrics", "/healthz")
FEDERATION = Federation.model_validate({"name": "clinics", "schedule": {"every": "1h"}})


def step(number: int, devices: int) -> Step:
    """Return a round of training to which every device contributed."""
    given = tuple(Contribution(member, 100 + member, f"{member:064x}") for member in range(devices))
    return Step(
        number=number, phase="train", request=None, model_before=f"{number - 1:064x}", model_after=f"{number:064x}",
        round=number, contributions=given, refused=number % 7 == 0, seconds=4.5, device_seconds=3.25,
        bytes_down=220_000, bytes_up=221_000, measures={"accuracy": 0.9}, at=BEGIN + HOUR * number,
    )  # fmt: skip


def built(folder: Path, rounds: int, devices: int) -> Ed25519Seal:
    """Make the ledger of a server that has trained so many rounds, and return its seal."""
    key = Ed25519PrivateKey.generate()
    seal = Ed25519Seal(key)
    (folder / "receipts.pub").write_bytes(public_pem(key.public_key()))
    ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}", seal=seal, clock=lambda: BEGIN)
    for member in range(devices):
        ledger.enrol(f"device {member}", b"key %d" % member)
    for first in range(1, rounds + 1, AT_ONCE):  # in few transactions: a commit for each would take minutes
        with ledger._writing() as writing:
            for number in range(first, min(first + AT_ONCE, rounds + 1)):
                made = step(number, devices)
                steps.add(writing, made)
                writing.log("round", facts=steps.facts_of(made), rows=[("steps", number)])
    ledger.close()
    return seal


def measured(rounds: int, devices: int) -> dict[str, float]:
    """Return the processor seconds of each call on a ledger of so many rounds."""
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), dict[str, float]()
        seal = built(folder, rounds, devices)
        page = TestClient(make_page(folder, FEDERATION), base_url="http://127.0.0.1")
        for path in PAGES:
            page.get(path).raise_for_status()  # templates are compiled once
            found[path] = median(_seconds(lambda path=path: page.get(path).raise_for_status()) for _ in range(5))  # type: ignore[misc]
        ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}", seal=seal, clock=lambda: BEGIN)
        marks: list[Any] = []
        found["check, full"] = _seconds(lambda: marks.append(ledger.check_on(None)))
        ((wrong, mark),) = marks
        assert (wrong, mark is None) == ([], False)
        for number in range(rounds + 1, rounds + 25):
            ledger.add_step(step(number, devices))
        found["check, after 24 more rounds"] = _seconds(lambda: marks.append(ledger.check_on(mark)))
        assert marks[-1][0] == []
        ledger.close()
        return found


def _seconds(call: Callable[[], Any]) -> float:
    """Return the processor seconds that a call takes in this process."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


@click.command()
@click.option("--rounds", multiple=True, type=click.IntRange(min=1), default=(1_000, 10_000, 43_200), show_default=True)
@click.option("--devices", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="print as one JSON document, and nothing else")
def main(rounds: tuple[int, ...], devices: int, as_json: bool) -> None:
    """Print the processor milliseconds of each call, for each number of rounds."""
    found = {number: measured(number, devices) for number in rounds}
    if as_json:
        click.echo(json.dumps({str(number): values for number, values in found.items()}, indent=1))
        return
    click.echo(f"| processor ms | {' | '.join(f'{number:,} rounds' for number in rounds)} |")
    click.echo(f"|---|{'---:|' * len(rounds)}")
    for what in found[rounds[0]]:
        click.echo(f"| {what} | {' | '.join(f'{1000 * found[number][what]:.0f}' for number in rounds)} |")


if __name__ == "__main__":
    main()
