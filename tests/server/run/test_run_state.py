"""How far a run is: what is written down is what is read back."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquit.errors import InputError
from fedquit.server.run.run_state import SCHEMA_VERSION, Round, State

FINITE = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**60)
WORDS = st.text(max_size=6)
ROUNDS = st.builds(
    Round,
    phase=st.sampled_from(["train", "forget", "recover"]),
    number=COUNTS,
    exchanges=COUNTS,
    participants=st.lists(COUNTS, max_size=3).map(tuple),
    refused=COUNTS,
    loss=FINITE,
    measures=st.dictionaries(WORDS, FINITE, max_size=2),
    bytes_down=COUNTS,
    bytes_up=COUNTS,
    seconds=FINITE,
    device_seconds=FINITE,
)
STATES = st.builds(
    State,
    rounds=st.lists(ROUNDS, max_size=3).map(tuple),
    models=st.dictionaries(WORDS, WORDS, max_size=3),
    current=st.none() | WORDS,
    ended=st.dictionaries(WORDS, WORDS, max_size=2),
    reached=st.dictionaries(WORDS, st.booleans(), max_size=2),
    events_size=COUNTS,
)


def finished(phase: str = "train", number: int = 1) -> Round:
    return Round(phase, number, 1, (0, 1, 2), 0, 0.5, 0.1, 0.2, {"holdout_accuracy": 0.9}, 10, 20)


@settings(max_examples=60)
@given(state=STATES)
def test_a_state_is_read_back_as_it_was(state: State) -> None:
    assert State.from_json(json.loads(json.dumps(state.to_json())), "state.json") == state


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, "1.0", None])
def test_another_schema_version_is_refused_and_named(version: Any) -> None:
    with pytest.raises(InputError, match=rf"state\.json has schema version {version}"):
        State.from_json({**State().to_json(), "schema_version": version}, "state.json")


@pytest.mark.parametrize(
    "document",
    [{}, [], ["ab"], ["abc"], "text", 3, None, {"schema_version": 1, "rounds": 3}, {**State().to_json(), "more": 1},
     {**State().to_json(), "rounds": [{"phase": "train"}]}],
)  # fmt: skip
def test_an_unreadable_state_is_refused_by_name(document: Any) -> None:
    with pytest.raises(InputError, match=r"state\.json"):
        State.from_json(document, "state.json")


def test_the_end_of_a_phase_names_its_model_and_frees_the_current_one() -> None:
    before = State().with_model("initial", "a").with_round(finished(), "b")
    after = before.with_end("train", "original", "b", "the budget is spent", reached=True)
    assert before.named_models() == after.named_models() == {"a", "b"}
    assert (before.current, after.current) == ("b", None)
    assert after.models == {"initial": "a", "original": "b"}
    assert (after.ended, after.reached) == ({"train": "the budget is spent"}, {"train": True})
    assert before.ended == {}


def test_rounds_are_found_by_phase() -> None:
    state = State().with_round(finished("train", 1), "a").with_round(finished("recover", 2), "b")
    assert [r.number for r in state.of("recover")] == [2]
    assert state.of("retrain") == ()
