"""The device owner's commands: the checks name what is wrong, and what is asked and retired is shown."""

import datetime
import json
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
from click.testing import CliRunner

from fedquit.client.device.bounds import DeviceBounds
from fedquit.client.device.command import join, leave
from fedquit.client.device.device_checks import Finding, device_checks, server_checks
from fedquit.client.device.join import environment, line_of, make_device, supernode
from fedquit.client.device.local_data.gather import find
from fedquit.client.device.local_data.sample_names import digests_of, marking, names_in
from fedquit.client.device.processes.refusals import Refusals
from fedquit.client.device.record import Mark, opened
from fedquit.client.device.record.command import record as show
from fedquit.client.kit import Kit
from fedquit.client.requests.keys import new_key
from fedquit.errors import FedquitError, InputError, OutOfBoundsError
from fedquit.server.provision.certificates import make_authority, make_server_certificate, node_key_files
from fedquit.settings import Settings

NOW = datetime.datetime.now(datetime.UTC)
AUTHORITY = make_authority("clinics", NOW)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    np.savez(tmp_path / "own.npz", x=np.arange(48, dtype=np.uint8).reshape(3, 4, 4), y=[0, 1, 1])
    told = {"federation": "clinics", "superlink": "127.0.0.1:1", "forget": "h:2", "name": "north", "data": "own.npz"}
    (tmp_path / "device.toml").write_text("".join(f'{k} = "{v}"\n' for k, v in told.items()) + "number = 4\n")
    (tmp_path / "node.key").write_bytes(node_key_files(new_key())[0])
    (tmp_path / "node.key").chmod(0o600)
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate_pem())
    (tmp_path / "receipts.pub").write_bytes(b"key")
    return Kit.read(tmp_path)


def found(kit: Kit) -> dict[str, Finding]:
    return {finding.name: finding for finding in device_checks(kit.folder)}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serve a page with the federation's certificate, as the proxy in front of a SuperLink does."""
    made = make_server_certificate(AUTHORITY, ["localhost"], NOW)
    (tmp_path / "server.pem").write_bytes(made.certificate_pem())
    (tmp_path / "server.key").write_bytes(made.key_pem())

    class Page(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"localhost:{server.server_port}"
        server.shutdown()


def at(kit: Kit, address: str) -> Kit:
    text = (kit.folder / "device.toml").read_text().replace("127.0.0.1:1", address)
    (kit.folder / "device.toml").write_text(text)
    return Kit.read(kit.folder)


def test_a_ready_device_passes_every_check(kit: Kit, address: str) -> None:
    findings = found(at(kit, address))
    assert {name: finding.state for name, finding in findings.items()} == dict.fromkeys(
        ("kit", "files", "key", "data", "record", "code", "accelerator", "server", "clock"), "ok"
    )
    assert findings["data"].text.startswith("3 samples of 2 classes")


SPOILT: dict[str, tuple[str, Any, str]] = {
    "no kit": ("kit", lambda k: (k.folder / "device.toml").unlink(), "is not a kit"),
    "a file is gone": ("files", lambda k: (k.folder / "ca.crt").unlink(), "lacks ca.crt; ask the operator"),
    "others read the key": ("key", lambda k: (k.folder / "node.key").chmod(0o644), "chmod 600"),
    "no data": ("data", lambda k: (k.folder / "own.npz").unlink(), "no such file"),
    "nothing": ("data", lambda k: np.savez(k.folder / "own.npz", x=np.zeros((0, 4)), y=np.zeros(0, int)), "no samples"),
    "a damaged record": ("record", lambda k: (k.folder / "record.db").write_bytes(b"x" * 5000), "is damaged"),
    "another authority": (
        "server",
        lambda k: (k.folder / "ca.crt").write_bytes(make_authority("others", NOW).certificate_pem()),
        "is not the server of this kit's ca.crt",
    ),
    "no certificate": ("server", lambda k: (k.folder / "ca.crt").write_bytes(b"x"), "cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_what_is_wrong_is_named_with_the_way_out(what: str, kit: Kit, address: str) -> None:
    name, spoil, told = SPOILT[what]
    kit = at(kit, address)
    spoil(kit)
    finding = found(kit)[name]
    assert finding.state == "wrong"
    assert finding.code in (1, 2)
    assert told in finding.text
    assert "\n" not in finding.text


def test_a_device_starts_though_the_server_is_not_there_yet(kit: Kit) -> None:
    finding = found(kit)["server"]
    assert (finding.state, finding.code) == ("warning", 2)
    assert "127.0.0.1:1 cannot be reached" in finding.text


@pytest.mark.parametrize(
    ("apart", "state"), [(0, "ok"), (30, "ok"), (-100, "warning"), (100, "warning"), (1000, "wrong")]
)
def test_the_clock_is_compared_with_the_servers(kit: Kit, address: str, apart: float, state: str) -> None:
    findings = {each.name: each for each in server_checks(at(kit, address), now=lambda: time.time() + apart)}
    assert findings["clock"].state == state


def test_join_check_says_what_it_found_line_by_line_and_ends_with_the_code(kit: Kit) -> None:
    done = CliRunner().invoke(join, [str(kit.folder), "--check", "--json"])
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["name"] for event in events] == [
        "kit",
        "files",
        "key",
        "data",
        "record",
        "code",
        "accelerator",
        "server",
    ]
    assert done.exit_code == 2  # it cannot be reached
    (kit.folder / "node.key").chmod(0o644)
    done = CliRunner().invoke(join, [str(kit.folder)])
    assert "wrong    key: others may read the private key" in done.stdout
    assert done.exit_code == 2


def test_a_kit_is_run_by_one_process(kit: Kit) -> None:
    (kit.folder / "flower").mkdir()
    with (
        filelock.FileLock(str(kit.folder / "flower" / ".lock")),
        pytest.raises(FedquitError, match="another fedquit join runs the kit"),
    ):
        make_device(kit.folder, lambda _event: None)


def test_the_supernode_is_this_kits_and_no_other_flowers(kit: Kit) -> None:
    command, told = supernode(kit, 9999), environment(kit.folder / "flower")
    assert command[:4] == [sys.executable, "-m", "fedquit.client.device.last_exchange", "flower-supernode"]
    own = command[: command.index("--and")] if sys.platform == "linux" else command
    pairs = dict(zip(own[4::2], own[5::2], strict=True))
    assert pairs["--auth-supernode-private-key"] == str(kit.key_file)
    assert pairs["--root-certificates"] == str(kit.authority_file)
    assert pairs["--node-config"] == f'kit="{kit.folder}"'
    assert (told["FLWR_HOME"], told["FLWR_TELEMETRY_ENABLED"]) == (str(kit.folder / "flower"), "0")


def test_why_a_device_is_not_let_in_is_said(kit: Kit, tmp_path: Path) -> None:
    from fedquit.client.device.join import _explained

    log = tmp_path / "supernode.log"
    log.write_text("ERROR: Exit Code: 305\n")
    died = {"event": "died", "part": "supernode", "code": 1, "again_in_seconds": 1.0, "log": str(log)}
    assert "has the operator enrolled its key?" in line_of(_explained(died))
    assert "Does a copy of this kit run elsewhere?" in line_of(_explained(died))
    log.write_text("ERROR: SSL/TLS handshake error detected.\n[SSL] error\nERROR: Exit Code: 305\n")
    assert "is this kit's ca.crt the server's?" in line_of(_explained(died))


def test_leave_has_the_device_ask_in_its_next_reply(kit: Kit) -> None:
    done = CliRunner().invoke(leave, [str(kit.folder), "--sample", "1", "--note", "please", "--json"])
    assert json.loads(done.stdout) == {"number": 1, "granularity": "sample", "samples": 1}
    assert "all that this device contributed" in CliRunner().invoke(leave, [str(kit.folder)]).stdout
    with opened(kit.path(kit.record)) as record:
        one, everything = record.asks()
    assert (one.granularity, one.digests, one.note) == (
        "sample",
        tuple(find(kit.path(kit.data), ["1"]).values()),
        "please",
    )
    assert everything.granularity == "client"


def test_samples_are_named_in_a_file_by_name_or_digest(kit: Kit, tmp_path: Path) -> None:
    (first, second), listed = find(kit.path(kit.data), ["0", "2"]).values(), tmp_path / "names.txt"
    listed.write_text(f"# those\n\n2\n{first.hex()}\n")
    assert set(digests_of(kit, names_in(listed))) == {first, second}
    listed.write_text("# none\n")
    with pytest.raises(InputError, match="lists no sample"):
        names_in(listed)


def test_what_is_asked_is_marked_before_it_is_sent(kit: Kit) -> None:
    digests = digests_of(kit, ["1"])
    marking(kit, "sample", digests)("5ba1")
    with opened(kit.path(kit.record)) as record:
        assert [(mark.request, mark.digests) for mark in record.marks()] == [("5ba1", digests)]
        assert record.contents(digests)


def test_the_record_is_shown_to_people_and_to_programs(kit: Kit) -> None:
    from tests.client.device.test_record import round_of

    (digest,) = digests_of(kit, ["1"])
    with opened(kit.path(kit.record)) as record:
        record.trained(round_of(1, "ab" * 32), [digest])
        record.trained(round_of(2, "cd" * 32), [b"x" * 32])
        record.retire(Mark("5e" * 32, "sample", digests=(digest,)), [(digest, [])])
        record.put("client")
    document = json.loads(CliRunner().invoke(show, [str(kit.folder), "--json"]).stdout)
    assert [each["number"] for each in document["rounds"]] == [1, 2]
    assert document["retired"] == [{"sample": digest.hex(), "request": "5e" * 32}]
    assert [each["samples"] for each in document["waiting"]] == [0]
    shown = CliRunner().invoke(show, [str(kit.folder), "--sample", "1"]).stdout
    assert "1 round\n" in shown
    assert "5e5e5e5e5e" in shown
    assert "abababab" in shown
    assert "cdcdcdcd" not in shown
    assert "1 sample is retired: it does not train again on this device" in shown
    assert "waits for the server to take it: forget all of this device" in shown


def test_join_says_why_a_message_was_refused_once_an_hour() -> None:
    told: list[str] = []
    now = [0.0]
    refusals = Refusals(lambda event: told.append(line_of(event)), lambda: now[0])
    for line in [
        "Traceback (most recent call last):",
        '  File "client/app.py", line 37, in train',
        "fedquit.errors.InputError: device 'north' has no samples: nothing of data.npz is left",
        "flwr.errors.Other: not ours",
    ]:
        refusals.hear(line)
    assert told == ["refused  a message of the server: device 'north' has no samples: nothing of data.npz is left"]
    for now[0], said in [(60.0, 1), (3601.0, 2)]:
        refusals.hear("fedquit.errors.InputError: device 'north' has no samples: nothing of data.npz is left")
        assert len(told) == said
    refusals.hear("fedquit.errors.OutOfBoundsError: lr is 1.0")
    assert told[-1].endswith("lr is 1.0")


def test_a_server_cannot_write_on_an_owners_terminal_what_it_likes() -> None:
    told: list[str] = []
    now = [0.0]
    refusals = Refusals(lambda event: told.append(line_of(event)), lambda: now[0])
    refusals.hear("fedquit.errors.InputError: no \x1b[2J\u202emodel\x85ok       record: all is well\r")
    assert told == ["refused  a message of the server: no ?[2J?model?ok       record: all is well?"]
    for forged in ("", "no JSON", "[]", "7", '{"request": "1"}', "null"):
        refusals.hear(f"fedquit retired {forged}")
    assert len(told) == 1
    refusals.hear(f"fedquit.errors.InputError: {'x' * 100_000}")
    assert told[1] == f"refused  a message of the server: {'x' * 299}…"
    for number in range(100):
        refusals.hear(f"fedquit.errors.InputError: model {number}")
    assert len(told) == 20
    now[0] = 3601.0
    refusals.hear("fedquit.errors.InputError: model 99")
    assert told[20:] == ["refused  a message of the server: model 99"]


def test_a_name_that_a_server_sets_is_quoted_on_one_line() -> None:
    with pytest.raises(OutOfBoundsError) as refused:
        DeviceBounds.read({}, "device.toml").check(Settings(model="a:b\nfedquit.errors.InputError: forged"), {})
    assert "\n" not in str(refused.value)


def test_what_a_supernode_says_reaches_the_listener_of_join(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "fedquit.errors.InputError: no data here"
    monkeypatch.setattr("fedquit.client.device.join.supernode", lambda *_: [sys.executable, "-c", f"print('{said}')"])
    events: list[dict[str, Any]] = []
    device = make_device(kit.folder, lambda event: events.append(dict(event)))
    with device.lock:
        device.supervisor.start(10.0)
        for _ in range(100):
            if any(event["event"] == "refused" for event in events):
                break
            time.sleep(0.1)
        device.supervisor.stop()
    assert [event["reason"] for event in events if event["event"] == "refused"] == ["no data here"]


@pytest.mark.parametrize("columns", ["60", "80"])
def test_the_record_is_in_utc_and_nothing_is_cut_off(kit: Kit, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    from tests.client.device.test_record import round_of

    monkeypatch.setenv("COLUMNS", columns)
    with opened(kit.path(kit.record)) as record:
        record.trained(round_of(1, "ab" * 32, "cd" * 32), [b"x" * 32])
        record.retire(Mark("5e" * 32, "sample", digests=(b"x" * 32,)), [])
        at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(record.now()))
    shown = CliRunner().invoke(show, [str(kit.folder)], env={"TZ": "Asia/Kolkata"}).stdout
    assert "…" not in shown
    assert "abababab" in shown
    assert "cdcdcdcdcd" in shown
    assert "when (UTC)" in shown
    assert at in shown


def retire(kit: Kit, *options: str) -> list[str]:
    """Have `fedquit record --retire` retire, and return the rows that are retired in the record."""
    done = CliRunner().invoke(show, [str(kit.folder), "--retire", "5e" * 32, *options, "--json"])
    if done.exception:
        raise done.exception
    gone = {bytes.fromhex(each["sample"]) for each in json.loads(done.stdout)["retired"]}
    return [row for row in "012" if {*digests_of(kit, [row])} <= gone]


def test_what_an_owner_retires_again_can_be_completed_later(kit: Kit, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    for said, retired in (("1\n", ["1"]), ("1\n2\n", ["1", "2"]), ("0\n", ["0", "1", "2"])):
        names.write_text(said)
        assert retire(kit, "--samples", str(names)) == retired


def test_an_owner_who_deleted_the_forgotten_samples_is_not_locked_out(kit: Kit, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("1\n77\n")
    with pytest.raises(InputError, match=f"has no sample 77; leave out what was deleted.*--retire {'5e' * 32} --gone"):
        retire(kit, "--samples", str(names))
    with pytest.raises(InputError, match="--retire ID belongs with --samples FILE, or with --gone"):
        retire(kit, "--samples", str(names), "--gone")
    assert retire(kit, "--gone") == []
    with opened(kit.path(kit.record)) as record:
        [mark] = record.marks()
    assert (mark.request, mark.granularity, mark.digests) == ("5e" * 32, "sample", ())
    assert mark.retired_at is not None, "so the device trains again"
    names.write_text("1\n")
    assert retire(kit, "--samples", str(names)) == ["1"]


def test_the_same_ask_waits_once_and_can_be_withdrawn_until_it_is_sent(kit: Kit) -> None:
    def said(*options: str) -> str:
        return CliRunner().invoke(leave, [str(kit.folder), *options], catch_exceptions=False).stdout

    assert "that 1 sample be forgotten" in said("--sample", "1")
    assert json.loads(said("--sample", "1", "--json"))["number"] == 1
    said()
    with opened(kit.path(kit.record)) as record:
        record.signed(1, "5e" * 32, b"ask", b"signature")
    assert json.loads(said("--withdraw", "--json")) == {"withdrawn": 1, "sent": 1}
    assert said("--withdraw").splitlines()[0] == "0 asks withdrawn"
    assert "1 ask already sent and not withdrawn: fedquit requests" in said("--withdraw")
    with opened(kit.path(kit.record)) as record:
        assert [ask.granularity for ask in record.asks()] == ["sample"]
        record.refused({"5e" * 32: "nothing-contributed"})
        assert record.put("sample", record.asks()[0].digests) == 3, "an ask that was refused can be made again"
    assert said("--withdraw") == "2 asks withdrawn\n"


def test_an_operators_kit_is_checked_for_what_it_has_and_never_joins(kit: Kit, address: str) -> None:
    text = (at(kit, address).folder / "device.toml").read_text(encoding="utf-8")
    (kit.folder / "device.toml").write_text(text + 'role = "operator"\n', encoding="utf-8")
    assert {name: finding.state for name, finding in found(kit).items()} == dict.fromkeys(
        ("kit", "files", "key", "server", "clock"), "ok"
    )
    refused = CliRunner().invoke(join, [str(kit.folder)]).exception
    assert isinstance(refused, InputError)
    assert "is the kit of operator 'north', which has no data" in str(refused)


def test_checks_change_nothing_in_a_kit(kit: Kit) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in kit.folder.iterdir()}
    assert found(kit)["record"].text.startswith("none yet")
    assert {path.name: path.stat().st_mtime_ns for path in kit.folder.iterdir()} == before


def test_a_record_that_cannot_be_made_is_found_before_the_first_round(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (kit.folder / "device.toml").read_text(encoding="utf-8")
    (kit.folder / "device.toml").write_text(f'{told}record = "own.npz/record.db"\n', encoding="utf-8")
    assert found(kit)["record"].state == "wrong"
    assert "own.npz is no folder that may be written: see record in device.toml" in found(kit)["record"].text
    (kit.folder / "device.toml").write_text(f'{told}record = "new/record.db"\n', encoding="utf-8")
    assert found(kit)["record"].state == "ok", "its folder is made with it"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert found(kit)["record"].state == "wrong"
