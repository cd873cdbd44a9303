"""What the ledger promises, on SQLite and on PostgreSQL alike."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedquit.errors import FedquitError, InputError, StateError
from fedquit.server.ledger import ENDS, STATES, UNDER_WAY, Contribution, Ledger, NewRequest, Step
from fedquit.server.ledger.request_states import FOLLOWING

Open = Callable[..., Ledger]
Ask = Callable[..., NewRequest]
MakeStep = Callable[..., Step]

WAYS = {  # how to get to each state
    "asked": [],
    "forgetting": ["forgetting"],
    "recovering": ["forgetting", "recovering"],
    "done": ["forgetting", "recovering", "done"],
    "unrecovered": ["forgetting", "recovering", "unrecovered"],
    "refused": ["refused"],
    "failed": ["forgetting", "failed"],
}


def move(ledger: Ledger, id_: str, *states: str) -> None:
    for state in states:
        ledger.advance(id_, of=ledger.request(id_).status, to=state, kind=state)


# Members


def test_members_are_numbered_and_found_by_number_and_key(ledger: Ledger) -> None:
    north, boss = ledger.enrol("north", b"key 0"), ledger.enrol("boss", b"key 1", "operator")
    assert (north.number, north.role, north.status, boss.number, boss.role) == (0, "device", "active", 1, "operator")
    assert ledger.members() == [north, boss]
    assert ledger.member(1) == boss == ledger.member_by_key(boss.fingerprint)
    assert ledger.member_by_key("0" * 64) is None
    with pytest.raises(InputError, match="no member 2"):
        ledger.member(2)


def test_a_withdrawn_member_that_enrols_again_stays_withdrawn_without_an_event(ledger: Ledger, ask: Ask) -> None:
    ledger.enrol("north", b"key")
    taken, _ = ledger.take(ask())
    ledger.advance(taken.id, of="asked", to="forgetting", kind="forgetting", withdraw=True)
    withdrawn, events = ledger.member(0), ledger.events()
    assert withdrawn.status == "withdrawn"
    assert ledger.enrol("another name", b"key", "operator") == withdrawn
    assert ledger.events() == events
    assert ledger.enrol("south", b"key of south").number == 1


def test_an_unknown_role_is_named(ledger: Ledger) -> None:
    with pytest.raises(InputError, match=r"unknown role 'devise' \(did you mean 'device'"):
        ledger.enrol("north", b"key", "devise")


# Asks


def test_a_request_is_taken_once_however_often_it_is_asked(ledger: Ledger, ask: Ask, clock: Any) -> None:
    ledger.enrol("north", b"key")
    new = ask(classes=(3, 1), samples_count=4, samples_digest="ab", granularity="sample")
    first, stored = ledger.take(new)
    clock.now += 5
    assert (first, stored) == (ledger.request(new.id), True)
    assert ledger.take(new) == (first, False)
    assert (first.status, first.asked_at, first.classes, first.ask) == ("asked", 1e6, (3, 1), new.ask)
    assert [event.kind for event in ledger.events(request=new.id)] == ["asked"]


def test_what_was_not_asked_by_a_member_or_has_a_wrong_id_is_not_taken(ledger: Ledger, ask: Ask) -> None:
    with pytest.raises(InputError, match="no member 0"):
        ledger.take(ask())
    ledger.enrol("north", b"key")
    with pytest.raises(InputError, match="not the SHA-256"):
        ledger.take(NewRequest("0" * 64, 0, "f", "client", b"ask", b"", 0.0))
    assert ledger.requests() == []


def test_requests_are_found_by_state_and_subject_oldest_first(ledger: Ledger, ask: Ask) -> None:
    for name in ("north", "south"):
        ledger.enrol(name, name.encode())
    ids = [ledger.take(ask(number % 2, f"request {number}"))[0].id for number in range(4)]
    assert ledger.in_progress() is None
    move(ledger, ids[0], "forgetting")
    assert [found.id for found in ledger.requests()] == ids
    assert [found.id for found in ledger.requests(status="asked")] == ids[1:]
    assert [found.id for found in ledger.requests(status="asked", subject=0)] == ids[2:3]
    asked, under_way = ledger.next_asked(), ledger.in_progress()
    assert asked == ledger.request(ids[1])
    assert under_way == ledger.request(ids[0])
    with pytest.raises(InputError, match="no request beef"):
        ledger.request("beef")


def test_asks_of_a_key_are_counted_since_a_time_by_the_ledgers_clock(ledger: Ledger, ask: Ask, clock: Any) -> None:
    ledger.enrol("north", b"key")
    for number in range(3):
        ledger.take(ask(text=f"request {number}"))
        clock.now += 10
    assert [ledger.asked_since("f" * 64, 1e6 + since) for since in (0, 1, 10, 20, 21)] == [3, 2, 2, 1, 0]
    assert ledger.asked_since("e" * 64, 0) == 0


# States


@pytest.mark.parametrize(("of", "to"), list(itertools.product(STATES, STATES)))
def test_a_request_goes_only_where_it_may_and_an_error_names_both_states(
    tmp_path_factory: pytest.TempPathFactory, ask: Ask, of: str, to: str
) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db")
    ledger.enrol("north", b"key")
    id_ = ledger.take(ask())[0].id
    move(ledger, id_, *WAYS[of])
    before = (ledger.request(id_), ledger.events())
    if to in FOLLOWING[of] and not (of == to and of in ENDS):
        assert ledger.advance(id_, of=of, to=to, kind=to).status == to
        assert ledger.events()[-1].facts["of"] == of
    else:
        with pytest.raises(StateError, match=f"from {of} to {to}"):
            ledger.advance(id_, of=of, to=to, kind=to)
        assert (ledger.request(id_), ledger.events()) == before
    ledger.close()


def test_a_step_from_a_state_that_was_left_changes_nothing(open_ledger: Open, ask: Ask) -> None:
    one, other = open_ledger(), open_ledger()
    one.enrol("north", b"key")
    id_ = one.take(ask())[0].id
    one.advance(id_, of="asked", to="forgetting", kind="forgetting")
    with pytest.raises(StateError, match="is forgetting, not asked: it cannot go to refused"):
        other.advance(id_, of="asked", to="refused", kind="refused")
    assert other.request(id_).status == "forgetting"


def test_any_number_of_requests_forget_and_one_at_a_time_recovers(ledger: Ledger, ask: Ask) -> None:
    ledger.enrol("north", b"key")
    first, second = (ledger.take(ask(text=text))[0].id for text in ("one", "two"))
    move(ledger, first, "forgetting")
    move(ledger, second, "forgetting", "recovering")
    with pytest.raises(StateError, match=f"{first[:12]} must wait: request {second[:12]} is recovering"):
        move(ledger, first, "recovering")
    under_way = ledger.in_progress()
    assert under_way is not None
    assert under_way.id == second
    move(ledger, second, "done")
    move(ledger, first, "recovering")


def test_what_a_step_writes_is_written_together_or_not_at_all(ledger: Ledger, ask: Ask, make_step: MakeStep) -> None:
    ledger.enrol("north", b"key")
    id_ = ledger.take(ask())[0].id
    before = (ledger.members(), ledger.requests(), ledger.steps(), ledger.events())
    good = make_step(1, (0,), phase="forget", request=id_)
    bad_steps = (
        make_step(2, request=id_),
        make_step(1, (0, 7), request=id_),
        make_step(1, request=id_, measures={"loss": float("nan")}),
        make_step(1),
    )
    for bad in bad_steps:
        with pytest.raises(FedquitError):
            ledger.advance(id_, of="asked", to="forgetting", kind="forgetting", withdraw=True, step=bad)
        assert (ledger.members(), ledger.requests(), ledger.steps(), ledger.events()) == before
    changed = ledger.advance(
        id_,
        of="asked",
        to="forgetting",
        kind="forgetting",
        withdraw=True,
        step=good,
        method="fedquit",
        model_before="a" * 64,
        facts={"attempt": 1},
    )
    assert changed == ledger.request(id_)
    assert (changed.status, changed.method, changed.model_before, changed.reason) == (
        "forgetting",
        "fedquit",
        "a" * 64,
        "",
    )
    assert (ledger.member(0).status, ledger.last_step()) == ("withdrawn", good)
    facts = ledger.events()[-1].facts
    assert set(facts["rows"]) == {f"requests/{id_}", "members/0", "steps/1"}
    assert (facts["attempt"], facts["step"], facts["method"], facts["withdrawn"]) == (1, 1, "fedquit", 0)


@pytest.mark.parametrize("end", ENDS)
def test_a_request_that_ended_may_gain_its_receipt_and_nothing_else(ledger: Ledger, ask: Ask, end: str) -> None:
    ledger.enrol("north", b"key")
    id_ = ledger.take(ask())[0].id
    move(ledger, id_, *WAYS[end])
    assert ledger.advance(id_, of=end, to=end, kind="receipt", receipt=b"signed").receipt == b"signed"
    with pytest.raises(StateError, match="but to add its receipt"):
        ledger.advance(id_, of=end, to=end, kind="receipt", receipt=b"another")
    assert ledger.request(id_).receipt == b"signed"
    assert ledger.check_chain() == []


def test_a_request_under_way_may_change_its_method_where_it_is(ledger: Ledger, ask: Ask) -> None:
    ledger.enrol("north", b"key")
    id_ = ledger.take(ask())[0].id
    for state in UNDER_WAY:
        move(ledger, id_, state)
        changed = ledger.advance(id_, of=state, to=state, kind="fallback", method=f"negate while {state}")
        assert (changed.status, changed.method) == (state, f"negate while {state}")


# Steps


def test_steps_come_back_as_they_were_given(ledger: Ledger, ask: Ask, make_step: MakeStep) -> None:
    for name in ("north", "south"):
        ledger.enrol(name, name.encode())
    id_ = ledger.take(ask())[0].id
    assert ledger.last_step() is None
    given = [make_step(1, (0, 1)), make_step(2, (1,)), make_step(3, (0,), phase="forget", request=id_), make_step(4)]
    for step in given:
        ledger.add_step(step)
    assert ledger.steps() == given
    assert ledger.last_step() == given[-1]
    assert ledger.steps(after=2) == given[2:]
    assert ledger.steps(phase="forget") == ledger.steps(request=id_) == given[2:3]
    assert [ledger.has_contributed(number) for number in range(3)] == [True, True, False]


def test_steps_have_no_gap_and_none_comes_twice(ledger: Ledger, make_step: MakeStep) -> None:
    for number, last in ((0, 0), (2, 0)):
        with pytest.raises(StateError, match=f"step {number} does not follow step {last}"):
            ledger.add_step(make_step(number))
    ledger.add_step(make_step(1))
    with pytest.raises(StateError, match="step 1 does not follow step 1"):
        ledger.add_step(make_step(1))
    assert len(ledger.steps()) == 1


def test_a_revoked_key_stays_revoked_and_the_sealed_log_says_so_once(ledger: Ledger, ask: Ask) -> None:
    north = ledger.enrol("north", b"key")
    ledger.take(ask())
    member, refused = ledger.revoke(north.number, reason="stolen")
    assert (member.status, refused) == ("revoked", [])
    assert ledger.revoke(north.number) == (member, [])
    assert ledger.enrol("another", b"key", "operator") == member
    request = ledger.requests()[0].id
    ledger.advance(request, of="asked", to="forgetting", kind="forgetting", withdraw=True)  # an operator asked
    assert ledger.member(0).status == "revoked"
    [event] = [event for event in ledger.events() if event.kind == "revoked"]
    assert (event.member, event.facts["reason"], event.facts["was"]) == (0, "stolen", "active")
    assert ledger.revocations() == {north.fingerprint: event.at}
    assert ledger.check_chain() == []


def test_no_step_contains_what_a_revoked_member_sent(ledger: Ledger, make_step: MakeStep) -> None:
    ledger.enrol("north", b"key")
    ledger.revoke(0)
    with pytest.raises(StateError, match="the key of member 0 is revoked"):
        ledger.add_step(make_step(1, members=(0,)))
    assert ledger.last_step() is None


def test_no_round_contains_what_a_withdrawn_member_sent(ledger: Ledger, ask: Ask, make_step: MakeStep) -> None:
    ledger.enrol("north", b"key")
    id_ = ledger.take(ask())[0].id
    ledger.advance(id_, of="asked", to="forgetting", kind="forgetting", withdraw=True)
    for phase in ("train", "recover"):
        with pytest.raises(StateError, match="member 0 has withdrawn"):
            ledger.add_step(make_step(1, (0,), phase=phase))
    ledger.add_step(make_step(1, (0,), phase="forget", request=id_))


def test_a_step_that_makes_no_sense_is_refused_by_name(ledger: Ledger, make_step: MakeStep) -> None:
    ledger.enrol("north", b"key")
    twice = (Contribution(0, 1), Contribution(0, 2))
    for fields, said in (
        ({"phase": "tarin"}, "unknown phase 'tarin'"),
        ({"request": "beef"}, "no request beef"),
        ({"contributions": twice}, "member 0 contributes twice to step 1"),
        ({"contributions": (Contribution(3, 1),)}, "no member 3"),
        ({"measures": {"loss": float("inf")}}, "loss of step 1 is inf"),
        ({"seconds": float("nan")}, "seconds of step 1 is nan"),
        ({"bytes_up": 2**60}, "cannot be written"),
    ):
        with pytest.raises(InputError, match=said):
            ledger.add_step(make_step(1, **fields))
    assert (ledger.steps(), len(ledger.events())) == ([], 1)


# The log


def test_events_are_numbered_and_found_by_request_and_number(ledger: Ledger, clock: Any) -> None:
    for number in range(1, 6):
        clock.now += 1
        event = ledger.note(
            "said", request="ab" if number % 2 else None, member=number, facts={"n": number / 2, "é": [None]}
        )
        assert (event.number, event.at, event.member) == (number, 1e6 + number, number)
    everything = ledger.events()
    assert everything[-1] == event
    assert [found.number for found in ledger.events(request="ab")] == [1, 3, 5]
    assert [found.number for found in ledger.events(after=2, limit=2)] == [3, 4]
    assert ledger.head() == (5, event.digest)


@pytest.mark.parametrize(
    "facts", [{"rows": {}}, {"x": float("nan")}, {"x": b"bytes"}, {"x": "y" * 70_000}, {"x": 2**60}]
)
def test_facts_that_cannot_be_stored_are_refused(ledger: Ledger, facts: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        ledger.note("said", facts=facts)
    assert ledger.events() == []


# Opening


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ledger.db", "is not a ledger URL"),
        ("mysql://host/name", "unknown database of a ledger 'mysql'"),
        ("sqlite://", "would be lost"),
        ("sqlite:////nowhere/at/all/ledger.db", "make its folder first"),
    ],
)
def test_a_url_that_leads_nowhere_is_named(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Ledger.open(url)


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(FedquitError, match="cannot be used") as error:
        Ledger.open("postgresql://me:secret@127.0.0.1:1/ledger")
    assert error.value.exit_code == 2
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_new_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}").close()
    assert (tmp_path / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_a_ledger_that_is_only_read_is_neither_made_nor_written(tmp_path: Path, open_ledger: Open) -> None:
    with pytest.raises(InputError, match="there is no ledger"):
        Ledger.open(f"sqlite:///{tmp_path / 'none.db'}", write=False)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    with pytest.raises(FedquitError, match="holds no ledger yet"):
        Ledger.open(f"sqlite:///{tmp_path / 'empty.db'}", write=False)
    open_ledger().enrol("north", b"key")
    reader = open_ledger(write=False)
    assert reader.member(0).name == "north"
    with pytest.raises(FedquitError, match=r"read.?only"):
        reader.note("said")
    assert len(reader.events()) == 1
