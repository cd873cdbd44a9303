"""The account itself: exact sums, rows that survive, and memory that does not grow."""

import random
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from fedquit.errors import InputError
from fedquit.strategies.cost_log.cost_log import MOST_TAIL, Costs, Traffic
from fedquit.strategies.cost_log.cost_rows import HEADER, Direction, Row, read_rows
from fedquit.strategies.cost_log.flower_objects import Part
from fedquit.strategies.cost_log.message_size import MessageSize


def wire(fixed: int, objects: dict[int, int]) -> MessageSize:
    return MessageSize(fixed, (Part(tuple(objects), tuple(objects.values())),))


def fill(costs: Costs, rounds: range, nodes: int = 4, phase: str = "train") -> None:
    """Account rounds in which every node gets the same model and returns its own."""
    for number in rounds:
        for node in range(nodes):
            costs.record(Row(phase, number, node, "down", 100, 0, 0), wire(20, {1: 90, 2: 7}))
        for node in range(nodes):
            row = Row(phase, number, node, "up", 100 + node, 0, 0, 0.5, 0.25)
            costs.record(row, wire(20, {10 + node: 90, 2: 7}))
        costs.settle()


def test_rows_sum_exactly_to_the_totals_however_large(tmp_path: Path) -> None:
    costs, seen = Costs(tmp_path / "costs.csv"), Counter[tuple[str, Direction]]()
    generator = random.Random(5)
    for number in range(50):
        way: Direction = generator.choice(("down", "up"))
        size = generator.randrange(2**60)
        costs.record(
            Row("train", number, generator.randrange(9), way, size, 0, 0), wire(generator.randrange(2**40), {})
        )
        seen["train", way] += size
        costs.settle()
    rows = list(read_rows(tmp_path / "costs.csv"))
    assert costs.of("train") == Traffic(seen["train", "down"], seen["train", "up"])
    for (phase, way), total in costs.totals.items():
        mine = [row for row in rows if (row.phase, row.direction) == (phase, way)]
        for name in ("payload_bytes", "wire_bytes", "deduplicated_bytes"):
            assert getattr(total, name) == sum(getattr(row, name) for row in mine)
        assert total.messages == len(mine)


def test_objects_of_an_exchange_are_counted_once_and_again_in_the_next(tmp_path: Path) -> None:
    costs = Costs(tmp_path / "costs.csv")
    fill(costs, range(1, 3), nodes=3)
    rows = [
        (r.round, r.direction, r.node, r.wire_bytes, r.deduplicated_bytes) for r in read_rows(tmp_path / "costs.csv")
    ]
    for number in (1, 2):
        assert rows[6 * (number - 1) : 6 * number] == [
            (number, "down", 0, 117, 117), (number, "down", 1, 117, 20), (number, "down", 2, 117, 20),
            (number, "up", 0, 117, 117), (number, "up", 1, 117, 110), (number, "up", 2, 117, 110),
        ]  # fmt: skip


def test_the_order_of_arrival_changes_no_row(tmp_path: Path) -> None:
    files = []
    for seed in range(4):
        costs, nodes = Costs(tmp_path / f"{seed}.csv"), list(range(9))
        random.Random(seed).shuffle(nodes)
        for node in nodes:
            costs.record(Row("train", 1, node, "up", node, 0, 0), wire(5, {100 + node // 3: 50, 7: 3}))
        costs.settle()
        files.append((tmp_path / f"{seed}.csv").read_bytes())
    assert len(set(files)) == 1, files


def test_a_reopened_cost_log_continues_its_sums(tmp_path: Path) -> None:
    whole, parts = Costs(tmp_path / "whole.csv"), tmp_path / "parts.csv"
    fill(whole, range(1, 5))
    for number in range(1, 5):
        again = Costs(parts)
        fill(again, range(number, number + 1))
        again.sync()
    assert parts.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert Costs(parts).totals == whole.totals
    assert Costs(parts).of("train", 4) == whole.of("train", 4) == Traffic(400, 406)
    assert parts.read_bytes().count(HEADER) == 1


def test_a_reader_sees_what_is_within_the_size_and_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "costs.csv"
    costs = Costs(path)
    fill(costs, range(1, 2))
    size = costs.sync().size
    fill(costs, range(2, 3))
    assert {row.round for row in read_rows(path, size)} == {1}
    assert len(list(read_rows(path, size - 1))) == 7
    assert list(read_rows(path, 0)) == list(read_rows(tmp_path / "none.csv")) == []


@pytest.mark.parametrize("line", ["train,1,0,up,1,1,1,0.0,0.0", "train,1,0,sideways,1,1,1,0,0\n", "train,x\n", "\n"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "costs.csv").write_bytes(HEADER + line.encode())
    with pytest.raises(InputError, match=r"costs\.csv, line 2: no row"):
        list(read_rows(tmp_path / "costs.csv"))


def test_a_checkpoint_holds_the_rows_that_were_not_flushed_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr("os.fsync", lambda _file: flushed.append((tmp_path / "costs.csv").stat().st_size))
    (tmp_path / "costs.csv").touch()
    costs = Costs(tmp_path / "costs.csv")
    for number in range(1, 200):
        fill(costs, range(number, number + 1))
        kept, content = costs.sync(), (tmp_path / "costs.csv").read_bytes()
        assert kept.size == len(content)
        assert content == content[: flushed[-1]] + kept.tail.encode(), "on the disk, or in the checkpoint"
        assert len(kept.tail) <= MOST_TAIL
    assert 2 <= len(flushed) <= 10


def test_rounds_that_are_over_are_in_the_rows_alone() -> None:
    costs = Costs()
    fill(costs, range(1, 3))
    fill(costs, range(2, 3), phase="forget")
    assert costs.of("train", 2) == costs.of("forget", 2) == Traffic(400, 406)
    assert costs.of("train", 3) == costs.of("recover") == Traffic()
    with pytest.raises(LookupError, match="train round 1 is over"):
        costs.of("train", 1)


def test_more_rounds_take_no_more_memory(tmp_path: Path) -> None:
    costs = Costs(tmp_path / "costs.csv")
    fill(costs, range(1, 3), nodes=50)
    tracemalloc.start()
    held = []
    for start in (3, 13, 23):
        fill(costs, range(start, start + 10), nodes=50)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[2] - held[1] < 1024, held
