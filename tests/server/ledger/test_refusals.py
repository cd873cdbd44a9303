"""Refusals are all accounted for, and no flood of them fills the log."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedquit.server.ledger import Event, Ledger
from fedquit.server.ledger.audit_log.counted_refusals import KINDS, MOST, WINDOW, Refusals


def counted(events: list[Event]) -> int:
    """Return how many refusals the log tells of."""
    more = sum(int(count["count"]) for event in events for count in event.facts.get("counts", []))
    return more + sum(event.kind == "turned-away" for event in events)


def test_ten_thousand_bad_requests_are_a_few_events_that_count_them_all(
    open_ledger: Callable[..., Ledger], clock: Any
) -> None:
    ledger = open_ledger()
    for number in range(10_000):
        clock.now += 0.001
        ledger.turn_away("the signature is wrong", member=None, facts={"from": f"10.0.0.{number % 250}"})
    assert counted(ledger.events()) >= 5_000
    ledger.close()
    events = open_ledger(write=False).events()
    assert counted(events) == 10_000
    assert len(events) < 20
    assert [event.kind for event in events[:6]] == ["turned-away"] * 5 + ["turned-away-more"]
    assert events[0].facts == {"reason": "the signature is wrong", "from": "10.0.0.0"}


def test_the_rest_of_a_window_is_counted_at_the_next_write(ledger: Ledger, clock: Any) -> None:
    for _ in range(7):
        ledger.turn_away("stale", member=3)
    assert counted(ledger.events()) == 5
    clock.now += WINDOW
    ledger.note("any")
    more = ledger.events()[5]
    assert (more.kind, more.facts["counts"]) == ("turned-away-more", [{"count": 2, "member": 3, "reason": "stale"}])
    ledger.turn_away("stale", member=3)
    assert ledger.events()[-1].kind == "turned-away"
    assert ledger.check_chain() == []


def test_what_a_caller_sent_does_not_swell_an_event(ledger: Ledger) -> None:
    ledger.turn_away("r" * 10_000, member=None, facts={"note": "n" * 100_000})
    (event,) = ledger.events()
    assert len(event.facts["reason"]) == 200
    assert event.facts["left_out_bytes"] > 100_000
    assert "note" not in event.facts


def test_a_flood_of_ever_new_reasons_is_bounded_too(open_ledger: Callable[..., Ledger]) -> None:
    ledger = open_ledger()
    for number in range(5_000):
        ledger.turn_away(f"\n{number}" + "\n" * 300, member=number)
    ledger.close()
    events = open_ledger(write=False).events()
    assert counted(events) == 5_000
    assert len(events) < MOST + 20
    for event in events[MOST:]:
        assert event.facts["counts"][0]["reason"] == "other reasons"
        assert len(event.facts["counts"]) <= KINDS + 1


refusals = st.lists(
    st.tuples(st.text("abcdefgh", max_size=2), st.none() | st.integers(0, 9), st.sampled_from([0.0, 0.0, 1.0, 300.0])),
    max_size=1500,
)


@given(refusals)
def test_counts_add_up_and_events_are_bounded_whatever_is_refused(asked: list[tuple[str, int | None, float]]) -> None:
    made = Refusals()
    now, windows, begin = 0.0, 1, 0.0
    logged: Counter[str] = Counter()
    for reason, member, later in asked:
        now += later
        if now - begin >= WINDOW:
            windows, begin = windows + 1, now
        for kind, _, facts in made.add(reason, member, {}, now=now):
            logged[kind] += 1
            logged["refusals"] += sum(count["count"] for count in facts.get("counts", [{"count": 1}]))
            assert len(facts.get("counts", [])) <= KINDS + 1
    for _, _, facts in made.rest(now=now):
        logged["refusals"] += sum(count["count"] for count in facts["counts"])
    assert logged["refusals"] == len(asked)
    assert logged["turned-away"] <= MOST * windows
    assert logged["turned-away-more"] <= windows * (math.log2(max(len(asked), 1) + 1) + 1)
