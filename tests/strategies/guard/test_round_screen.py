"""What one reply can do to a round: no more than its share, whatever it says, and who ruins a round is found."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.guard.client_weights import HALF, believed, capped
from fedquit.strategies.guard.round_screen import LEFT_OUT, WORK, Limits, Screen, Verdict
from fedquit.strategies.rounds.reply import Made, Reply
from fedquit.strategies.rounds.train import Train

Connect = Callable[..., MeteredGrid]
Arrays = dict[str, NDArray[np.float32]]
Round = Callable[..., tuple[Train, Arrays, dict[int, str]]]

START: Arrays = {"w": np.zeros(4, dtype=np.float32)}
STEPS = {client: np.eye(4, dtype=np.float32)[client] for client in range(4)}
LIAR = 3


class Backwards(InProcessGrid):
    """A grid on which the last one asked answers first."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        yield from reversed(list(super().send_and_receive(messages, timeout=timeout)))


@pytest.fixture
def carried_out(connect: Connect, reply_with: Any, tmp_path: Path) -> Round:
    """Carry out a round of four clients that each move one weight by 1; `lies`: client -> other step, other count."""

    def round_(
        lies: dict[int, tuple[Any, int]] | None = None,
        without: tuple[int, ...] = (),
        engine: Any = InProcessGrid,
        **how: Any,
    ) -> tuple[Train, Arrays, dict[int, str]]:
        def answer(client: int, _message: Message) -> RecordDict:
            step, count = (lies or {}).get(client, (STEPS[client], 10))
            return RecordDict(reply_with({"w": (START["w"] + step).astype(np.float32)}, count))

        grid = connect(answer, sizes=(10,) * 4, engine=engine)
        grid.begin("train", 1, excluded=without)
        told: dict[int, str] = {}
        limits = Limits(tmp_path / "replies", **{"weight_cap": 2.0, "clip": 1.5, **how})
        strategy = Train(
            grid,
            seed=0,
            on_reply=lambda client, why: told.update({client: why} if why else {}),
            parameters=frozenset({"w"}),
            screen=lambda sent: Screen(limits, sent, {"w"}),
        )
        new, _ = strategy.round(1, START, {"lr": 0.1})
        assert not (tmp_path / "replies").exists()
        return strategy, {name: np.asarray(array) for name, array in new.items()}, told

    return round_


def floor(least: float, bad: NDArray[np.float32]) -> Callable[[Any], Verdict]:
    """Say of a model that it falls the more, the further it goes along `bad`."""

    def look(arrays: Any) -> Verdict:
        score = -float(arrays["w"] @ bad)
        return Verdict("accuracy falls" if score < least else "", score)

    return look


def test_with_no_lie_a_screened_round_is_the_plain_mean(carried_out: Round) -> None:
    strategy, new, told = carried_out()
    assert new["w"].tolist() == [0.25] * 4
    assert told == {}
    assert strategy.settled is not None
    assert strategy.settled.measures == {"usual_step": 1.0}


@pytest.mark.parametrize("length", [2.0, 4.9])
def test_one_reply_moves_the_mean_no_further_than_its_share_of_a_usual_step(carried_out: Round, length: float) -> None:
    _, new, _ = carried_out({LIAR: (-length * np.ones(4), 10)})
    _, honest, _ = carried_out(without=(LIAR,))
    assert np.linalg.norm(new["w"] - 0.75 * honest["w"]) <= 1.5 / 4 * 1.001


def test_a_step_ten_times_as_long_as_the_model_is_refused_not_shortened(carried_out: Round) -> None:
    _, new, told = carried_out({LIAR: (np.full(4, 1e6), 10)})
    _, honest, _ = carried_out(without=(LIAR,))
    assert new["w"].tobytes() == honest["w"].tobytes()
    assert told[LIAR].startswith("its step is 2e+06 long, and the model 0: at most 10 times")


def test_a_claim_of_a_billion_samples_weighs_half_a_round_and_is_logged(carried_out: Round) -> None:
    bounded: list[tuple[int, str]] = []
    how: dict[str, Any] = {"on_bounded": lambda client, facts: bounded.append((client, facts["what"]))}
    _, new, _ = carried_out({LIAR: (STEPS[LIAR], 10**9)}, **how)
    assert new["w"][LIAR] <= 0.5
    assert bounded == [(LIAR, "num-examples")]
    _, new, _ = carried_out({LIAR: (STEPS[LIAR], 10**9)}, before=dict.fromkeys(range(4), 10), **how)
    assert new["w"][LIAR] == pytest.approx(20 / 50)


def test_a_single_bad_device_is_found_and_the_round_equals_one_without_it(carried_out: Round) -> None:
    look = floor(-0.3, np.array([-1, -1, -1, 9], np.float32))
    strategy, new, told = carried_out(look=look)
    assert strategy.settled is not None
    assert strategy.settled.found == LIAR
    assert set(told) == {LIAR}
    assert told[LIAR] == f"{LEFT_OUT}with it accuracy falls"
    expected, without, _ = carried_out(without=(LIAR,), look=look)
    assert new["w"].tobytes() == without["w"].tobytes()
    assert expected.settled is not None
    assert strategy.settled.measures == expected.settled.measures


def test_where_several_could_be_to_blame_one_is_left_out_and_none_found(carried_out: Round) -> None:
    look = floor(-0.49, np.array([0, 0, 1, 1], np.float32))
    strategy, new, told = carried_out(look=look)
    assert strategy.settled is not None
    assert (strategy.settled.found, set(told)) == (None, {2})
    assert new["w"][2] == 0


@settings(max_examples=50)
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=3, max_size=3),
    st.lists(st.floats(-9, 9), min_size=3, max_size=3),
)
def test_no_lie_has_an_honest_client_found_where_the_honest_make_a_good_round(
    steps: list[list[float]], lie: list[float]
) -> None:
    import tempfile

    from fedquit.strategies.rounds.aggregate import Mean
    from fedquit.strategies.rounds.reply import Made, Reply

    start = {"w": np.zeros(3)}
    models = {client: np.array(step) for client, step in enumerate([*steps, lie])}
    honest = np.mean([models[client] for client in range(3)], axis=0)

    def make(replies: Iterable[Reply], _told: Any) -> Made:
        mean, used = Mean(), []
        for reply in replies:
            mean.add(reply.client, reply.arrays, reply.weight, {})
            used.append(reply.client)
        return Made(mean.result()[0], None, tuple(used), 0.0, 1, 0.0)

    def look(arrays: Any) -> Verdict:  # the round of the honest alone passes, and little else
        far = float(np.abs(arrays["w"] - honest).max())
        return Verdict("too far" if far > 0.05 else "", -far)

    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(Path(folder) / "replies", weight_cap=2.0, look=look)
        with Screen(limits, start, {"w"}) as screen:
            replies = [Reply(client, {"w": model}, 10, {}) for client, model in models.items()]
            settled = screen.settle(replies, make, 1, lambda _client, _why: None)
    assert settled.found in (None, LIAR)
    assert settled.made is not None


def test_a_bad_round_that_no_single_reply_explains_is_not_adopted(carried_out: Round) -> None:
    strategy, new, told = carried_out(look=floor(0.5, np.ones(4, np.float32)))
    assert new["w"].tobytes() == START["w"].tobytes()
    assert set(told) == {0, 1, 2, 3}
    assert strategy.settled is not None
    assert strategy.settled.made is None


def test_the_order_of_arrival_changes_nothing_in_a_screened_round(carried_out: Round) -> None:
    lies: dict[int, tuple[Any, int]] = {1: (np.array([0.1, 0.7, -3, 0.2]), 77), LIAR: (np.full(4, 1 / 3), 10**9)}
    look = floor(-0.2, np.array([0, 0, -1, 1], np.float32))
    results = [carried_out(lies, engine=engine, look=look) for engine in (InProcessGrid, Backwards)]
    assert results[0][1]["w"].tobytes() == results[1][1]["w"].tobytes()
    assert results[0][2] == results[1][2]


def test_what_was_usual_bounds_a_step_where_too_few_reply_to_tell(carried_out: Round) -> None:
    _, new, _ = carried_out({LIAR: (np.array([0, 0, 0, 9]), 10)}, without=(0, 1, 2), usual={"step": [1.0, 2.0, 1.0]})
    assert new["w"].tolist() == [0, 0, 0, 1.5]


def test_with_many_clients_only_those_that_move_the_mean_most_are_tried(tmp_path: Path) -> None:
    from fedquit.strategies.rounds.reply import Made, Reply

    reads = 0

    def make(replies: Iterable[Reply], _told: Any) -> Made:
        nonlocal reads
        used = []
        for reply in replies:
            reads += 1
            used.append(reply.client)
        return Made({"w": np.zeros(1)}, None, tuple(used), 0.0, 1, 0.0)

    with Screen(Limits(tmp_path / "r", look=lambda _a: Verdict("bad")), {"w": np.zeros(1)}, {"w"}) as screen:
        replies = [Reply(client, {"w": np.array([float(client)])}, 1, {}) for client in range(200)]
        assert screen.settle(replies, make, 1, lambda _c, _w: None).made is None
    assert reads <= WORK + 200


@given(st.dictionaries(st.integers(0, 30), st.integers(1, 10**9), min_size=1), st.floats(1, 10))
def test_no_client_has_more_than_its_share_and_the_others_keep_theirs(counts: dict[int, int], factor: float) -> None:
    weights, n = capped(counts, factor), len(counts)
    share = min(HALF, factor / n) if n > 1 else 1.0
    largest, smallest = max(weights.values()), min(weights.values())
    assert all(1 <= weights[client] <= counts[client] for client in counts)
    assert largest <= share * sum(weights.values()) + n or largest == smallest
    assert len({weights[client] for client in counts if weights[client] < counts[client]}) <= 1
    assert capped(counts, 0) == counts


def test_a_client_is_believed_as_much_as_it_showed_and_as_the_others_have() -> None:
    assert believed({0: 500}, {}) == {0: 500}
    assert believed({0: 500}, {0: 100}) == {0: 200}
    assert believed({0: 500, 1: 10, 2: 20}, {0: 500}) == {0: 150, 1: 10, 2: 20}


def test_an_excluded_device_does_not_affect_the_others_sample_counts(tmp_path: Path) -> None:
    def counted(said: dict[int, int]) -> dict[int, int]:
        """Return how many samples those count for that are in a round which the liar ruins."""

        def make(replies: Iterable[Reply], _on_reply: Any) -> Made:
            counts = {reply.client: reply.num_examples for reply in replies}
            return Made({"w": np.array(LIAR in counts)}, None, tuple(counts), 0.0, 1, 0.0)

        limits = Limits(tmp_path / "replies", 3.0, look=lambda arrays: Verdict("useless" if arrays["w"] else ""))
        with Screen(limits, START, {"w"}) as screen:
            made = screen.settle([Reply(c, START, n, {}) for c, n in said.items()], make, 1, lambda *_: None).made
            assert made is not None
            return {reply.client: reply.num_examples for reply in screen.replies(made.used)}

    honest = {0: 1000, 1: 2, 2: 10}
    assert counted({**honest, LIAR: 1}) == counted(honest)
