"""What the service takes and what it refuses: each refusal has a name, a sentence and a line in the log."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedquit.client.requests.keys import PrivateKey, fingerprint, new_key, public_der, sign
from fedquit.client.requests.proto.forget_pb2 import Ask
from fedquit.client.requests.signed_request import PREFIX, Signed, make_ask
from fedquit.errors import RefusalError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Request
from fedquit.server.service.admission import Rules, admit, decide

NOW = 1_800_000_000.0
RULES = Rules("clinics")
DIGEST = b"d" * 32
SALT = b"s" * 32


def asked(key: PrivateKey, *args: Any, now: float = NOW, **what: Any) -> Signed:
    return make_ask(key, what.pop("federation", "clinics"), *args, now=now, salt=SALT, **what)


def told(key: PrivateKey, **fields: Any) -> Signed:
    """Sign an ask that nobody would make with our own client."""
    sound = {
        "version": 1,
        "federation": "clinics",
        "identity": fingerprint(public_der(key)),
        "granularity": "client",
        "nonce": bytes(16),
        "created_at": int(NOW),
    }
    exact = Ask(**{**sound, **fields}).SerializeToString()
    return Signed(exact, sign(key, PREFIX + exact))


def refused(world: Any, signed: Signed, *, now: float = NOW, rules: Rules = RULES) -> str:
    """Return the code with which an ask is refused, after a look at the log."""
    before = len(world.ledger.events())
    with pytest.raises(RefusalError) as error:
        admit(world.ledger, signed, rules, now=now, came_from="here")
    assert len(str(error.value)) > 10
    assert not world.ledger.requests()
    (event,) = world.ledger.events()[before:]
    assert (event.facts["reason"], event.facts["from"]) == (error.value.code, "here")
    assert event.member == error.value.member
    return error.value.code


def test_a_device_may_ask_to_leave_and_the_ledger_holds_its_exact_bytes(world: Any) -> None:
    signed = asked(world.keys["north"], note="goodbye")
    done = admit(world.ledger, signed, RULES, now=NOW)
    request = world.ledger.request(signed.id)
    assert (done.request, done.known) == (request, False)
    assert (request.ask, request.signature, request.subject, request.status) == (*astuple(signed), 0, "asked")
    assert request.deadline == NOW + RULES.deadline


def test_many_who_ask_the_same_at_once_get_one_request(world: Any) -> None:
    asks = [asked(world.keys["north"]) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda signed: admit(world.ledger, signed, RULES, now=NOW), asks))
    assert len({one.request.id for one in done}) == len(world.ledger.requests()) == 1
    assert sum(not one.known for one in done) == 1


def astuple(signed: Signed) -> tuple[bytes, bytes]:
    return signed.ask, signed.signature


def test_the_same_ask_again_is_the_same_request_however_old(world: Any) -> None:
    signed = asked(world.keys["north"])
    first = admit(world.ledger, signed, RULES, now=NOW)
    again = admit(world.ledger, signed, RULES, now=NOW + 1e7)
    assert (again.request, again.known) == (first.request, True)
    assert len(world.ledger.requests()) == 1


def test_an_ask_for_what_is_asked_already_gives_that_request(world: Any) -> None:
    samples = admit(world.ledger, asked(world.keys["south"], "sample", samples=[DIGEST]), RULES, now=NOW)
    assert admit(world.ledger, asked(world.keys["south"], "sample", samples=[DIGEST]), RULES, now=NOW) == replace(
        samples, known=True
    )
    other = admit(world.ledger, asked(world.keys["south"], "sample", samples=[b"e" * 32]), RULES, now=NOW)
    assert not other.known
    leaving = admit(world.ledger, asked(world.keys["south"]), RULES, now=NOW)
    assert not leaving.known
    for more in (asked(world.keys["south"]), asked(world.keys["south"], "sample", samples=[b"f" * 32])):
        assert admit(world.ledger, more, RULES, now=NOW).request.id == leaving.request.id


def test_a_withdrawn_member_is_given_the_request_that_withdrew_it(world: Any) -> None:
    left = admit(world.ledger, asked(world.keys["north"]), RULES, now=NOW).request.id
    world.work_off(left)
    again = admit(world.ledger, asked(world.keys["north"], now=NOW + 9e6), RULES, now=NOW + 9e6)
    assert (again.request.id, again.request.status, again.known) == (left, "done", True)


def test_what_failed_may_be_asked_again(world: Any) -> None:
    first = admit(world.ledger, asked(world.keys["north"]), RULES, now=NOW).request.id
    world.work_off(first, end="failed")
    assert not admit(world.ledger, asked(world.keys["north"]), RULES, now=NOW).known


def test_an_operator_may_ask_for_any_device_and_for_classes(world: Any) -> None:
    south = fingerprint(public_der(world.keys["south"]))
    assert admit(world.ledger, asked(world.keys["operator"], subject=south), RULES, now=NOW).request.subject == 1
    classes = admit(world.ledger, asked(world.keys["operator"], "class", classes=[5, 3]), RULES, now=NOW)
    assert (classes.request.classes, classes.request.subject) == ((3, 5), 2)
    assert admit(world.ledger, asked(world.keys["operator"], "class", classes=[3]), RULES, now=NOW).known


def test_a_stranger_and_a_forger_are_refused(world: Any) -> None:
    assert refused(world, asked(new_key())) == "unknown-member"
    forged = told(new_key(), identity=fingerprint(public_der(world.keys["north"])))
    assert refused(world, forged) == "bad-signature"
    both = asked(world.keys["north"]), asked(world.keys["south"])
    assert refused(world, Signed(both[0].ask, both[1].signature)) == "bad-signature"
    assert refused(world, Signed(both[0].ask, b"")) == "bad-signature"
    call = sign(world.keys["north"], b"fedquit call v1\n" + both[0].ask)
    assert refused(world, Signed(both[0].ask, call)) == "bad-signature"


def test_a_change_of_any_one_byte_is_refused(world: Any) -> None:
    signed = asked(world.keys["north"], note="all of it")
    flips = [Signed(flipped(signed.ask, at), signed.signature) for at in range(len(signed.ask))]
    flips += [Signed(signed.ask, flipped(signed.signature, at)) for at in range(len(signed.signature))]
    for flip in flips:
        with pytest.raises(RefusalError) as error:
            decide(world.ledger, flip, RULES, now=NOW)
        assert error.value.code in ("bad-signature", "malformed", "unknown-member")
    assert isinstance(admit(world.ledger, signed, RULES, now=NOW).request, Request)
    for flip in flips:  # known or not, what is not signed is refused
        with pytest.raises(RefusalError):
            decide(world.ledger, flip, RULES, now=NOW)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("off", [-601, 601, 1e9, -1e9])
def test_an_ask_of_another_time_is_refused(world: Any, off: float) -> None:
    assert refused(world, asked(world.keys["north"], now=NOW + off)) == "stale"


def test_an_ask_for_another_federation_is_refused(world: Any) -> None:
    assert refused(world, asked(world.keys["north"], federation="banks")) == "wrong-federation"


def test_a_device_cannot_ask_for_another_nor_for_classes(world: Any) -> None:
    south = fingerprint(public_der(world.keys["south"]))
    assert refused(world, asked(world.keys["north"], subject=south)) == "not-yours"
    assert refused(world, asked(world.keys["north"], "class", classes=[3])) == "operators-only"


def test_an_operator_cannot_ask_for_what_there_is_not(world: Any) -> None:
    operator = world.keys["operator"]
    assert refused(world, asked(operator)) == "nothing-contributed"
    assert refused(world, asked(operator, subject="0" * 64)) == "unknown-subject"
    south = fingerprint(public_der(world.keys["south"]))
    assert refused(world, asked(operator, "sample", subject=south, samples=[DIGEST])) == "devices-only"
    assert refused(world, told(operator, granularity="class", classes=[1], subject=south)) == "malformed"


def test_only_what_was_contributed_can_be_forgotten(world: Any) -> None:
    late = new_key()
    world.ledger.enrol("late", public_der(late))
    assert refused(world, asked(late)) == "nothing-contributed"
    assert refused(world, asked(late, "sample", samples=[DIGEST])) == "nothing-contributed"
    assert admit(world.ledger, asked(world.keys["south"], "sample", samples=[DIGEST]), RULES, now=NOW)


def test_a_request_may_name_more_samples_than_the_server_has_counted(world: Any) -> None:
    many = [number.to_bytes(32) for number in range(500)]
    assert admit(world.ledger, asked(world.keys["south"], "sample", samples=many), RULES, now=NOW)


def test_a_class_that_the_model_does_not_have_cannot_be_asked_for(world: Any) -> None:
    told = Federation(name="clinics", training={"classes": "ill,well", "input-shape": [1, 8, 8]})
    operator = world.keys["operator"]
    assert refused(world, asked(operator, "class", classes=[1, 2]), rules=Rules.of(told)) == "unknown-class"
    assert admit(world.ledger, asked(operator, "class", classes=[1]), Rules.of(told), now=NOW)


def test_an_ask_is_decided_without_reading_every_round_that_ever_was(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.ledger, "steps", lambda *_args, **_how: pytest.fail("all rounds were read"))
    assert admit(world.ledger, asked(world.keys["north"]), RULES, now=NOW)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"federation": ""},
        {"federation": "x" * 101},
        {"federation": "clin\x1b[2Jics"},
        {"identity": "ABC"},
        {"subject": "f" * 63},
        {"granularity": "all"},
        {"granularity": "class"},
        {"version": 3},
        {"classes": [1]},
        {"granularity": "class", "classes": [2, 1]},
        {"granularity": "class", "classes": [1, 1]},
        {"granularity": "class", "classes": list(range(101))},
        {"granularity": "sample"},
        {"granularity": "sample", "samples_count": 1},
        {"granularity": "sample", "samples_count": 1, "samples_digest": "A" * 64},
        {"granularity": "sample", "samples_count": 2**60, "samples_digest": "a" * 64},
        {"samples_count": 1},
        {"samples_digest": "a" * 64},
        {"nonce": bytes(15)},
        {"created_at": 0},
        {"note": "n" * 501},
        {"note": "\x1b[31m"},
    ],
)
def test_an_ask_that_breaks_a_rule_is_refused_though_it_is_signed(world: Any, fields: dict[str, Any]) -> None:
    assert refused(world, told(world.keys["north"], **fields)) == "malformed"


def test_fields_that_this_version_does_not_know_are_refused(world: Any) -> None:
    exact = told(world.keys["north"]).ask + b"\xa2\x06\x03yes"  # field 100
    assert refused(world, Signed(exact, sign(world.keys["north"], PREFIX + exact))) == "malformed"


def test_what_is_too_large_is_refused_before_it_is_read(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedquit.server.service.admission.read_ask", lambda _: pytest.fail("it was read"))
    assert refused(world, Signed(bytes(4097), b"")) == "too-large"


def test_quotas_hold_for_each_key_and_for_all(world: Any) -> None:
    rules = replace(RULES, open_per_key=2, daily_per_key=3, open_in_all=3)
    keys = world.keys

    def sample(name: str, number: int) -> Signed:
        return asked(keys[name], "sample", samples=[bytes([number]) * 32])

    taken = [admit(world.ledger, sample("north", number), rules, now=NOW).request.id for number in (1, 2)]
    assert code_of(world, sample("north", 3), rules) == "quota"
    assert admit(world.ledger, sample("south", 1), rules, now=NOW)
    assert code_of(world, sample("south", 2), rules) == "quota"  # three are open in all
    world.ledger.advance(taken[0], of="asked", to="refused", kind="refused", reason="test")
    assert code_of(world, sample("north", 3), replace(rules, open_in_all=9)) == "quota"  # what was in vain counts
    assert admit(world.ledger, sample("north", 3), replace(rules, open_per_key=3), now=NOW)
    world.ledger.advance(taken[1], of="asked", to="refused", kind="refused", reason="test")
    assert code_of(world, sample("north", 4), replace(rules, open_in_all=9)) == "quota"  # the third of this day
    assert admit(world.ledger, sample("south", 2), rules, now=NOW)


def code_of(world: Any, signed: Signed, rules: Rules) -> str:
    now = time.time()  # the ledger's clock says when it took the others
    with pytest.raises(RefusalError) as error:
        admit(world.ledger, signed, replace(rules, fresh=1e12), now=now)
    return error.value.code


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ask=st.binary(max_size=300), signature=st.binary(max_size=120), signs=st.booleans())
def test_bytes_of_any_kind_are_refused_and_never_break_anything(
    world: Any, ask: bytes, signature: bytes, signs: bool
) -> None:
    signed = Signed(ask, sign(world.keys["north"], PREFIX + ask) if signs else signature)
    with pytest.raises(RefusalError):
        decide(world.ledger, signed, RULES, now=NOW)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fields_of_any_kind_are_taken_or_refused_and_never_break_anything(world: Any, data: st.DataObject) -> None:
    text = st.text(max_size=70)
    fields = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "version": st.integers(0, 2**32 - 1),
                "federation": text | st.just("clinics"),
                "identity": text,
                "subject": text,
                "granularity": st.sampled_from(["client", "sample", "class"]) | text,
                "classes": st.lists(st.integers(0, 2**32 - 1), max_size=5),
                "samples_count": st.integers(0, 2**64 - 1),
                "samples_digest": text,
                "nonce": st.binary(max_size=20),
                "created_at": st.integers(-(2**63), 2**63 - 1),
                "note": text,
            },
        )
    )
    with contextlib.suppress(RefusalError):
        decide(world.ledger, told(world.keys["north"], **fields), RULES, now=NOW)
