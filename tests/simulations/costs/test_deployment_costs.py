"""`fedquit costs` of a deployment: what it says is what the rows and the ledger say."""

import csv
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedquit.server.ledger import Ledger
from fedquit.strategies.cost_log.cost_rows import Row, read_rows
from tests.harness.rehearsal import Rehearsal, rehearse

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """Two rounds, device 1 leaves, a third round, and a class goes."""
    made = rehearse(tmp_path_factory.mktemp("costs") / "made", {"forgetting": {"recover-rounds": 2}}, samples=120)
    made.run(made.grid(), rounds=2)
    made.ask(made.signed(1))
    made.run(made.grid(), rounds=3)
    made.ask_for_class(3)
    made.run(made.grid(), rounds=4)
    return made


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "costs")


def rows(rehearsal: Rehearsal) -> list[Row]:
    return list(read_rows(rehearsal.server / "costs.csv"))


def steps(rehearsal: Rehearsal) -> list[Any]:
    ledger = Ledger.open(f"sqlite:///{rehearsal.server / 'ledger.db'}", write=False)
    try:
        return list(ledger.steps())
    finally:
        ledger.close()


def test_sums_of_a_deployment_are_those_of_its_rows_and_steps(run: Run, rehearsal: Rehearsal) -> None:
    code, out, err = run(rehearsal.server, "--json")
    assert code == 0, err
    found, taken = json.loads(out), steps(rehearsal)
    for phase in ("train", "forget", "recover"):
        own, told = [step for step in taken if step.phase == phase], found["phases"][phase]
        assert told["rounds"] == len(own)
        assert told["seconds"] == pytest.approx(sum(step.seconds for step in own))
        assert told["payload_bytes"] == sum(row.payload_bytes for row in rows(rehearsal) if row.phase == phase)
    assert {node["name"] for node in found["nodes"]} >= {"north", "east", "south"}


def test_a_requests_cost_is_all_its_steps_sent_without_other_training(run: Run, rehearsal: Rehearsal) -> None:
    found = json.loads(run(rehearsal.server, "--json")[1])
    taken = steps(rehearsal)
    gone: set[int] = set()
    assert len(found["requests"]) == 2
    for request, leaves in zip(found["requests"], ({1}, set()), strict=True):
        gone |= leaves
        own = {step.number for step in taken if step.request == request["id"]}
        spent = sum(row.wire_bytes for row in rows(rehearsal) if row.round in own)
        before = [
            row for row in rows(rehearsal) if row.phase == "train" and row.round < min(own) and row.node not in gone
        ]
        assert request["cost"]["wire_bytes"] == spent
        times = request["retraining_costs_times"]
        assert times["wire_bytes"] == pytest.approx(sum(row.wire_bytes for row in before) / spent)
        assert times["rounds"] == len({row.round for row in before}) / len(own)
        assert times["deduplicated_bytes"] is None


def test_the_table_names_the_requests_and_leaves_no_file_at_the_server(
    run: Run, rehearsal: Rehearsal, tmp_path: Path
) -> None:
    before = sorted(rehearsal.server.rglob("*"))
    code, out, _ = run(rehearsal.server)
    assert code == 0
    assert "forget" in out
    assert f"request {steps(rehearsal)[2].request[:12]} (fedquit): " in " ".join(out.split())
    assert sorted(rehearsal.server.rglob("*")) == before
    assert run(rehearsal.server, "--figures", tmp_path / "figures")[0] == 0
    assert [file.name for file in (tmp_path / "figures").iterdir()] == ["bytes.png"]


def test_a_line_that_is_being_written_is_not_read(run: Run, rehearsal: Rehearsal, tmp_path: Path) -> None:
    server = shutil.copytree(rehearsal.server, tmp_path / "server")
    with (server / "costs.csv").open("ab") as file:
        file.write(b"train,9,0,do")
    assert run(server, "--csv", tmp_path / "rows.csv")[0] == 0
    with (tmp_path / "rows.csv").open() as copied:
        assert len(list(csv.reader(copied))) == 1 + len(rows(rehearsal))


def test_a_server_that_has_trained_nothing_says_so(run: Run, tmp_path: Path) -> None:
    made = rehearse(tmp_path / "made", {})
    code, _, err = run(made.server)
    assert code == 4
    assert err.strip().endswith("has no cost log: no round has begun")
