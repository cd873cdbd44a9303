"""`fedquit costs`: what it says is what the rows say, in every format."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pyarrow import parquet

from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import Round, State
from fedquit.settings import Settings
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import Row, read_rows
from fedquit.strategies.cost_log.flower_objects import Part
from fedquit.strategies.cost_log.message_size import MessageSize

Run = Callable[..., tuple[int, str, str]]
PHASES = {"train": (3, (0, 1, 2)), "forget": (1, (0,)), "recover": (1, (1, 2)), "retrain": (3, (1, 2))}
WIRE = MessageSize(100, (Part((1,), (900,)),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run by hand: every message has a payload of 800 bytes, and 1000 on the wire, 900 of them the same for all."""
    opened = RunFolder.create(tmp_path / "run", Settings.read({"clients": 3}))
    costs, rounds = Costs(opened.costs_file), []
    for phase, (count, nodes) in PHASES.items():
        for number in range(1, count + 1):
            for node in nodes:
                costs.record(Row(phase, number, node, "down", 800, 0, 0), WIRE)
                costs.record(Row(phase, number, node, "up", 800, 0, 0, 0.5, 0.25), WIRE)
            costs.settle()
            size = 800 * len(nodes)
            rounds.append(Round(phase, number, 1, nodes, 0, 0.5, 2.0, 0.25 * len(nodes), {}, size, size))
    opened.save_state(State(rounds=tuple(rounds), costs_size=costs.sync().size))
    costs.record(Row("later", 1, 0, "down", 1, 0, 0), WIRE)
    costs.settle()
    opened.release()
    return tmp_path / "run"


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "costs")


def costs(run: Run, *arguments: object) -> dict[str, Any]:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_sums_of_phases_rounds_and_nodes_are_those_of_the_rows(run: Run, folder: Path) -> None:
    found = costs(run, folder)
    assert list(found["phases"]) == list(PHASES), "and nothing after the checkpoint"
    for phase, (count, nodes) in PHASES.items():
        messages, cost = 2 * count * len(nodes), found["phases"][phase]
        assert (cost["messages"], cost["payload_bytes"], cost["wire_bytes"]) == (
            messages,
            800 * messages,
            1000 * messages,
        )
        assert cost["deduplicated_bytes"] == 100 * messages + 2 * 900 * count
        assert (cost["rounds"], cost["seconds"], cost["device_seconds"]) == (count, 2.0 * count, 0.125 * messages)
    for kind in ("payload_bytes", "wire_bytes", "deduplicated_bytes"):
        by_round = sum(each[f"{kind}_{way}"] for each in found["rounds"] for way in ("down", "up"))
        assert by_round == sum(cost[kind] for cost in found["phases"].values())
    by_node = {each["node"]: each["wire_bytes"] for each in found["nodes"]}
    assert by_node[0] == {"train": 6000, "forget": 2000}
    assert by_node[1] == {"train": 6000, "recover": 2000, "retrain": 6000}
    assert found["incomplete"] == []


def test_the_papers_factor_is_retraining_over_forgetting_and_recovery(run: Run, folder: Path) -> None:
    (request,) = costs(run, folder)["requests"]
    assert request["cost"]["wire_bytes"] == 6000
    assert request["retraining_costs_times"]["wire_bytes"] == 2.0
    assert request["retraining_costs_times"]["rounds"] == 1.5


def test_a_link_makes_seconds_of_the_busiest_node_and_energy_is_that_of_all(run: Run, folder: Path) -> None:
    priced = costs(run, folder, "--link", 0.016, "--energy", 0.01)["phases"]["train"]
    assert priced["link_seconds"] == pytest.approx(3 * 1.0)
    assert priced["one_link_seconds"] == pytest.approx(9 * 1.0)
    assert priced["joules"] == pytest.approx(180.0)
    assert costs(run, folder)["phases"]["train"]["link_seconds"] is None


def test_csv_and_parquet_hold_every_row_of_the_checkpoint_and_its_run(run: Run, folder: Path, tmp_path: Path) -> None:
    code, _, _ = run(folder, "--csv", tmp_path / "a.csv", "--parquet", tmp_path / "a.parquet", "--json")
    assert code == 0
    rows = [row for row in read_rows(folder / "costs.csv") if row.phase != "later"]
    with (tmp_path / "a.csv").open() as file:
        written = list(csv.DictReader(file))
    expected = [{"run": "run", **row._asdict()} for row in rows]
    assert written == [{key: str(value) for key, value in row.items()} for row in expected]
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == expected
    assert not list(tmp_path.glob(".*.partial"))


def test_prometheus_text_has_the_sums_and_nothing_else(run: Run, folder: Path) -> None:
    code, out, _ = run(folder, "--prometheus")
    assert code == 0
    read = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(out)
        for sample in family.samples
    }
    phases = costs(run, folder)["phases"]
    for phase, cost in phases.items():
        for way in ("down", "up"):
            for kind in ("payload", "wire", "deduplicated"):
                assert read["fedquit_bytes_total", "run", phase, way, kind] == cost[f"{kind}_bytes_{way}"]
        for name in ("messages", "rounds", "device_seconds"):
            assert read[f"fedquit_{name}_total", "run", phase] == cost[name]
    assert len(read) == len(phases) * 9
    lines = out.splitlines()
    assert 'fedquit_bytes_total{run="run",phase="retrain",direction="up",kind="wire"} 6000' in lines
    assert 'fedquit_messages_total{run="run",phase="forget"} 2' in lines
    assert all(line.startswith(("# HELP ", "# TYPE ", "fedquit_")) for line in lines)


def test_people_get_a_table_and_figures(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = run(folder, "--figures", tmp_path / "new" / "figures", "--link", 10)
    assert code == 0
    for word in ("train", "retrain", "deduplicated", "Cost of retraining, as a multiple of", "10 Mbit/s"):
        assert word in " ".join(out.split())
    for name in ("bytes.png", "bytes-cumulative.png"):
        assert (tmp_path / "new" / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_rows_that_do_not_sum_to_the_rounds_are_reported(run: Run, folder: Path) -> None:
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(text.replace('"bytes_down": 1600', '"bytes_down": 1601', 1))
    assert costs(run, folder)["incomplete"] == ["recover"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "is not the folder of a run"),
        (["{run}", "--json", "--prometheus"], "exclude each other"),
        (["{run}", "--csv", "{run}/costs.csv"], "is the cost log itself"),
        (["{run}", "--link", "0"], "--link"),
        (["{bare}"], "has no cost log"),
    ],
)
def test_a_mistake_gets_one_line_and_harms_nothing(
    run: Run, folder: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    RunFolder.create(tmp_path / "bare", Settings.read({"clients": 3})).release()
    before = (folder / "costs.csv").read_bytes()
    code, _, err = run(*(part.format(run=folder, bare=tmp_path / "bare") for part in arguments))
    assert code == 4
    assert said in err
    assert (folder / "costs.csv").read_bytes() == before
