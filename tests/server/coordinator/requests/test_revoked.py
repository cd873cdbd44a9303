"""A device whose key is revoked is given no work, and nothing that it sends or signs counts, whenever that happens."""

from collections.abc import Callable
from typing import Any

from flwr.app import Message

from fedquit.server.coordinator import Coordinator
from fedquit.server.ledger import Step
from tests.harness.rehearsal import KitGrid, Rehearsal

Make = Callable[..., Rehearsal]


def revoke(rehearsal: Rehearsal, member: int, **how: Any) -> None:
    with rehearsal.ledger() as ledger:
        ledger.revoke(member, **how)


def watched(rehearsal: Rehearsal, seen: Callable[[str, int], None]) -> KitGrid:
    """Return a grid that tells of each reply, before it arrives, of which kind it is and who sent it."""
    grid = rehearsal.grid()
    carry = grid.send_and_receive

    def carried(messages: Any, **options: Any) -> Any:
        for message in list[Message](messages):
            for reply in carry([message], **options):
                seen(message.metadata.message_type, grid._members[message.metadata.dst_node_id])
                yield reply

    grid.send_and_receive = carried  # type: ignore[method-assign]
    return grid


def steps(rehearsal: Rehearsal) -> list[Step]:
    with rehearsal.ledger() as ledger:
        return ledger.steps()


def who(step: Step) -> list[int]:
    return [given.member for given in step.contributions]


def test_a_revoked_device_is_given_no_work(make: Make) -> None:
    rehearsal, sent = make(), list[int]()
    grid = watched(rehearsal, lambda _kind, member: sent.append(member))
    rehearsal.run(grid, rounds=1)
    revoke(rehearsal, 2)
    sent.clear()
    rehearsal.run(grid, rounds=3)
    assert set(sent) == {0, 1, 3}
    assert [who(step) for step in steps(rehearsal)] == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 3]]
    with rehearsal.ledger() as ledger:
        assert "stranger" not in {event.kind for event in ledger.events()}


def test_a_device_revoked_during_a_round_is_in_no_model_of_it(make: Make) -> None:
    rehearsal, done = make(), list[int]()

    def seen(kind: str, member: int) -> None:
        if kind == "train" and member == 3 and not done:
            done.append(member)
            revoke(rehearsal, 2)  # it has answered already

    rehearsal.run(watched(rehearsal, seen), rounds=2)
    assert [who(step) for step in steps(rehearsal)] == [[0, 1, 3], [0, 1, 3]]
    with rehearsal.ledger() as ledger:
        failed = [event.facts["reason"] for event in ledger.events() if event.kind == "round-failed"]
    assert len(failed) == 1
    assert "the key of member 2 is revoked" in failed[0]


def test_a_device_revoked_while_it_forgets_hands_back_no_model(make: Make) -> None:
    rehearsal = make(forgetting={"device-timeout": 1800, "fallback": ["negate"]})
    rehearsal.run(rehearsal.grid(), rounds=2)
    request = rehearsal.ask(rehearsal.signed(1))

    def seen(kind: str, member: int) -> None:
        if kind == "train.forget":
            revoke(rehearsal, member)

    rehearsal.run(watched(rehearsal, seen), rounds=3)
    with rehearsal.ledger() as ledger:
        told, forgot = ledger.request(request.id), ledger.steps(phase="forget")
        assert all(who(step) == [] for step in forgot)
        assert told.method != "fedquit"
        assert ledger.member(1).status == "revoked"
        assert ledger.check_chain() == []


def test_an_ask_of_a_revoked_key_is_not_taken_out_of_anybodys_reply(make: Make) -> None:
    rehearsal = make(asking={"fresh": "1h"})
    rehearsal.run(rehearsal.grid(), rounds=1)
    signed = rehearsal.signed(1)
    revoke(rehearsal, 1)
    with rehearsal.place(rehearsal.grid()) as place:
        training = Coordinator(place).training
        training._on_ask(2, signed.ask, signed.signature)
        assert training.config()["answers"] == f"{signed.id}:revoked"
        assert place.ledger.requests() == []


def test_what_a_revoked_device_gave_can_still_be_forgotten(make: Make) -> None:
    rehearsal = make(forgetting={"device-timeout": 1800, "fallback": ["negate"]})
    rehearsal.run(rehearsal.grid(), rounds=2)
    request, sent = rehearsal.ask(rehearsal.signed(1)), list[int]()
    revoke(rehearsal, 1)
    rehearsal.run(watched(rehearsal, lambda _kind, member: sent.append(member)), rounds=3)
    assert 1 not in sent  # it is not asked to unlearn either: what it would hand back is nobody's word
    with rehearsal.ledger() as ledger:
        assert ledger.request(request.id).status not in ("asked", "forgetting", "recovering")
        assert (ledger.member(1).status, ledger.check_chain()) == ("revoked", [])


def test_with_the_key_what_it_asked_and_nobody_began_is_refused(make: Make) -> None:
    rehearsal = make()
    rehearsal.run(rehearsal.grid(), rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))
    revoke(rehearsal, 1, refuse_asked=True)
    rehearsal.run(rehearsal.grid(), rounds=2)
    with rehearsal.ledger() as ledger:
        told = ledger.request(request.id)
        assert (told.status, told.reason) == ("refused", "the key of east, which asked, was revoked")
