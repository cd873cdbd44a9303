"""The device that asked measures the recovered model on what it forgot, in a message that it gets anyway."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedquit.server.ledger import Event, Step
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

ASKER, SAMPLES = 1, 6
Change = Callable[[Message], None]


class Grid(KitGrid):
    """A grid that counts exchanges, and on which `change` may alter what the device that asked replies."""

    change: Change = staticmethod(lambda _reply: None)
    exchanges: list[list[str]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        sent = list(messages)
        self.exchanges.append([message.metadata.message_type for message in sent])
        asker = next(node for node, member in self._members.items() if member == ASKER)
        for reply in super().send_and_receive(sent, timeout=timeout):
            if reply.metadata.src_node_id == asker and reply.has_content():
                self.change(reply)
            yield reply


def older(reply: Message) -> None:
    """Have the device report what one of an older version does."""
    for record in reply.content.metric_records.values():
        for name in [name for name in record if name in ("forget-loss", "forget-accuracy")]:
            del record[name]


def liar(reply: Message) -> None:
    for record in reply.content.metric_records.values():
        if "forget-accuracy" in record:
            record["forget-accuracy"] = 7.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a deployment to be copied: one and the same request is made of each copy."""
    return rehearse(tmp_path_factory.mktemp("verification") / "made").folder


def served(
    made: Path, folder: Path, change: Change | None = None, **tables: dict[str, Any]
) -> tuple[Grid, Event, list[Step]]:
    """Have some samples of a device forgotten; return the grid, the event of the end, and the steps."""
    rehearsal = Rehearsal(shutil.copytree(made, folder))
    rehearsal.tell(tables)
    grid = Grid(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    grid.exchanges = []
    rehearsal.run(grid, rounds=1)
    grid.exchanges.clear()
    if change:
        grid.change = change
    rehearsal.ask(rehearsal.signed(ASKER, rehearsal.digests(ASKER)[:SAMPLES]))
    rehearsal.run(grid, rounds=1)
    return grid, *_end_of(rehearsal)


def _end_of(rehearsal: Rehearsal) -> tuple[Event, list[Step]]:
    with rehearsal.ledger() as ledger:
        assert ledger.check_chain() == []
        [done] = [event for event in ledger.events() if event.kind in ("done", "unrecovered")]
        return done, ledger.steps()


def test_a_device_verifies_in_the_message_that_evaluates_the_last_round(made: Path, tmp_path: Path) -> None:
    grid, done, _ = served(made, tmp_path / "now")
    assert [(kinds[0], len(kinds)) for kinds in grid.exchanges] == [
        ("evaluate", 3), ("train.forget", 1), ("evaluate", 3), ("train", 4), ("evaluate", 4),
    ]  # fmt: skip
    assert {"forget_loss", "forget_accuracy", "accuracy"} <= done.facts["measures"]["after"].keys()


def test_a_device_of_an_older_version_is_asked_apart_and_all_is_the_same(made: Path, tmp_path: Path) -> None:
    _, done, steps = served(made, tmp_path / "now")
    older_grid, older_done, older_steps = served(made, tmp_path / "older", _only_together(older))
    assert older_grid.exchanges[-1] == ["evaluate"]
    assert older_done.facts["measures"] == done.facts["measures"]
    assert [step.model_after for step in older_steps] == [step.model_after for step in steps]


def test_a_share_that_cannot_be_is_refused_and_no_receipt_holds_it(made: Path, tmp_path: Path) -> None:
    grid, done, _ = served(made, tmp_path / "liar", _only_together(liar))
    assert grid.exchanges[-1] == ["evaluate"]
    assert 0 <= done.facts["measures"]["after"]["forget_accuracy"] <= 1


@pytest.mark.parametrize("tables", [{"forgetting": {"verify-on-device": False}}, {"trusted": {"data": "trusted.npz"}}])
def test_it_is_asked_only_if_wanted_and_apart_where_devices_do_not_evaluate(
    made: Path, tmp_path: Path, tables: dict[str, dict[str, Any]]
) -> None:
    grid, done, _ = served(made, tmp_path / "it", None, **tables)
    wanted = "trusted" in tables
    assert ("forget_accuracy" in done.facts["measures"]["after"]) == wanted
    assert (grid.exchanges[-1] == ["evaluate"]) == wanted


def _only_together(change: Change) -> Change:
    """Change replies that report of both what is kept and what was forgotten."""

    def changed(reply: Message) -> None:
        if any({"accuracy", "forget-accuracy"} <= record.keys() for record in reply.content.metric_records.values()):
            change(reply)

    return changed
