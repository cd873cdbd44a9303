"""A request for a class that there is not, as earlier versions took it, is refused and stops no training."""

from pathlib import Path

import pytest

from fedquit.client.requests.keys import read_private
from fedquit.client.requests.signed_request import make_ask
from fedquit.server.ledger import NewRequest
from tests.harness.rehearsal import Rehearsal, rehearse

BEYOND = 99
BEFORE = {
    "asked": (),
    "forgetting": ("forgetting",),
    "unrecovered": ("forgetting", "recovering", "unrecovered"),
}
"""The states that an earlier version had taken it through."""


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    made = rehearse(tmp_path / "made", {}, devices=2, samples=60)
    made.run(made.grid(), rounds=1)
    return made


@pytest.mark.parametrize("state", BEFORE)
def test_a_request_for_a_class_that_there_is_not_ends_and_training_goes_on(rehearsal: Rehearsal, state: str) -> None:
    kit = rehearsal.operator()
    ask = make_ask(read_private(kit.key_file), kit.federation, "class", classes=(BEYOND,), now=rehearsal.clock.now)
    with rehearsal.ledger() as ledger:
        asker = next(member for member in ledger.members() if member.role == "operator")
        about = {"granularity": "class", "classes": (BEYOND,), "samples_count": 0, "samples_digest": ""}
        times = {"deadline": rehearsal.clock.now + 1e6, "ask": ask.ask, "signature": ask.signature}
        ledger.take(NewRequest(ask.id, asker.number, asker.fingerprint, **about, **times))  # type: ignore[arg-type]
        present = "asked"
        for following in BEFORE[state]:
            ledger.advance(ask.id, of=present, to=following, kind=following, method="fedquit")
            present = following
    rehearsal.run(rehearsal.grid(), rounds=3, turns=60)
    with rehearsal.ledger() as ledger:
        assert ledger.check_chain() == []
        request = ledger.request(ask.id)
    if state == "unrecovered":
        assert request.status == "unrecovered", "what has ended stays so"
    else:
        assert (request.status, request.reason) == ("refused", "there is no class 99 here: they are 0 to 9")
