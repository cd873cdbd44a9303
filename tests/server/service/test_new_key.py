"""A member's key can be replaced: it stays who it is, and what the old key signs counts no more."""

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fedquit.client.kit import Kit
from fedquit.client.receipts import read_receipt
from fedquit.client.requests.keys import fingerprint, new_key, public_der, read_private
from fedquit.client.requests.new_key import state_new_key
from fedquit.client.requests.signed_request import make_ask
from fedquit.errors import InputError, RefusedError
from fedquit.server.federation import Federation
from fedquit.server.page.ledger_view import names_of
from fedquit.server.receipts.make_receipt import Outcome, make_receipt, read_receipts_key
from fedquit.server.service.admission import Rules, admit

Run = Callable[..., tuple[int, str, str]]
RULES = Rules("clinics")


def rotated(world: Any, run: Run, name: str) -> None:
    """Replace a member's key, as its holder and the operator do."""
    kit = world.kit_folder(name)
    code, out, err = run("rotate", kit, "--json")
    assert code == 0, err
    code, _, err = run("member", "rotate", world.folder / "server", "--request", json.loads(out)["statement"], "--json")
    assert code == 0, err
    assert run("rotate", kit, "--use")[0] == 0


def receipt_of(world: Any, request: str) -> bytes:
    folder = world.folder / "server"
    key, federation = read_receipts_key(folder / "receipts.key"), Federation.read(folder)
    outcome = Outcome("b" * 64, "c" * 64)
    return make_receipt(world.ledger, request, federation=federation, key=key, outcome=outcome, now=time.time() + 1)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as error:
        call()
    return error.value.code


@pytest.mark.parametrize(("name", "number"), [("north", 0), ("operator", 2)])
def test_a_member_with_a_new_key_is_who_it_was_and_its_old_key_is_nobody(
    world: Any, run: Run, name: str, number: int
) -> None:
    world.start()
    old = world.ledger.member(number)
    with world.service(name) as before:
        rotated(world, run, name)
        assert code_of(before.requests) == "unknown-member"
        with pytest.raises(RefusedError):
            before.submit(make_ask(world.keys[name], "clinics"))
    new = world.ledger.member(number)
    kit = Kit.read(world.kit_folder(name))
    assert new.fingerprint == fingerprint(public_der(read_private(kit.key_file))) != old.fingerprint
    assert (new.name, new.role, new.status, new.enrolled_at) == (old.name, old.role, old.status, old.enrolled_at)
    assert stat.S_IMODE(kit.key_file.stat().st_mode) == 0o600
    assert not any(path.name.startswith(("next", "new-key")) for path in kit.folder.iterdir())
    with world.service(name) as after:
        after.requests()
    assert list(world.ledger.revocations()) == [old.fingerprint]
    assert world.ledger.check_chain() == []


def test_a_kit_takes_no_new_key_that_the_operator_has_not_accepted(world: Any, run: Run) -> None:
    kit = Kit.read(world.kit_folder("north"))
    statement = Path(json.loads(run("rotate", kit.folder, "--json")[1])["statement"])
    before = {path.name: path.read_bytes() for path in kit.folder.iterdir() if path.is_file()}
    code, _, err = run("rotate", kit.folder, "--use")  # no server is there
    assert (code, err.count("\n")) == (2, 1), err
    world.start()
    before["device.toml"] = kit.path("device.toml").read_bytes()
    code, _, err = run("rotate", kit.folder, "--use")
    assert (code, err.count("\n"), "still uses the old one: hand" in err, str(statement) in err) == (1, 1, True, True)
    assert {path.name: path.read_bytes() for path in kit.folder.iterdir() if path.is_file()} == before
    with world.service("north") as service:
        service.requests()
    assert run("member", "rotate", world.folder / "server", "--request", statement)[0] == 0
    assert run("rotate", kit.folder, "--use")[0] == 0
    with world.service("north") as service:
        service.requests()


def test_what_was_asked_with_the_old_key_gets_a_receipt_that_verifies(world: Any, run: Run) -> None:
    world.start()
    asked = [make_ask(world.keys["north"], "clinics")]
    subject = fingerprint(public_der(world.keys["south"]))
    asked.append(make_ask(world.keys["operator"], "clinics", subject=subject))
    ids = [admit(world.ledger, each, RULES, now=time.time()).request.id for each in asked]
    for name in ("north", "south", "operator"):
        rotated(world, run, name)
    key = read_receipts_key(world.folder / "server" / "receipts.key").public_key()
    for id_ in ids:
        world.ledger.advance(id_, of="asked", to="forgetting", kind="forgetting", model_before="a" * 64)
        told = read_receipt(receipt_of(world, id_), key).predicate["request"]
        assert told["key_revoked_at"] > told["asked_at"]
    names = names_of(world.ledger, world.ledger.members())
    assert [names[fingerprint(public_der(world.keys[name]))] for name in ("north", "operator")] == ["north", "operator"]


def test_a_statement_about_a_new_key_serves_once_and_only_as_it_was_signed(world: Any, run: Run) -> None:
    server, kit = world.folder / "server", Kit.read(world.kit_folder("north"))
    good = json.loads(state_new_key(kit).read_text())
    thief = public_der(new_key())
    bad = [
        {**good, "key": thief.hex()},
        {**good, "old": world.ledger.member(1).fingerprint},
        {**good, "federation": "banks"},
        {**good, "by_new": good["by_old"]},
        {**good, "by_old": good["by_new"]},
        {**good, "form": "another"},
        {**good, "by_old": 7},
        {name: value for name, value in good.items() if name != "key"},
        [],
        "x" * 20_000,
    ]
    for each in bad:
        (kit.folder / "bad.json").write_text(json.dumps(each))
        code, _, err = run("member", "rotate", server, "--request", kit.folder / "bad.json")
        assert (code, err.count("\n"), "bad.json" in err) == (4, 1, True), err
    assert run("member", "rotate", server, "--request", kit.folder / "new-key.json")[0] == 0
    code, _, err = run("member", "rotate", server, "--request", kit.folder / "new-key.json")
    assert (code, "was it replaced already?" in err) == (4, True)
    with pytest.raises(InputError, match="was replaced by another, and never counts again"):
        world.ledger.enrol("again", public_der(world.keys["north"]))
    with pytest.raises(InputError, match="was replaced by another"):
        world.ledger.rotate(1, public_der(world.keys["north"]))
    with pytest.raises(InputError, match="is that of member 1 'south'"):
        world.ledger.rotate(0, world.ledger.member(1).key)


def test_a_revoked_member_comes_back_with_a_new_key_on_the_operators_word(world: Any, run: Run, tmp_path: Path) -> None:
    server, kit = world.folder / "server", Kit.read(world.kit_folder("north"))
    path = state_new_key(kit)
    old = world.ledger.revoke(0)[0].fingerprint
    at = world.ledger.revocations()[old]
    code, _, err = run("member", "rotate", server, "--request", path)  # the thief has that key, too
    assert (code, "is revoked, so what it says counts for nothing" in err) == (4, True)
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    (tmp_path / "new.pub").write_bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    assert run("member", "rotate", server, "north", "--public-key", tmp_path / "new.pub")[0] == 0
    assert (world.ledger.member(0).status, world.ledger.revocations()) == ("active", {old: at})
    assert run("member", "rotate", server, "--public-key", tmp_path / "new.pub")[0] == 4
    small = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "small.pub").write_bytes(small.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    code, _, err = run("member", "rotate", server, "north", "--public-key", tmp_path / "small.pub")
    assert (code, "is not a NIST P-384" in err) == (2, True)


def test_what_happens_between_a_statements_check_and_its_write_counts(world: Any) -> None:
    first, second, old = public_der(new_key()), public_der(new_key()), world.ledger.member(0).fingerprint
    world.ledger.rotate(0, first, old=old)
    with pytest.raises(InputError, match="was replaced meanwhile"):  # two statements, of the owner and of a thief
        world.ledger.rotate(0, second, old=old)
    world.ledger.revoke(0)
    with pytest.raises(InputError, match="is revoked, so what it says counts for nothing"):
        world.ledger.rotate(0, second, old=fingerprint(first))
    assert (world.ledger.member(0).status, world.ledger.member(0).fingerprint) == ("revoked", fingerprint(first))


def test_a_withdrawn_member_stays_withdrawn_with_a_new_key(world: Any) -> None:
    request = admit(world.ledger, make_ask(world.keys["north"], "clinics"), RULES, now=time.time()).request.id
    world.work_off(request)
    world.ledger.revoke(0)
    assert world.ledger.rotate(0, public_der(new_key())).status == "withdrawn"


def test_a_member_forgotten_while_revoked_comes_back_as_withdrawn(world: Any) -> None:
    world.ledger.revoke(0)
    subject = world.ledger.member(0).fingerprint
    ask = make_ask(world.keys["operator"], "clinics", subject=subject)
    world.work_off(admit(world.ledger, ask, RULES, now=time.time()).request.id)
    assert world.ledger.rotate(0, public_der(new_key())).status == "withdrawn"
    assert world.ledger.check_chain() == []


def test_killed_while_a_kit_takes_its_new_key_it_is_done_when_called_again(
    world: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start()
    kit = Kit.read(world.kit_folder("north"))
    code, out, _ = run("rotate", kit.folder, "--json")
    assert run("member", "rotate", world.folder / "server", "--request", json.loads(out)["statement"])[0] == 0

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedquit.client.requests.new_key.write_whole", killed)
        assert run("rotate", kit.folder, "--use")[0] == 1
    assert run("rotate", kit.folder, "--use")[0] == 0
    assert kit.path("node.pub").read_bytes().split()[1] in read_private(kit.key_file).public_key().public_bytes(
        Encoding.OpenSSH, PublicFormat.OpenSSH
    )
    code, _, err = run("rotate", kit.folder, "--use")
    assert (code, "has no new key; make one first" in err) == (4, True)


def test_a_device_that_never_trained_can_be_removed_and_one_that_did_cannot(world: Any, run: Run) -> None:
    server = world.folder / "server"
    idle = world.ledger.enrol("idle", public_der(new_key()))
    code, out, _ = run("member", "remove", server, "idle", "--json")
    assert (code, json.loads(out)["status"]) == (0, "withdrawn")
    assert world.ledger.member(idle.number).status == "withdrawn"
    code, _, err = run("member", "remove", server, "north")
    assert (code, "contributed to step 1" in err, "fedquit forget KIT --device" in err) == (1, True, True)
    assert run("member", "remove", server, "operator")[0] == 4
    assert [world.ledger.member(number).status for number in (0, 2)] == ["active", "active"]
    assert world.ledger.check_chain() == []
