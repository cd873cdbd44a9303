"""A key that is revoked counts for nothing, wherever it signs; what it signed before is decided on by the operator."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedquit.cli import fedquit
from fedquit.client.receipts import read_receipt
from fedquit.client.receipts.revocations import read_revocations
from fedquit.client.requests.keys import fingerprint, public_der
from fedquit.client.requests.signed_request import Signed, make_ask
from fedquit.errors import BadReceiptError, RefusalError, RefusedError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.receipts.make_receipt import Outcome, make_receipt, read_receipts_key
from fedquit.server.service.admission import Rules, admit

RULES = Rules("clinics")


def said(*arguments: object, exits: int = 0) -> Any:
    """Run a command; return what it prints as JSON."""
    done = CliRunner().invoke(fedquit, [str(each) for each in arguments])
    assert done.exit_code == exits, done.output
    return json.loads(done.stdout)


def ask(world: Any, name: str, **what: Any) -> Signed:
    return make_ask(world.keys[name], "clinics", **what)


def code_of(call: Any) -> str:
    with pytest.raises(RefusedError) as error:
        call()
    assert error.value.exit_code == 2
    return error.value.code


def test_what_a_revoked_key_signs_is_refused_wherever_it_comes(world: Any) -> None:
    world.start()
    with world.service("north") as north, world.service("operator") as operator:
        signed = ask(world, "north")
        request = north.submit(signed).request.id
        assert said("member", "revoke", world.folder / "server", "operator", "--json")["status"] == "revoked"
        subject = fingerprint(public_der(world.keys["south"]))
        calls = (
            lambda: operator.submit(ask(world, "operator", subject=subject)),
            lambda: operator.status(request),
            lambda: operator.receipt(request),
            operator.requests,
            lambda: list(operator.watch(request)),
        )
        assert [code_of(call) for call in calls] == ["revoked"] * len(calls)
        assert north.status(request).id == request  # nobody else's key is the worse for it
        said("member", "revoke", world.folder / "server", "north", "--json")
        assert code_of(lambda: north.submit(signed)) == "revoked"  # also what the ledger has already
    told = [event for event in world.ledger.events() if event.kind == "turned-away"]
    assert {(event.facts["reason"], event.member) for event in told} == {("revoked", 2), ("revoked", 0)}
    assert [one.id for one in world.ledger.requests()] == [request]
    assert world.ledger.check_chain() == []


def test_a_watch_ends_when_its_key_is_revoked(world: Any) -> None:
    world.start()
    with world.service("north") as north:
        request = north.submit(ask(world, "north")).request.id
        changes = north.watch(request)
        assert next(changes).status == "asked"
        threading.Timer(0.2, lambda: world.ledger.revoke(0)).start()
        assert code_of(lambda: next(changes)) == "revoked"


def test_a_key_revoked_between_the_look_and_the_row_asks_for_nothing(world: Any, monkeypatch: Any) -> None:
    take = Ledger.take

    def late(ledger: Ledger, new: Any) -> Any:
        world.ledger.revoke(0)
        return take(ledger, new)

    monkeypatch.setattr(Ledger, "take", late)
    with pytest.raises(RefusalError) as error:
        admit(world.ledger, ask(world, "north"), RULES, now=time.time())
    assert (error.value.code, error.value.member) == ("revoked", 0)
    assert world.ledger.requests() == []


def test_an_ask_taken_before_stands_until_the_operator_refuses_it(world: Any) -> None:
    request = admit(world.ledger, ask(world, "north"), RULES, now=time.time()).request.id
    other = admit(world.ledger, ask(world, "south"), RULES, now=time.time()).request.id
    first = said("member", "revoke", world.folder / "server", "north", "--json")
    assert (first["still_asked"], first["refused"], first["known"]) == ([request], [], False)
    assert world.ledger.request(request).status == "asked"
    again = said("member", "revoke", world.folder / "server", "north", "--refuse-asked", "--json")
    assert (again["still_asked"], again["refused"], again["known"]) == ([], [request], True)
    assert world.ledger.request(request).reason == "the key of north, which asked, was revoked"
    assert world.ledger.request(other).status == "asked"


def test_a_request_in_progress_continues_when_its_key_is_revoked(world: Any) -> None:
    request = admit(world.ledger, ask(world, "north"), RULES, now=time.time()).request.id
    world.ledger.advance(request, of="asked", to="forgetting", kind="forgetting", withdraw=True)
    assert said("member", "revoke", world.folder / "server", "north", "--refuse-asked", "--json")["refused"] == []
    assert (world.ledger.request(request).status, world.ledger.member(0).status) == ("forgetting", "revoked")


def test_members_are_listed_and_named_by_name_or_fingerprint(world: Any) -> None:
    folder, south = world.folder / "server", fingerprint(public_der(world.keys["south"]))
    assert said("member", "revoke", folder, south[:12], "--reason", "stolen", "--json")["name"] == "south"
    listed = said("member", "list", folder, "--json")
    assert [(one["name"], one["status"], one["revoked_at"] is not None) for one in listed] == [
        ("north", "active", False),
        ("south", "revoked", True),
        ("operator", "active", False),
    ]
    wrong = CliRunner().invoke(fedquit, ["member", "revoke", str(folder), "nroth"])
    assert "no member here is called 'nroth'" in str(wrong.exception)
    assert "north, south, operator" in str(wrong.exception)


def receipt_of(world: Any, request: str) -> bytes:
    """Return the receipt of a request, made now."""
    folder = world.folder / "server"
    key, federation = read_receipts_key(folder / "receipts.key"), Federation.read(folder)
    outcome = Outcome("b" * 64, "c" * 64)
    return make_receipt(world.ledger, request, federation=federation, key=key, outcome=outcome, now=time.time() + 1)


def verified(world: Any, file: Path, *more: object) -> Any:
    arguments = ["verify", file, "--key", world.folder / "server" / "receipts.pub", *more]
    return CliRunner().invoke(fedquit, [str(each) for each in arguments])


def test_a_receipt_verifies_if_it_is_older_than_the_revocation(world: Any, tmp_path: Path) -> None:
    request = admit(world.ledger, ask(world, "north"), RULES, now=time.time()).request.id
    world.ledger.advance(request, of="asked", to="forgetting", kind="forgetting", model_before="a" * 64)
    (tmp_path / "before.json").write_bytes(receipt_of(world, request))
    world.ledger.revoke(0)
    (tmp_path / "late.json").write_bytes(receipt_of(world, request))  # asked before, and done after
    listed = CliRunner().invoke(
        fedquit, ["member", "revocations", str(world.folder / "server"), "-o", str(tmp_path / "revoked.json")]
    )
    assert listed.exit_code == 0, listed.output
    for name in ("before", "late"):
        for more in ((), ("--revoked", tmp_path / "revoked.json")):
            assert verified(world, tmp_path / f"{name}.json", *more).exit_code == 0
    key = read_receipts_key(world.folder / "server" / "receipts.key")
    revoked = read_revocations((tmp_path / "revoked.json").read_bytes(), key.public_key())
    told = read_receipt((tmp_path / "before.json").read_bytes(), key.public_key()).predicate
    asked_at = told["request"]["asked_at"]
    thief = type(revoked)("clinics", revoked.made_at, {told["request"]["asked_by"]: asked_at - 5})
    with pytest.raises(BadReceiptError, match="which asked, was revoked 5 s before"):
        thief.check(told)
    with pytest.raises(BadReceiptError, match="of the federation 'banks'"):
        type(revoked)("banks", revoked.made_at, {}).check(told)


def test_no_receipt_is_given_for_a_request_signed_by_a_revoked_key(world: Any) -> None:
    from tests.server.receipts.test_receipts import lied_with

    request = admit(world.ledger, ask(world, "north"), RULES, now=time.time()).request.id
    world.ledger.advance(request, of="asked", to="forgetting", kind="forgetting", model_before="a" * 64)
    key = read_receipts_key(world.folder / "server" / "receipts.key")
    bad = lied_with(receipt_of(world, request), ("predicate", "request", "key_revoked_at"), time.time() - 60, key)
    with pytest.raises(BadReceiptError, match="was revoked at"):
        read_receipt(bad, key.public_key())


def test_a_list_of_revoked_keys_with_any_byte_changed_is_refused(world: Any, tmp_path: Path) -> None:
    world.ledger.revoke(0)
    key = read_receipts_key(world.folder / "server" / "receipts.key")
    out = tmp_path / "revoked.json"
    CliRunner().invoke(fedquit, ["member", "revocations", str(world.folder / "server"), "-o", str(out)])
    content = out.read_bytes()
    assert len(read_revocations(content, key.public_key()).revoked) == 1
    for at in range(len(content)):
        with pytest.raises(BadReceiptError):
            read_revocations(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], key.public_key())
    request = admit(world.ledger, ask(world, "south"), RULES, now=time.time()).request.id
    with pytest.raises(BadReceiptError):
        read_revocations(receipt_of(world, request), key.public_key())
