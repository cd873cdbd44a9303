"""One lying device of four, in ordinary rounds of a rehearsed deployment: what it can do, and who notices."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord

from fedquit.server.ledger import Event, Step
from tests.harness.poison import ATTACKS, LIAR, Lie, LyingGrid, Model, World, prepare, row_of, table_of
from tests.harness.rehearsal import Rehearsal

Copy = Callable[..., World]
NO_LIMITS = {"weight-cap": 0.0, "clip-steps": 0.0}
WRECK = "the whole model times -8"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("attack") / "made", trusted=True, rounds=4, samples=400).rehearsal.folder


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Copy:
    """Copy the trained deployment, with or without its validation set, and change its server.toml."""

    def copied(*, trusted: bool = True, **tables: dict[str, Any]) -> World:
        world = World(Rehearsal(shutil.copytree(prepared, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}")))
        training = {"model": "tests.harness.poison:normalised", "lr": 0.05, **tables.pop("training", {})}
        told = {"trusted": {"data": "trusted.npz"}} if trusted else {}
        world.rehearsal.tell({**told, "training": training, **tables})
        return world

    return copied


def steps(world: World) -> list[Step]:
    with world.rehearsal.ledger() as ledger:
        assert ledger.check_chain() == []
        return ledger.steps()


def events(world: World, *kinds: str) -> list[Event]:
    with world.rehearsal.ledger() as ledger:
        return [event for event in ledger.events() if event.kind in kinds]


def members(step: Step) -> list[int]:
    return [given.member for given in step.contributions]


@pytest.mark.parametrize("attack", ["variances of -50", "its step turned round, for 10^9 samples", WRECK])
@pytest.mark.parametrize("trusted", [True, False])
def test_one_lie_in_one_round_costs_little_accuracy_and_its_sender_is_named(
    copy: Copy, attack: str, trusted: bool
) -> None:
    world = copy(trusted=trusted)
    before = world.worth()[0]
    world.carry_on(ATTACKS[attack], 1)
    assert len(steps(world)) == 5
    assert world.worth()[0] > before - 0.1
    assert world.named()


def test_a_negative_variance_never_reaches_the_model(copy: Copy) -> None:
    world = copy(trusted=False)
    world.carry_on(ATTACKS["variances of -50"], 2)
    assert [members(step) for step in steps(world)[4:]] == [[0, 1, 2], [0, 1, 2]]
    [first, _] = events(world, "reply-refused")
    assert "running_var" in first.facts["reason"]


def test_a_device_that_ruins_a_round_is_excluded_for_a_time_across_restarts(copy: Copy) -> None:
    world = copy(training=NO_LIMITS, schedule={"exclude-rounds": 2})
    before = world.worth()[0]
    world.carry_on(ATTACKS[WRECK], 1)
    assert world.worth()[0] > before - 0.1
    for _ in range(4):  # each time another coordinator
        world.carry_on(None, 1)
    assert [members(step) for step in steps(world)[4:]] == [[0, 1, 2]] * 3 + [[0, 1, 2, 3]] * 2
    assert [step.refused for step in steps(world)[4:]] == [1, 0, 0, 0, 0]
    [event] = events(world, "reply-left-out")
    assert (event.member, "accuracy falls to" in event.facts["reason"]) == (LIAR, True)


def test_a_round_that_identified_a_bad_device_equals_one_without_it(copy: Copy) -> None:
    attacked, without = copy(training=NO_LIMITS), copy(training=NO_LIMITS)
    attacked.carry_on(ATTACKS[WRECK], 1)
    grid = LyingGrid(
        without.rehearsal.kits(), without.rehearsal.federation.settings().run_config(), "fedquit.client.app:app"
    )
    grid.away = {LIAR}
    without.rehearsal.run(grid, rounds=5)
    assert steps(attacked)[-1].model_after == steps(without)[-1].model_after


class Killed(BaseException):
    """The coordinator is killed here."""


@pytest.mark.parametrize("point", ["train: replies", "train: model written", "train: committed"])
def test_killed_while_a_bad_device_is_identified_it_ends_with_the_same_model(copy: Copy, point: str) -> None:
    def carried_on(world: World, reached: Callable[[str], None]) -> None:
        grid = LyingGrid(
            world.rehearsal.kits(), world.rehearsal.federation.settings().run_config(), "fedquit.client.app:app"
        )
        grid.lie = world.lied(ATTACKS[WRECK])
        world.rehearsal.run(grid, rounds=6, reached=reached)

    def kill(at: str) -> None:
        if at == point:
            raise Killed

    undisturbed, killed = copy(training=NO_LIMITS), copy(training=NO_LIMITS)
    carried_on(undisturbed, lambda _at: None)
    with pytest.raises(Killed):
        carried_on(killed, kill)
    carried_on(killed, lambda _at: None)
    assert [(s.model_after, members(s)) for s in steps(killed)] == [
        (s.model_after, members(s)) for s in steps(undisturbed)
    ]
    assert members(steps(killed)[-1]) == [0, 1, 2]
    assert not (killed.rehearsal.server / "replies").exists()


def test_excluding_a_bad_device_never_leaves_too_few_to_train(copy: Copy) -> None:
    world = copy(training=NO_LIMITS, schedule={"min-clients": 4})
    before = world.worth()[0]
    world.carry_on(ATTACKS[WRECK], 3)
    assert [members(step) for step in steps(world)[4:]] == [[0, 1, 2]] * 3
    assert world.worth()[0] > before - 0.1


def test_a_failure_that_no_single_reply_explains_adopts_nothing(copy: Copy) -> None:
    world = copy(training=NO_LIMITS)
    everyone = LyingGrid.send_and_receive
    lie = world.lied(ATTACKS[WRECK])

    class All(LyingGrid):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterator[Message]:
            for message in list(messages):
                for reply in everyone(self, [message], timeout=timeout):
                    yield lie(message, reply) if message.metadata.message_type == "train" else reply

    model, rehearsal = steps(world)[-1].model_after, world.rehearsal
    rehearsal.run(
        All(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app"), rounds=5
    )
    step = steps(world)[-1]
    assert (step.number, step.model_after, step.round, step.refused, members(step)) == (5, model, 4, 4, [])
    assert len(events(world, "round-not-adopted")) == 1
    assert {event.member for event in events(world, "reply-left-out")} == {0, 1, 2, 3}
    world.carry_on(None, 1)
    assert (steps(world)[-1].round, members(steps(world)[-1])) == (5, [0, 1, 2, 3])


def test_the_usual_step_is_read_from_the_ledger_so_restarts_change_no_bit(copy: Copy) -> None:
    once, again = copy(), copy()
    once.carry_on(ATTACKS[WRECK], 3)
    for _ in range(3):
        again.carry_on(ATTACKS[WRECK], 1)
    assert [step.model_after for step in steps(once)] == [step.model_after for step in steps(again)]
    assert all(step.measures["usual_step"] > 0 for step in steps(once))


def test_processor_seconds_that_cannot_be_never_reach_the_ledger(copy: Copy) -> None:
    world = copy()

    def lie(_message: Message, reply: Message) -> Message:
        metrics = reply.content.metric_records["metrics"]
        reply.content["metrics"] = MetricRecord({**metrics, "cpu-seconds": 1e90})
        return reply

    rehearsal = world.rehearsal
    grid = LyingGrid(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    grid.lie = lie
    rehearsal.run(grid, rounds=5)
    step = steps(world)[-1]
    assert (members(step), step.device_seconds < 1e5) == ([0, 1, 2, 3], True)
    [event] = events(world, "reply-bounded")
    assert (event.member, event.facts["what"]) == (LIAR, "cpu-seconds")


def test_a_lie_about_numbers_of_samples_is_in_no_step_of_the_ledger(copy: Copy) -> None:
    world = copy()
    world.carry_on(ATTACKS["its step turned round, for 10^9 samples"], 2)
    counts = [{given.member: given.num_examples for given in step.contributions} for step in steps(world)]
    assert [count.get(LIAR) for count in counts[3:]] == [100, 200, 200]


def test_the_table_of_attacks_is_made_of_what_was_measured(prepared: Path, tmp_path: Path) -> None:
    row = row_of(prepared, tmp_path, "variances of -50", 1)
    assert row.named
    assert all(0.5 < accuracy <= 1 for accuracy, _ in (row.once, row.later, row.always))
    assert table_of([row], 1)[-1].startswith("| variances of -50 | ")


def test_attacks_are_what_they_say() -> None:
    world = World(Rehearsal(Path()))
    sent: Model = {"w": np.zeros(2, np.float32)}
    lie = Lie(world, sent, {"w": np.ones(2, np.float32)})
    lie.names = ["w"]
    assert lie.times(-8)["w"].tolist() == [-8, -8]
    assert np.linalg.norm(lie.noise(10)["w"]) == pytest.approx(10 * 2**0.5)
