"""The commands of a device's owner: what they print, how they end, and that an ask is made once whatever crashes."""

import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedquit.client.device.local_data.samples_commitment import set_digest
from fedquit.client.kit import Kit
from fedquit.client.requests import outbox
from fedquit.client.requests.channel import ForgetService
from fedquit.client.requests.keys import sign
from fedquit.client.requests.service_errors import BUSY
from fedquit.client.requests.signed_request import PLAIN, PREFIX, Signed, make_ask, read_ask, read_signed
from fedquit.errors import RefusedError, UnreachableError

Run = Callable[..., tuple[int, str, str]]


def asks(kit: Path, state: str) -> list[str]:
    return sorted(path.stem for path in (kit / "asks").glob(f"*.{state}"))


def test_asking_says_what_was_asked_and_what_comes_next(world: Any, run: Run) -> None:
    world.start()
    kit = world.kit_folder("north")
    code, out, err = run("forget", kit)
    (request,) = world.ledger.requests()
    assert (code, out) == (0, "")
    assert request.id in err
    assert "all that north contributed" in err
    assert f"fedquit watch {kit} {request.id[:12]}" in err
    assert (asks(kit, "ask"), asks(kit, "waiting")) == ([request.id], [])
    assert json.loads(run("forget", kit, "--json")[1])["known"] is True
    assert len(world.ledger.requests()) == 1


def test_a_request_without_a_reply_is_resent_with_the_same_bytes(
    world: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start()
    kit = world.kit_folder("north")
    submit = ForgetService.submit

    def lost(service: ForgetService, signed: Any) -> None:
        submit(service, signed)
        raise UnreachableError("the answer was lost")

    monkeypatch.setattr(ForgetService, "submit", lost)
    code, _, err = run("forget", kit)
    assert code == 2
    assert "the same command sends it again" in err
    (waiting,) = asks(kit, "waiting")
    monkeypatch.setattr(ForgetService, "submit", submit)
    document = json.loads(run("forget", kit, "--json")[1])
    assert (document["id"], document["known"]) == (waiting, True)
    assert len(world.ledger.requests()) == 1
    assert (asks(kit, "ask"), asks(kit, "waiting")) == ([waiting], [])


def test_an_ask_is_on_the_disk_before_it_is_sent(world: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    kit = world.kit_folder("north")
    seen = []

    def killed(service: ForgetService, signed: Any) -> None:
        seen.append(read_signed((kit / "asks" / f"{signed.id}.waiting").read_bytes()) == signed)
        raise KeyboardInterrupt

    monkeypatch.setattr(ForgetService, "submit", killed)
    assert run("forget", kit)[0] == 1
    assert run("forget", kit)[0] == 1
    assert seen == [True, True]
    assert len(asks(kit, "waiting")) == 1


def test_an_expired_request_that_never_arrived_is_signed_again(world: Any, run: Run) -> None:
    world.start()
    folder = world.kit_folder("north")
    old = make_ask(world.keys["north"], "clinics", now=1e9)
    outbox.keep(Kit.read(folder), old)
    document = json.loads(run("forget", folder, "--json")[1])
    assert document["id"] != old.id
    assert (asks(folder, "ask"), asks(folder, "waiting")) == ([document["id"]], [])


def test_of_samples_in_a_file_only_number_and_salted_digest_travel(world: Any, run: Run) -> None:
    world.start()
    digests = [bytes([number]) * 32 for number in (1, 2)]
    names = world.folder / "samples.txt"
    names.write_text("# two\n" + "\n\n".join(digest.hex() for digest in digests) + "\n")
    assert run("forget", world.kit_folder("south"), "--samples", names)[0] == 0
    (request,) = world.ledger.requests()
    assert (request.granularity, request.samples_count) == ("sample", 2)
    assert not any(digest in request.ask or digest.hex().encode() in request.ask for digest in digests)
    assert request.samples_digest != set_digest(digests)  # which whoever has the samples computes
    assert json.loads(run("forget", world.kit_folder("south"), "--samples", names, "--json")[1])["known"]
    assert run("forget", world.kit_folder("north"), "--samples", names)[0] == 0
    assert len({each.samples_digest for each in world.ledger.requests()}) == 2  # another device's says other digits
    code, _, err = run("forget", world.kit_folder("operator"), "--samples", names)
    assert (code, "only the device can name its samples" in err) == (4, True)
    for content, named in (("", str(names)), ("no-such-file.png", "kits/south/data is not there")):
        names.write_text(content)
        code, _, err = run("forget", world.kit_folder("south"), "--samples", names)
        assert code == 4
        assert named in err


def test_an_ask_that_an_older_fedquit_kept_is_sent_again_not_made_anew(world: Any, run: Run) -> None:
    world.start()
    names, old = asked_without_salt(world)
    outbox.keep(Kit.read(world.kit_folder("south")), old)
    code, out, _ = run("forget", world.kit_folder("south"), "--samples", names, "--json")
    assert (code, json.loads(out)["id"]) == (0, old.id)
    assert [request.id for request in world.ledger.requests()] == [old.id]


def asked_without_salt(world: Any, *, now: float | None = None) -> tuple[Path, Signed]:
    """Return a list of south's samples, and an ask about them as an older fedquit made it."""
    names, digest = world.folder / "samples.txt", b"d" * 32
    names.write_text(digest.hex())
    ask = read_ask(make_ask(world.keys["south"], "clinics", "sample", samples=[digest], salt=b"s" * 32, now=now).ask)
    ask.version, ask.samples_digest = PLAIN, set_digest([digest])
    exact = ask.SerializeToString()
    return names, Signed(exact, sign(world.keys["south"], PREFIX + exact))


@pytest.mark.parametrize("ended", ["done", "failed"])
def test_samples_that_were_asked_about_before_salts_are_not_forgotten_twice(world: Any, run: Run, ended: str) -> None:
    world.start()
    names, old = asked_without_salt(world)
    kit = Kit.read(world.kit_folder("south"))
    outbox.keep(kit, old)
    assert run("forget", kit.folder, "--samples", names)[0] == 0
    assert asks(kit.folder, "ask") == [old.id]
    world.work_off(old.id, end=ended)
    for _ in range(2):
        code, out, _ = run("forget", kit.folder, "--samples", names, "--json")
        assert (code, json.loads(out)["id"] == old.id) == (0, ended == "done")
    assert len(world.ledger.requests()) == (1 if ended == "done" else 2)


@pytest.mark.parametrize("failed_is", [0, 1])
def test_of_asks_before_salts_the_one_that_was_done_counts(world: Any, run: Run, failed_is: int) -> None:
    world.start()
    names, one = asked_without_salt(world)
    both = sorted([one, asked_without_salt(world)[1]], key=lambda each: each.id)
    kit, done = Kit.read(world.kit_folder("south")), both[1 - failed_is].id
    for old, end in ((both[failed_is], "failed"), (both[1 - failed_is], "done")):
        outbox.keep(kit, old)
        outbox.answered(kit, old)
        world.service("south").submit(old)
        world.work_off(old.id, end=end)
    outbox.keep(kit, asked_without_salt(world, now=1e9)[1])  # nor does one that never arrived hide it
    for _ in range(2):
        code, out, _ = run("forget", kit.folder, "--samples", names, "--json")
        assert (code, json.loads(out)["id"]) == (0, done)
    assert len(world.ledger.requests()) == 2


@pytest.mark.parametrize("error", [UnreachableError("away"), RefusedError("try again", code=BUSY)])
def test_an_ask_before_salts_that_failed_is_made_anew_once_service_is_back(
    world: Any, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    world.start()
    names, old = asked_without_salt(world)
    kit = Kit.read(world.kit_folder("south"))
    outbox.keep(kit, old)
    outbox.answered(kit, old)
    world.service("south").submit(old)
    world.work_off(old.id, end="failed")

    def away(_service: ForgetService, _signed: Signed) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ForgetService, "submit", away)
        assert run("forget", kit.folder, "--samples", names)[0] != 0
    assert (asks(kit.folder, "ask"), asks(kit.folder, "waiting")) == ([old.id], [])
    code, out, _ = run("forget", kit.folder, "--samples", names, "--json")
    assert (code, json.loads(out)["status"]) == (0, "asked")
    assert [request.id for request in world.ledger.requests()] == [old.id, json.loads(out)["id"]]


def test_an_operator_asks_for_a_device_and_for_a_class(world: Any, run: Run) -> None:
    world.start()
    kit, key = world.kit_folder("operator"), world.kit_folder("south") / "node.pub"
    assert run("forget", kit, "--device", key)[0] == 0
    assert run("forget", kit, "--class", 3, "--note", "mislabelled")[0] == 0
    first, second = world.ledger.requests()
    assert (first.subject, second.classes) == (1, (3,))
    assert read_ask(second.ask).note == "mislabelled"


def test_a_refusal_is_one_line_with_its_code_and_the_ask_is_not_kept(world: Any, run: Run) -> None:
    world.start()
    for name, what, exit_code, refusal in (
        ("north", ["--class", 3], 2, "operators-only"),
        ("operator", [], 1, "nothing-contributed"),
    ):
        kit = world.kit_folder(name)
        code, out, err = run("forget", kit, *what, "--json")
        assert (code, json.loads(out)["code"]) == (exit_code, refusal)
        assert len(err.strip().splitlines()) == 1
        assert not asks(kit, "waiting")


def test_status_and_requests_show_where_requests_are(world: Any, run: Run) -> None:
    world.start()
    kit = world.kit_folder("north")
    assert "no requests" in run("requests", kit)[2]
    request = json.loads(run("forget", kit, "--json")[1])["id"]
    world.work_off(request)
    code, out, _ = run("status", kit, request[:8])
    assert code == 0
    assert "done: forgotten" in out
    assert json.loads(run("status", kit, request, "--json")[1])["status"] == "done"
    assert run("requests", kit)[1].startswith(f"{request[:12]}  done")
    listed = json.loads(run("requests", kit, "--json")[1])
    assert ([one["id"] for one in listed["requests"]], listed["more"]) == ([request], False)
    for wrong in ("zz", "abc", "0000000"):
        assert run("status", kit, wrong)[0] == 4


@pytest.mark.parametrize(("end", "exit_code"), [("done", 0), ("failed", 1), ("unrecovered", 6)])
def test_waiting_ends_with_how_the_request_ended(world: Any, run: Run, end: str, exit_code: int) -> None:
    world.start()
    kit = world.kit_folder("north")
    request = json.loads(run("forget", kit, "--json")[1])["id"]
    worker = threading.Timer(0.2, world.work_off, (request,), {"end": end})
    worker.start()
    code, out, _ = run("watch", kit, request, "--json")
    worker.join()
    lines = [json.loads(line) for line in out.splitlines()]
    if end == "failed":
        assert lines.pop()["error"].endswith("failed: no device answered")
    if end == "unrecovered":
        assert "the data is forgotten" in lines.pop()["error"]
    assert [line["status"] for line in lines] == ["asked", "forgetting", "recovering", end]
    assert code == exit_code


def test_waiting_survives_an_unreachable_service_after_the_request_ended(
    world: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start()
    kit, status, failures = world.kit_folder("north"), ForgetService.status, iter(range(2))
    run("forget", kit)
    world.work_off(world.ledger.requests()[0].id)

    def away(service: ForgetService, request: str) -> Any:
        if next(failures, None) is not None:
            raise UnreachableError("connection refused")
        return status(service, request)

    monkeypatch.setattr(ForgetService, "status", away)
    monkeypatch.setattr("fedquit.client.requests.submit_once.time.sleep", lambda _seconds: None)
    code, out, _ = run("forget", kit, "--wait", "--json")
    assert (code, json.loads(out)["status"]) == (0, "done")


def test_waiting_has_an_end_of_its_own(world: Any, run: Run) -> None:
    world.start()
    code, _, err = run("forget", world.kit_folder("north"), "--wait", "--timeout", 0.1)
    assert code == 3
    assert "it continues at the server" in err


def test_a_receipt_is_written_to_a_file_once_there_is_one(world: Any, run: Run, tmp_path: Path) -> None:
    world.start()
    kit = world.kit_folder("north")
    request = json.loads(run("forget", kit, "--json")[1])["id"]
    code, out, _ = run("receipt", kit, request, "-o", tmp_path / "r.json", "--json")
    assert (code, json.loads(out)["code"]) == (1, "not-yet")
    world.work_off(request)
    code, out, _ = run("receipt", kit, request, "-o", tmp_path / "r.json")
    assert code == 0
    assert (tmp_path / "r.json").read_bytes() == b'{"payload": "..."}'
    assert f"fedquit verify {tmp_path / 'r.json'} --kit {kit}" in out


def test_an_unreachable_service_and_a_wrong_kit_are_reported_in_one_line(world: Any, run: Run) -> None:
    world.start().stop(grace=0)
    kit = world.kit_folder("north")
    code, _, err = run("requests", kit)
    assert code == 2
    assert err.startswith(f"fedquit: cannot reach the forget service at {world.server.address}")
    code, _, err = run("forget", kit)
    assert code == 2
    assert len(asks(kit, "waiting")) == 1
    assert run("forget", world.folder)[0] == 4
    (kit / "node.key").chmod(0o644)
    code, _, err = run("forget", kit)
    assert code == 2
    assert f"chmod 600 {kit / 'node.key'}" in err


def test_forget_on_a_full_disk_says_to_do_the_same_again(world: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = run("forget", world.kit_folder("north"))
    assert (code, err.count("\n"), "--resume" in err) == (1, 1, False)
    assert "No space left on device; make room, then do the same again: what was finished is kept" in err
    assert world.ledger.requests() == []  # nothing is sent that is not kept
    assert run("forget", world.kit_folder("north"))[0] == 0


def test_a_device_state_or_request_that_is_not_there_is_named_with_the_way_out(world: Any, run: Run) -> None:
    world.start()
    kit, operator = world.kit_folder("north"), world.kit_folder("operator")
    code, _, err = run("forget", operator, "--device", "north")
    assert code == 4
    assert "--device 'north' is neither a file nor a fingerprint" in err
    assert "fedquit member list" in err
    code, _, err = run("requests", kit, "--status", "don")
    assert code == 4
    assert "unknown state 'don' (did you mean 'done'?)" in err
    code, _, err = run("status", kit, "5ba1c2d3")
    assert code == 4
    assert "no request of this kit begins with 5ba1c2d3" in err
