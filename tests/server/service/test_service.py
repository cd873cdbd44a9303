"""The service on loopback with TLS: asks are taken, followed and shown to whom they concern; a flood starves nobody."""

import base64
import datetime
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedquit.client.receipts.envelope import LARGEST
from fedquit.client.requests import channel
from fedquit.client.requests.call_auth import prove
from fedquit.client.requests.keys import new_key
from fedquit.client.requests.proto.forget_pb2 import RequestId
from fedquit.client.requests.service_errors import code_of
from fedquit.client.requests.signed_request import Signed, make_ask
from fedquit.errors import RefusalError, RefusedError, TimedOutError, UnreachableError
from fedquit.server.provision.certificates import make_authority
from fedquit.server.service.limits import Once, Rate
from fedquit.server.service.servicer import STATUS
from tests.harness.waiting import STILL

STATES = ["asked", "forgetting", "recovering", "done"]


def ask(world: Any, name: str, **what: Any) -> Signed:
    return make_ask(world.keys[name], "clinics", **what)


@pytest.fixture
def raw(world: Any) -> Iterator[grpc.Channel]:
    """Return a bare channel to a service that does not limit the rate."""
    world.start(rate=Rate(burst=10**6, each_second=1.0))
    credentials = grpc.ssl_channel_credentials((world.kit_folder("north") / "ca.crt").read_bytes())
    with grpc.secure_channel(world.server.address, credentials) as channel:
        yield channel


def bare(channel: grpc.Channel, method: str) -> Any:
    """Return a method that takes and gives bytes."""
    return channel.unary_unary(f"/fedquit.v1.Forget/{method}")


def code(call: Any, *args: Any, **kwargs: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(*args, timeout=STILL, **kwargs)
    return error.value.code().name, code_of(error.value)


def test_an_ask_is_taken_followed_through_every_state_and_its_receipt_fetched(world: Any) -> None:
    world.start()
    with world.service("north") as north:
        answer = north.submit(ask(world, "north"))
        request = answer.request.id
        assert (answer.known, answer.request.status, answer.request.subject_name) == (False, "asked", "north")
        with pytest.raises(RefusedError, match="no receipt yet"):
            north.receipt(request)
        changes = north.watch(request)
        assert next(changes).status == "asked"
        world.work_off(request)
        assert [change.status for change in changes] == STATES[1:]
        assert north.status(request).has_receipt
        assert north.receipt(request) == b'{"payload": "..."}'
        assert [change.status for change in north.watch(request)] == STATES


def test_the_receipt_of_a_hundred_thousand_rounds_is_handed_out_whole(world: Any) -> None:
    models = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(100_000)]
    receipt = json.dumps({"payload": base64.b64encode(json.dumps(models).encode()).decode()}).encode()
    assert 8_000_000 < len(receipt) < LARGEST
    world.start()
    with world.service("north") as north:
        request = north.submit(ask(world, "north")).request.id
        world.work_off(request, receipt=receipt)
        assert north.receipt(request) == receipt


def test_a_watch_shows_why_a_request_failed(world: Any) -> None:
    world.start()
    with world.service("north") as north:
        request = north.submit(ask(world, "north")).request.id
        world.work_off(request, end="failed")
        last = list(north.watch(request))[-1]
    assert (last.status, last.reason) == ("failed", "no device answered")


def test_a_watch_continues_across_a_restart_of_the_service(world: Any) -> None:
    server = world.start()
    with world.service("north") as north:
        request = north.submit(ask(world, "north")).request.id
        changes = north.watch(request)
        assert next(changes).status == "asked"
        server.stop(grace=0)
        world.start()
        world.work_off(request)
        assert [change.status for change in changes] == STATES[1:]


def test_a_watch_continues_across_a_restart_after_a_long_quiet_time(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = world.start()
    with world.service("north") as north:
        request = north.submit(ask(world, "north")).request.id
        changes = north.watch(request)
        assert next(changes).status == "asked"
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600, sleep=time.sleep)
        monkeypatch.setattr(channel, "time", later)
        server.stop(grace=0)
        world.start()
        world.work_off(request)
        assert [change.status for change in changes] == STATES[1:]


def test_a_device_sees_its_own_requests_and_an_operator_all(world: Any) -> None:
    world.start()
    with world.service("north") as north, world.service("south") as south, world.service("operator") as operator:
        one = north.submit(ask(world, "north")).request.id
        two = south.submit(ask(world, "south")).request.id
        assert [request.id for request in north.requests().requests] == [one]
        assert [request.id for request in operator.requests().requests] == [two, one]
        assert operator.status(one).id == one
        for call in (south.status, south.receipt, lambda request: list(south.watch(request))):
            with pytest.raises(RefusedError) as error:
                call(one)
            assert error.value.code == "no-such-request"
        page = operator.requests(limit=1)
        assert ([request.id for request in page.requests], page.more) == ([two], True)
        page = operator.requests(limit=1, before=two)
        assert ([request.id for request in page.requests], page.more) == ([one], False)
        assert not operator.requests(status="done").requests


def test_a_call_must_prove_who_calls_for_this_call_now_and_once(world: Any, raw: grpc.Channel) -> None:
    with world.service("north") as north:
        request = north.submit(ask(world, "north")).request.id
    status = bare(raw, "Status")
    message = RequestId(id=request).SerializeToString()
    key = world.keys["north"]
    sound = prove(key, "clinics", "Status", request)
    wrong: dict[str, list[Any]] = {
        "no-proof": [
            (),
            prove(key, "clinics", "Receipt", request).metadata(),
            prove(key, "clinics", "Status", "a" * 64).metadata(),
            prove(key, "banks", "Status", request).metadata(),
            prove(key, "clinics", "Status", "short").metadata(),
            (("fedquit-call-bin", b"\xff" * 40), ("fedquit-signature-bin", b"")),
        ],
        "unknown-member": [prove(new_key(), "clinics", "Status", request).metadata()],
        "stale": [prove(key, "clinics", "Status", request, now=now).metadata() for now in (1, 4e9)],
        "bad-signature": [
            (("fedquit-call-bin", sound.call), ("fedquit-signature-bin", signature))
            for signature in (b"", sound.signature[:-1] + bytes([sound.signature[-1] ^ 1]))
        ],
    }
    for expected, proofs in wrong.items():
        for metadata in proofs:
            assert code(status, message, metadata=metadata)[1] == expected
    assert status(message, metadata=sound.metadata(), timeout=STILL)
    assert code(status, message, metadata=sound.metadata())[1] == "replayed"
    reasons = Counter(event.facts["reason"] for event in world.ledger.events() if event.kind == "turned-away")
    assert set(reasons) == {*wrong, "replayed"}


def test_garbage_and_what_is_too_large_are_refused_named_and_audited(world: Any, raw: grpc.Channel) -> None:
    submit = bare(raw, "Submit")
    assert code(submit, b"\xff\xff\xff") == ("INVALID_ARGUMENT", "malformed")
    assert code(submit, b"") == ("INVALID_ARGUMENT", "malformed")
    assert code(submit, bytes(5000)) == ("INVALID_ARGUMENT", "too-large")
    assert code(submit, bytes(70_000)) == ("RESOURCE_EXHAUSTED", "")  # gRPC itself does not take that much
    for method in ("Status", "Receipt", "List"):
        assert code(bare(raw, method), b"\xff")[1] == "malformed"
    reasons = [event.facts["reason"] for event in world.ledger.events() if event.kind == "turned-away"]
    assert Counter(reasons) == {"malformed": 5, "too-large": 1}
    assert code(bare(raw, "Erase"), b"")[0] == "UNIMPLEMENTED"


def test_a_small_message_cannot_unfold_into_a_large_one(world: Any, raw: grpc.Channel) -> None:
    submit = bare(raw, "Submit")
    assert code(submit, bytes(60_000), compression=grpc.Compression.Gzip)[0] != "OK"
    events = [event.facts["reason"] for event in world.ledger.events() if event.kind == "turned-away"]
    assert events == []  # it never reached us


def test_without_tls_or_with_another_authority_nobody_is_reached(world: Any) -> None:
    world.start()
    with grpc.insecure_channel(world.server.address) as channel:
        assert code(bare(channel, "Submit"), b"")[0] == "UNAVAILABLE"
    other = make_authority("clinics", datetime.datetime.now(datetime.UTC))
    (world.kit_folder("north") / "ca.crt").write_bytes(other.certificate_pem())
    with world.service("north") as north, pytest.raises(UnreachableError, match="not the one that this kit trusts"):
        north.submit(ask(world, "north"))


def test_an_own_deadline_ends_a_call(world: Any) -> None:
    world.start()
    with world.service("north", deadline=0.001) as north, pytest.raises((TimedOutError, UnreachableError)):
        north.status("a" * 64)


def test_one_member_cannot_take_all_the_seats_of_watchers(world: Any) -> None:
    world.start()
    with world.service("north") as north, world.service("south") as south:
        request = north.submit(ask(world, "north")).request.id
        watches = [north._stream(request, 60.0) for _ in range(4)]
        assert [next(watch).status for watch in watches] == ["asked"] * 4
        with pytest.raises(RefusedError) as error:
            next(north._stream(request, 60.0))
        assert error.value.code == "slow-down"
        other = south.submit(ask(world, "south")).request.id
        assert next(south.watch(other)).status == "asked"


def test_health_needs_no_credentials(world: Any, raw: grpc.Channel) -> None:
    check = health_pb2_grpc.HealthStub(raw).Check
    answer = check(health_pb2.HealthCheckRequest(service="fedquit.v1.Forget"), timeout=STILL)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_ledger_that_cannot_be_used_is_said_without_its_address(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedquit.errors import UnreachableError as LedgerUnreachable

    world.start()

    def away(*_: Any) -> None:
        raise LedgerUnreachable("the ledger postgresql://secret@host cannot be used")

    monkeypatch.setattr(world.ledger, "member_by_key", away)
    with world.service("north", deadline=10) as north, pytest.raises(UnreachableError) as error:
        north.submit(ask(world, "north"))
    assert "ledger cannot be used" in str(error.value)
    assert "secret" not in str(error.value)


def test_ten_thousand_bad_requests_starve_nobody_and_leave_few_rows(world: Any) -> None:
    world.start()
    credentials = grpc.ssl_channel_credentials((world.kit_folder("north") / "ca.crt").read_bytes())
    forged = Signed(ask(world, "north").ask, ask(world, "north").signature).serialised()
    stranger = make_ask(new_key(), "clinics").serialised()
    bad = [forged, stranger, b"\xff" * 100, bytes(4500)]
    answers: Counter[str] = Counter()
    lock = threading.Lock()

    def flood(number: int) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own
        with grpc.secure_channel(world.server.address, credentials, options) as channel:
            submit = bare(channel, "Submit")
            for begin in range(0, 2_500, 50):
                calls = [submit.future(bad[(number + at) % 4], timeout=STILL) for at in range(begin, begin + 50)]
                codes = [code_of(call.exception()) or str(call.code().name) for call in calls]
                with lock:
                    answers.update(codes)

    floods = [threading.Thread(target=flood, args=(number,)) for number in range(4)]
    for thread in floods:
        thread.start()
    served = 0
    with world.service("north") as north, world.service("south") as south:
        first = north.submit(ask(world, "north"))
        while any(thread.is_alive() for thread in floods):
            assert north.status(first.request.id).status == "asked"
            served += 1
            floods[0].join(0.2)
        assert not south.submit(ask(world, "south")).known
    assert served > 2
    assert answers.total() == 10_000
    assert answers.pop("UNAVAILABLE", 0) < 5_000  # gRPC itself turns away what is too much on one connection
    assert set(answers) == {"bad-signature", "unknown-member", "malformed", "too-large", "slow-down"}
    assert len(world.ledger.events()) < 100
    assert len(world.ledger.requests()) == 2
    assert world.ledger.check_chain() == []


def start(world: Any, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "fedquit.server.service", str(world.folder / "server"), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if " listens on " in line:
            return process, line.split()[-1]
    raise AssertionError(f"it ended with {process.wait()}")


def test_a_service_killed_and_started_again_has_lost_nothing(world: Any) -> None:
    process, address = start(world)
    try:
        world.is_at(address)
        signed = ask(world, "north")
        with world.service("north") as north:
            request = north.submit(signed).request.id
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process, address = start(world, int(address.rpartition(":")[2]))
        with world.service("north") as north:
            assert north.submit(signed).known
            assert north.status(request).status == "asked"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert world.ledger.request(request).ask == signed.ask


def test_a_port_that_is_taken_and_a_key_that_others_may_read_are_named(world: Any) -> None:
    world.start()
    port = world.server.address.rpartition(":")[2]
    command = [sys.executable, "-m", "fedquit.server.service", str(world.folder / "server"), "--port"]
    taken = subprocess.run([*command, port], capture_output=True, text=True, check=False)
    assert taken.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in taken.stderr.splitlines()[-1]
    key = world.folder / "server" / "server.key"
    key.chmod(0o644)
    read = subprocess.run([*command, "0"], capture_output=True, text=True, check=False)
    assert read.returncode == 2
    assert f"chmod 600 {key}" in read.stderr.splitlines()[-1]


def test_the_documents_name_every_refusal() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "asking.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", text, flags=re.MULTILINE)
    assert Counter(code for row in rows for code in re.findall("`([a-z-]+)`", row)) == Counter(dict.fromkeys(STATUS, 1))


def test_a_caller_that_uses_up_its_proofs_does_not_use_up_those_of_others() -> None:
    once = Once(seconds=60, of_each=2)
    assert once.first_time("me", b"1", now=0.0)
    assert once.first_time("me", b"2", now=0.0)
    with pytest.raises(RefusalError):
        once.first_time("me", b"3", now=59.0)
    assert once.first_time("you", b"1", now=59.0)
    assert once.first_time("me", b"3", now=61.0)
