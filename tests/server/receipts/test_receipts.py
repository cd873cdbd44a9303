"""A receipt that verifies means that model, that request, those numbers; any other does not verify."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fedquit
from fedquit.client.receipts import read_receipt, sealed, statement, unsealed
from fedquit.client.receipts.command import verify
from fedquit.client.receipts.envelope import canonical
from fedquit.client.requests.keys import fingerprint, new_key, public_der
from fedquit.client.requests.signed_request import make_ask
from fedquit.errors import BadReceiptError, FedquitError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Contribution, Ledger, NewRequest, Step
from fedquit.server.lifecycle.model_store import Models
from fedquit.server.provision.certificates import public_pem
from fedquit.server.receipts.make_receipt import Outcome, make_receipt

KEY, ASKER, NOW = Ed25519PrivateKey.generate(), new_key(), 1_800_000_000.0
FEDERATION = Federation(name="clinics")
SHOWN = Path(__file__).resolve().parents[3] / "docs" / "notebooks"


def model(number: int) -> str:
    return hashlib.sha256(b"model %d" % number).hexdigest()


def step(number: int, phase: str = "train", request: str | None = None, members: tuple[int, ...] = (0, 1)) -> Step:
    gave = tuple(Contribution(member, 10) for member in members)
    before, after = model(number - 1), model(number)
    return Step(
        number, phase, request, before, after, number, gave, 0, 1.5, 3.0, 100, 90, {"holdout_accuracy": 0.5}, NOW
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Two members; the second joins in round 2 and asks after round 3; forgetting and two rounds of recovery."""
    opened = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", clock=lambda: NOW)
    opened.enrol("north", b"north's key")
    opened.enrol("south", public_der(ASKER))
    for number, members in ((1, (0,)), (2, (0, 1)), (3, (0, 1))):
        opened.add_step(step(number, members=members))
    yield opened
    opened.close()


def ask(ledger: Ledger) -> str:
    signed = make_ask(ASKER, "clinics", now=NOW)
    fields: dict[str, Any] = {"granularity": "client", "classes": (), "samples_count": 0, "samples_digest": ""}
    asker = ledger.member(1)
    new = NewRequest(
        id=signed.id, subject=1, asked_by=asker.fingerprint, deadline=NOW + 1000, ask=signed.ask,
        signature=signed.signature, **fields,
    )  # fmt: skip
    return ledger.take(new)[0].id


@pytest.fixture
def receipt(ledger: Ledger) -> bytes:
    request = ask(ledger)
    ledger.advance(request, of="asked", to="forgetting", kind="forgetting", model_before=model(3), withdraw=True)
    unlearned = step(4, "forget", request, (1,))
    ledger.advance(request, of="forgetting", to="recovering", kind="adopted", step=unlearned, method="fedquit")
    for number in (5, 6):
        ledger.add_step(step(number, "recover", request, (0,)))
    outcome = Outcome(
        model(4), model(6), settings={"lr": 1e-4}, measures={"after": {"holdout_accuracy": 0.5}}, verdict="fine",
        purged=[model(2), model(3)],
    )  # fmt: skip
    return make_receipt(ledger, request, federation=FEDERATION, key=KEY, outcome=outcome, now=NOW + 60)


def test_a_receipt_says_what_was_asked_what_was_done_and_what_it_cost(receipt: bytes) -> None:
    read = read_receipt(receipt, KEY.public_key())
    assert read.model == model(6)
    assert read.predicate["models"] == {"before": model(3), "unlearned": model(4), "after": model(6)}
    assert [(d["step"], d["model"]) for d in read.predicate["descendants"]] == [(2, model(2)), (3, model(3))]
    assert read.predicate["costs"] == {
        "rounds": 2, "bytes_down": 300, "bytes_up": 270, "seconds": 4.5, "device_seconds": 9.0
    }  # fmt: skip
    assert read.request["done_at"] < read.request["deadline"]
    assert read.predicate["limits"]


def test_the_receipt_in_the_documents_says_what_a_new_one_says(receipt: bytes) -> None:
    shown = fedquit.verify(SHOWN / "receipt.json", key=SHOWN / "receipts.pub")
    made = read_receipt(receipt, KEY.public_key())
    for part in ("method", "models", "purged", "costs", "verdict", "log"):
        assert shown.predicate[part].keys() == made.predicate[part].keys(), "run `make notebooks`"
    assert shown.predicate.keys() == made.predicate.keys(), "run `make notebooks`"


def test_with_any_one_byte_changed_it_does_not_verify(receipt: bytes) -> None:
    for place in range(len(receipt)):
        for flip in (0x01, 0x20, 0x80):
            altered = receipt[:place] + bytes([receipt[place] ^ flip]) + receipt[place + 1 :]
            with pytest.raises(BadReceiptError):
                unsealed(altered, KEY.public_key())


@pytest.mark.parametrize("place", [0, 1, 100, -1])
def test_with_a_byte_more_or_less_it_does_not_verify(receipt: bytes, place: int) -> None:
    for altered in (
        receipt[:place] + b" " + receipt[place:],
        receipt[:place] + receipt[place + 1 :] if place >= 0 else b"",
    ):
        with pytest.raises(BadReceiptError):
            unsealed(altered, KEY.public_key())


def test_another_key_does_not_verify_it_and_both_keys_are_named(receipt: bytes) -> None:
    with pytest.raises(BadReceiptError, match=r"is signed by key .*, not by the given key"):
        read_receipt(receipt, Ed25519PrivateKey.generate().public_key())


NAMES = st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig"])
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(
    st.binary(max_size=400)
    | st.text(max_size=200).map(str.encode)
    | NESTED.map(lambda document: json.dumps(document).encode())
)
def test_whatever_else_is_given_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(BadReceiptError):
        read_receipt(content, KEY.public_key())


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.text(max_size=12), st.integers() | st.text(max_size=5) | st.dictionaries(st.text(max_size=3), st.none())
    )
)
def test_a_signed_statement_of_something_else_is_refused(predicate: dict[str, Any]) -> None:
    for payload in (statement("00", predicate), json.dumps(predicate).encode(), b"[]", b"\xff"):
        with pytest.raises(BadReceiptError):
            read_receipt(sealed(payload, KEY), KEY.public_key())


FIXED = {
    "subject", "predicate.federation", "predicate.models.before", "predicate.models.after",
    *(f"predicate.request.{name}" for name in (
        "id", "subject", "asked_by", "granularity", "classes", "samples_count", "samples_digest", "ask", "signature",
        "key", "asked_at", "deadline", "done_at", "key_revoked_at",
    )),
    "predicate.descendants.step", "predicate.descendants.model",
}  # fmt: skip
"""Fields of which the ask, or the rest of the receipt, says what they must be."""
FREE = {
    "predicate.status", "predicate.method.exact", "predicate.method.adopted", "predicate.verdict.recovered",
    "predicate.method.forget_clip", "predicate.method.forget_noise",
    "predicate.fedquit", "predicate.method.name", "predicate.method.settings.lr", "predicate.method.fallback",
    "predicate.models.unlearned", "predicate.descendants.phase", "predicate.purged.models", "predicate.purged.kept",
    "predicate.purged.messages",
    "predicate.measures.after.holdout_accuracy", "predicate.verdict.text", "predicate.verdict.thresholds",
    "predicate.verdict.test.name", "predicate.verdict.test.level", "predicate.verdict.test.power",
    "predicate.limits", "predicate.log.event", "predicate.log.digest",
    *(f"predicate.costs.{name}" for name in ("rounds", "bytes_down", "bytes_up", "seconds", "device_seconds")),
}  # fmt: skip
"""Fields for which the server's word stands, as nobody else knows."""
OTHERS = {"north": fingerprint(b"north's key"), "federation": "banks", "model": model(2), "digest": "ab" * 32}
SAID = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=70)
) | (st.sampled_from([*OTHERS.values(), [], [3], {}, "client", "sample", "class", NOW - 7200, NOW + 7200, NOW - 1]))


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value of a document; a list of values is one."""
    inside = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in inside:
        if value and (isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict))):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def name_of(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path if isinstance(part, str))


def lied(receipt: bytes, path: tuple[Any, ...], said: Any) -> bytes:
    """Return the receipt of a lying server: it says something else at `path`, signed with its true key."""
    return lied_with(receipt, path, said, KEY)


def lied_with(receipt: bytes, path: tuple[Any, ...], said: Any, key: Ed25519PrivateKey) -> bytes:
    """Do what `lied` does, with another server's key."""
    document = json.loads(unsealed(receipt, key.public_key()))
    model_of = document["subject"][0]["digest"]["sha256"]
    if path == ("subject",):
        return sealed(statement(said, document["predicate"]), key)
    at = document
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = said
    return sealed(statement(model_of, document["predicate"]), key)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_lying_server_cannot_contradict_the_ask_in_a_receipt(receipt: bytes, data: st.DataObject) -> None:
    document = json.loads(unsealed(receipt, KEY.public_key()))
    paths = [path for path in leaves(document) if path[0] == "predicate"]
    fixed = [("subject",), *(path for path in paths if name_of(path) in FIXED)]
    path = data.draw(st.sampled_from(fixed))
    said = data.draw(SAID.filter(lambda value: canonical(value) != canonical(value_at(document, path))))
    if name_of(path).endswith(("asked_at", "deadline", "done_at", "revoked_at")):
        assume(contradicts(name_of(path).rpartition(".")[2], said))
    if name_of(path) == "predicate.descendants.step":
        assume(type(said) is not int or said < 1 or (said > 2) != (path[2] == 1))
    if name_of(path) == "predicate.descendants.model":
        assume(path[2] == 1)  # of the last one; which models came before it only the server knows
    with pytest.raises(BadReceiptError):
        read_receipt(lied(receipt, path, said), KEY.public_key())


def contradicts(name: str, said: Any) -> bool:
    """Tell whether a time cannot be: the ask was signed at `NOW`, taken then, and done a minute later."""
    if isinstance(said, bool) or not isinstance(said, int | float):
        return True
    if name == "asked_at":
        return abs(said - NOW) > 3600 or said > NOW + 60
    return said <= NOW if name == "key_revoked_at" else said < NOW


def value_at(document: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        document = document[part]
    return document


def test_every_field_of_a_receipt_is_known_as_fixed_or_free(receipt: bytes) -> None:
    document = json.loads(unsealed(receipt, KEY.public_key()))
    found = {name_of(path) for path in leaves(document) if path[0] == "predicate"}
    assert found | {"subject"} == FIXED | FREE


def test_what_only_the_server_knows_may_differ(receipt: bytes) -> None:
    for path in leaves(json.loads(unsealed(receipt, KEY.public_key()))):
        if name_of(path) in ("predicate.fedquit", "predicate.costs.bytes_up", "predicate.verdict.text"):
            assert read_receipt(lied(receipt, path, "else"), KEY.public_key())


@pytest.mark.parametrize(
    ("path", "said", "why"),
    [
        (("predicate", "request", "subject"), OTHERS["north"], "says subject .* and what was asked says"),
        (("predicate", "federation"), "banks", "says federation 'banks', and what was asked says 'clinics'"),
        (("predicate", "request", "asked_at"), NOW - 4000, "taken 4000 s earlier than it was signed"),
        (("predicate", "request", "asked_at"), NOW + 4000, "taken 4000 s later than it was signed"),
        (("predicate", "request", "done_at"), NOW - 5, "done_at .* before it was asked"),
        (("predicate", "models", "after"), model(9), "and says that the request ended with"),
        (("subject",), model(9), "and says that the request ended with"),
        (("predicate", "purged", "models"), [model(6)], "which the receipt says was removed"),
        (("predicate", "descendants", 1, "model"), model(6), "the last that contained it"),
    ],
)
def test_a_lie_about_another_device_federation_time_or_model_is_named(
    receipt: bytes, path: tuple[Any, ...], said: Any, why: str
) -> None:
    with pytest.raises(BadReceiptError, match=why):
        read_receipt(lied(receipt, path, said), KEY.public_key())


def altered(receipt: bytes, **request: Any) -> bytes:
    """Return what a server would sign that changes what was asked."""
    document = json.loads(unsealed(receipt, KEY.public_key()))
    document["predicate"]["request"].update(request)
    return sealed(statement(model(6), document["predicate"]), KEY)


@pytest.mark.parametrize(
    "request_says",
    [
        {"id": "00" * 32},
        {"granularity": "class"},
        {"asked_by": "00" * 32},
        {"samples_count": 3},
        {"ask": base64.b64encode(b"x").decode()},
        {"signature": base64.b64encode(b"x").decode()},
        {"key": base64.b64encode(b"x").decode()},
        {"ask": 3},
    ],
)
def test_the_server_cannot_say_that_something_else_was_asked(receipt: bytes, request_says: dict[str, Any]) -> None:
    with pytest.raises(BadReceiptError):
        read_receipt(altered(receipt, **request_says), KEY.public_key())


def test_a_class_is_in_every_model_since_the_first(ledger: Ledger) -> None:
    request = ledger.request(ask(ledger))
    assert [s.number for s in ledger.descendants(request)] == [2, 3]
    assert [s.number for s in ledger.descendants(replace(request, granularity="class"))] == [1, 2, 3]


def test_no_receipt_says_exact_of_a_model_that_descends_from_the_data(ledger: Ledger) -> None:
    """South's data is in from round 2 on; what goes back to the model before is exact, what goes on is not."""
    request = ask(ledger)
    ledger.advance(request, of="asked", to="forgetting", kind="forgetting", model_before=model(3), withdraw=True)
    back = replace(step(4, "forget", request, ()), model_after=model(1))
    ledger.advance(request, of="forgetting", to="recovering", kind="forgot", step=back, method="retrain")
    ledger.add_step(replace(step(5, "recover", request, (0,)), model_before=model(1)))
    for unlearned, after, true in ((1, 5, True), (3, 5, False), (1, 2, False), (1, 3, False)):
        outcome = Outcome(model(unlearned), model(after), exact=True)
        made = nullcontext() if true else pytest.raises(FedquitError, match="descends from the data")
        with made:
            make_receipt(ledger, request, federation=FEDERATION, key=KEY, outcome=outcome, now=NOW + 60)


def test_models_are_removed_by_name_as_far_as_they_are_there(tmp_path: Path) -> None:
    (tmp_path / f"{model(1)}.safetensors").write_bytes(b"")
    (tmp_path / f"{model(9)}.safetensors").write_bytes(b"")
    Models(tmp_path).remove([model(1), model(2)])
    assert [path.stem for path in tmp_path.iterdir()] == [model(9)]


def test_verify_says_it_in_lines_and_as_json_and_exits_with_the_reason(receipt: bytes, tmp_path: Path) -> None:
    (tmp_path / "receipts.pub").write_bytes(public_pem(KEY.public_key()))
    (tmp_path / "r.json").write_bytes(receipt)
    (tmp_path / "model").write_bytes(b"model 6")
    arguments = [str(tmp_path / "r.json"), "--key", str(tmp_path / "receipts.pub")]
    said = CliRunner().invoke(verify, [*arguments, "--model", str(tmp_path / "model")])
    assert said.exit_code == 0, said.exception
    assert f"after  {model(6)} (the given file)" in said.output
    assert json.loads(CliRunner().invoke(verify, [*arguments, "--json"]).output)["model"] == model(6)
    (tmp_path / "model").write_bytes(b"model 7")
    wrong = CliRunner().invoke(verify, [*arguments, "--model", str(tmp_path / "model")])
    assert isinstance(wrong.exception, BadReceiptError)
    assert wrong.exception.exit_code == 1


def test_python_verifies_and_says_the_same_as_the_command(receipt: bytes, tmp_path: Path) -> None:
    file, key = tmp_path / "receipt.json", tmp_path / "receipts.pub"
    file.write_bytes(receipt)
    key.write_bytes(public_pem(KEY.public_key()))
    read = fedquit.verify(file, key=key)
    shown = CliRunner().invoke(verify, [str(file), "--key", str(key)])
    assert f"{read}\n" == shown.stdout
    with pytest.raises(fedquit.BadReceiptError, match="the receipt is for"):
        fedquit.verify(file, key=str(key), model=key)
    with pytest.raises(fedquit.InputError, match="give --key FILE"):
        fedquit.verify(file)
    file.write_bytes(receipt.replace(b"e", b"f", 1))
    with pytest.raises(fedquit.BadReceiptError):
        fedquit.verify(file, key=key)
