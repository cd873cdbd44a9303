"""A device's record: what it says was on the disk when it said so, and it is never begun anew in silence."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fedquit.client.device.local_data.sample_names import digests_of
from fedquit.client.device.record import Forgotten, Mark, Record, Round, opened
from fedquit.client.device.record.record import joined, split
from fedquit.client.device.record.retire_again import retire_again
from fedquit.client.device.record.stored_replies import Replies
from fedquit.client.kit import Kit
from fedquit.errors import FedquitError, InputError

A, B, C, D, E, F = (bytes([letter]) * 32 for letter in b"abcdef")


@dataclass(frozen=True)
class Seen:
    """The content of a sample that has these digests, and had `before` in records of before."""

    digests: frozenset[bytes]
    before: frozenset[bytes] = frozenset()

    def former(self, label: str) -> frozenset[bytes]:
        assert label == "1"
        return self.before


def seen(*digests: bytes) -> Seen:
    return Seen(frozenset(digests))


def round_of(number: int, digests: str = "d1", model_in: str = "m1") -> Round:
    return Round("clinics", "7", "train", number, model_in, "m2", 2, digests, at=float(number))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.db"


def test_what_was_written_is_there_after_it_is_opened_again(path: Path) -> None:
    with opened(path) as record:
        record.trained(round_of(1), [B, A])
        record.mark(Mark("r1", "sample", digests=(A,), marked_at=5.0))
        record.retire(Mark("r1", "sample", digests=(A,)), [(A, [C])])
        record.put("client", note="please")
    with opened(path) as record:
        assert record.rounds() == [round_of(1)]
        mark = record.marked("r1")
        assert mark is not None
        assert (mark.digests, mark.marked_at, mark.retired_at is None) == ((A,), 5.0, False)
        assert record.retired() == {A: "r1"}
        assert [(ask.granularity, ask.note) for ask in record.asks()] == [("client", "please")]


def test_a_repeated_round_is_recorded_once_and_with_other_samples_again(path: Path) -> None:
    with opened(path) as record:
        for _ in range(2):
            record.trained(round_of(1), [A])
        record.trained(round_of(1, digests="d2"), [B])
        assert len(record.rounds()) == 2


def test_the_rounds_of_a_sample_are_those_it_was_part_of(path: Path) -> None:
    with opened(path) as record:
        record.trained(round_of(1, "d1"), [A, B])
        record.trained(round_of(2, "d2"), [B])
        record.trained(round_of(3, "d1"), [A, B])
        assert [each.number for each in record.rounds(A)] == [1, 3]
        assert [each.number for each in record.rounds(C)] == []


def test_a_retired_sample_is_known_by_its_digest_and_by_its_content(path: Path) -> None:
    with opened(path) as record:
        record.retire(Mark("r1", "sample", digests=(A, B)), [(A, [C, D])])
        keep = record.keeps()
        assert [keep(A, None, "1"), keep(B, None, "1")] == [False, False]
        assert [keep(E, None, "1"), keep(E, seen(C), "1"), keep(E, seen(E, D), "1")] == [True, False, False]
        assert keep(E, seen(E), "1")


def test_a_sample_missing_at_forgetting_is_recognised_by_an_older_digest(path: Path) -> None:
    with opened(path) as record:
        record.retire(Mark("r1", "sample", digests=(A, B)), [(A, [C])])
        keep = record.keeps()
        assert [keep(E, Seen(frozenset({E}), frozenset({former})), "1") for former in (A, B, C)] == [True, False, True]


def test_a_sample_marked_and_retired_is_recognised_and_never_trains(path: Path) -> None:
    with opened(path) as record:
        record.note({A: [C, D], B: [E]})
        assert record.contents([A]) == {C, D}
        assert record.keeps()(E, seen(C), "1")
        record.retire(Mark("r1", "sample", digests=(A,)), [])
        assert [record.keeps()(F, seen(each), "1") for each in (C, D, E)] == [False, False, True]


def test_a_retired_class_and_a_device_that_left_keep_nothing_of_it(path: Path) -> None:
    with opened(path) as record:
        record.retire(Mark("r1", "class", labels=("ill",)), [])
        assert [record.keeps()(A, None, label) for label in ("ill", "well")] == [False, True]
        record.retire(Mark("r2", "client"), [(B, [])])
        assert not record.keeps()(A, None, "well")


def test_what_was_retired_first_stays_with_that_request_and_gains_its_content(path: Path) -> None:
    with opened(path) as record:
        record.retire(Mark("r1", "sample", digests=(A,)), [])
        record.retire(Mark("r2", "sample", digests=(A,)), [(A, [C])])
        assert record.retired() == {A: "r1"}
        assert not record.keeps()(B, seen(C), "1")


def test_an_ask_waits_until_the_server_has_it_and_is_marked_when_it_is_signed(path: Path) -> None:
    with opened(path) as record:
        first, second = record.put("sample", [A, B]), record.put("client")
        record.signed(first, "r1", b"exact", b"signature")
        mark = record.marked("r1")
        assert mark is not None
        assert mark.digests == (A, B)
        record.taken(["", "r1", "r9"])
        assert [ask.number for ask in record.asks()] == [second]


def test_a_reply_is_the_same_to_the_last_bit_and_is_dropped_when_it_is_settled(path: Path) -> None:
    done = Forgotten({"w": torch.tensor([0.1, -0.0]), "n": torch.tensor(3)}, 5, 0.25, {"forget-accuracy-after": 0.5})
    with opened(path) as record:
        Replies(record).keep("r1", "e1", done)
    with opened(path) as record:
        kept = Replies(record).find("r1", "e1")
        assert kept is not None
        assert {name: tensor.numpy().tobytes() for name, tensor in kept.state.items()} == {
            name: tensor.numpy().tobytes() for name, tensor in done.state.items()
        }
        assert (kept.num_examples, kept.loss, kept.metrics) == (5, 0.25, done.metrics)
        assert Replies(record).find("r1", "e2") is None
        Replies(record).drop(["r1"])
        assert Replies(record).find("r1", "e1") is None
    assert list((path.parent / "replies").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no modes of files")
def test_a_reply_is_for_its_owner_alone(path: Path) -> None:
    folder = path.parent / "replies"
    folder.mkdir(mode=0o755)  # as an earlier version made it
    with opened(path) as record:
        Replies(record).keep("r1", "e1", Forgotten({"w": torch.tensor([0.1])}, 5, 0.25, {}))
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, *folder.iterdir())] == [0o700, 0o600]


@pytest.mark.parametrize("content", [None, b"", b"half a mod"])
def test_a_stored_reply_with_a_missing_or_damaged_file_is_ignored(path: Path, content: bytes | None) -> None:
    with opened(path) as record:
        Replies(record).keep("r1", "e1", Forgotten({"w": torch.zeros(2)}, 1, 0.0))
        (file,) = (path.parent / "replies").iterdir()
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        assert Replies(record).find("r1", "e1") is None


def test_a_record_is_for_its_owners_eyes_only(path: Path) -> None:
    with opened(path):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(b"not sqlite at all, but long enough" * 40), "is damaged .* restore it"),
        (lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 99"), "written by a newer fedquit"),
    ],
)
def test_an_unusable_record_is_named_and_never_replaced(path: Path, spoil: object, told: str) -> None:
    Record(path).close()
    spoil(path)  # type: ignore[operator]
    before = path.read_bytes()
    with pytest.raises(FedquitError, match=told):
        Record(path)
    assert path.read_bytes() == before


def test_sqlite_syncs_every_transaction(path: Path) -> None:
    with opened(path) as record:
        assert record.database.read("PRAGMA journal_mode") == [("wal",)]
        assert record.database.read("PRAGMA synchronous") == [(2,)]


WRITER = """
import sys
from pathlib import Path
from fedquit.client.device.record import Mark, Record
record = Record(Path(sys.argv[1]))
for number in range(10**6):
    digest = number.to_bytes(32, "big")
    record.retire(Mark(str(number), "sample", digests=(digest,)), [(digest, [])])
    print(number, flush=True)
"""


def test_what_it_said_is_retired_survives_kill_9(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(20)]
        time.sleep(0.01)
        os.kill(writer.pid, signal.SIGKILL)
        said += [int(line) for line in writer.stdout.read().splitlines()]
    with opened(path) as record:
        keep = record.keeps()
        assert len(said) >= 20
        assert not any(keep(number.to_bytes(32, "big"), None, "1") for number in said)
        assert record.database.read("PRAGMA integrity_check") == [("ok",)]


def test_digests_are_kept_as_a_sorted_set() -> None:
    assert split(joined([C, A, C, B])) == (A, B, C)


def test_a_transaction_that_fails_leaves_nothing_behind(path: Path) -> None:
    with opened(path) as record, pytest.raises(sqlite3.IntegrityError):
        record.retire(Mark("r1", "sample", digests=(A,)), [(None, [])])  # type: ignore[list-item]
    with opened(path) as record:
        assert record.retired() == {}
        assert record.marks() == []


def test_samples_are_retired_again_once_and_under_one_request(kit: Kit, tmp_path: Path) -> None:
    names, others, request = tmp_path / "names.txt", tmp_path / "others.txt", "5b" * 32
    names.write_text("0\n1\n", encoding="utf-8")
    others.write_text("2\n", encoding="utf-8")
    for _ in range(2):
        assert retire_again(kit.folder, request, names) == 2
    with opened(kit.path(kit.record)) as record:
        assert set(record.retired()) == set(digests_of(kit, ["0", "1"]))
        assert record.contents(record.retired())
    assert retire_again(kit.folder, request, others) == 3
    with opened(kit.path(kit.record)) as record:
        assert set(record.retired().values()) == {request}
        record.retire(Mark("7c" * 32, "class", labels=("1",)), [])
    with pytest.raises(InputError, match="request 7c7c7c7c7c7c is about a class in the record of"):
        retire_again(kit.folder, "7c" * 32, others)
    with pytest.raises(InputError, match="'5b5b5b' is not a whole request id"):
        retire_again(kit.folder, request[:6], names)


@pytest.mark.parametrize("code", ["quota", "stale"])
def test_an_ask_refused_for_now_is_not_put_a_second_time(path: Path, code: str) -> None:
    with opened(path) as record:
        assert record.put("sample", [A]) == 1
        record.signed(1, "r1", b"ask", b"signature")
        record.refused({"r1": code})
        assert record.put("sample", [A]) == 1
        record.refused({"r1": "nothing-contributed"})
        assert record.put("sample", [A]) == 2


def test_the_newest_note_of_an_ask_is_the_one_that_is_sent(path: Path) -> None:
    with opened(path) as record:
        for note in ("please", "by Friday", ""):
            record.put("client", note=note)
        assert [ask.note for ask in record.asks()] == ["by Friday"]
        record.signed(1, "r1", b"ask", b"signature")
        record.put("client", note="too late")
        assert [ask.note for ask in record.asks()] == ["by Friday"], "what was signed says what was sent"
