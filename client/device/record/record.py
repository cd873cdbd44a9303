"""A device's own record: what it trained on, what it retired, and what still has to be said to the server.

It is the owner's evidence, and what keeps a forgotten sample from training again whatever restarts.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from sqlite3 import Cursor

from fedquit.client.device.local_data.samples_commitment import SALT, set_digest
from fedquit.client.device.record.record_database import Database
from fedquit.client.device.record.record_rows import PASSING, SIGNINGS, Ask, Content, Mark, Round

DIGEST = 32
ROUND = "federation, run, phase, number, model_in, model_out, num_examples, samples_digest, at"
MARK = "request, granularity, digests, labels, marked_at, retired_at"
ASK = "number, granularity, digests, note, put_at, request, ask, signature, signed_at, signings, refused"


class Record:
    """The record in the file `path`, made if it is not there.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> record = Record(Path(folder.name) / "record.db")
    >>> record.retire(Mark("5ba1", "sample", digests=(b"a" * 32,)), [(b"a" * 32, {b"A" * 32})])
    >>> keep = record.keeps()
    >>> keep(b"a" * 32, None, "3"), keep(b"b" * 32, None, "3")
    (False, True)
    >>> folder.cleanup()
    """

    def __init__(
        self, path: Path, now: Callable[[], float] = time.time, draw: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.database = Database(path)
        self.now, self._draw = now, draw

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def trained(self, done: Round, digests: Iterable[bytes]) -> None:
        """Write down a round, and the digests of its samples; the same round carried out again is written once."""
        with self.database.writing() as cursor:
            cursor.execute("INSERT OR IGNORE INTO sample_sets VALUES (?, ?)", (done.samples_digest, joined(digests)))
            cursor.execute(
                f"INSERT OR REPLACE INTO rounds ({ROUND}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                tuple(getattr(done, name) for name in ROUND.split(", ")),
            )

    def rounds(self, sample: bytes | None = None) -> list[Round]:
        """Return the rounds in the order they were trained; given a sample's digest, those that it was part of."""
        rounds = [Round(*row) for row in self.database.read(f"SELECT {ROUND} FROM rounds ORDER BY at, rowid")]  # noqa: S608
        if sample is None:
            return rounds
        sets = self.database.read("SELECT samples_digest, digests FROM sample_sets")
        holding = {name for name, digests in sets if sample in split(digests)}
        return [each for each in rounds if each.samples_digest in holding]

    def has_trained(self, digests: Iterable[bytes]) -> bool:
        """Say whether any of these samples was part of a round."""
        wanted = set(digests)
        sets = self.database.read("SELECT digests FROM sample_sets")
        return any(not wanted.isdisjoint(split(held)) for (held,) in sets)

    def mark(self, mark: Mark) -> None:
        """Note what a request is about, before it is asked; what was noted of it once stays."""
        with self.database.writing() as cursor:
            cursor.execute(f"INSERT OR IGNORE INTO marks ({MARK}) VALUES (?, ?, ?, ?, ?, ?)", self._row(mark))  # noqa: S608

    def marks(self) -> list[Mark]:
        """Return what was marked, in that order."""
        found = self.database.read(f"SELECT {MARK} FROM marks ORDER BY marked_at, rowid")  # noqa: S608
        return [Mark(row[0], row[1], split(row[2]), tuple(json.loads(row[3])), *row[4:]) for row in found]

    def marked(self, request: str) -> Mark | None:
        """Return what a request is about; None: this device does not know it."""
        return next((mark for mark in self.marks() if mark.request == request), None)

    def note(self, contents: Mapping[bytes, Iterable[bytes]]) -> None:
        """Note the contents of samples, by their digests."""
        with self.database.writing() as cursor:
            _note(cursor, contents)

    def contents(self, digests: Iterable[bytes]) -> frozenset[bytes]:
        """Return what is noted of the contents of samples."""
        wanted = set(digests)
        rows = self.database.read("SELECT digest, content FROM contents")
        return frozenset(content for digest, content in rows if digest in wanted)

    def retire(self, mark: Mark, samples: Iterable[tuple[bytes, Iterable[bytes]]]) -> None:
        """Retire for good what a request is about; it is on the disk when this returns.

        Args:
            mark: the request; what is not yet noted of it is noted.
            samples: digest and contents of those that are there.
        """
        now, contents = self.now(), {digest: tuple(content) for digest, content in samples}
        with self.database.writing() as cursor:
            cursor.execute(f"INSERT OR IGNORE INTO marks ({MARK}) VALUES (?, ?, ?, ?, ?, ?)", self._row(mark))  # noqa: S608
            cursor.execute(
                "UPDATE marks SET retired_at = ? WHERE request = ? AND retired_at IS NULL", (now, mark.request)
            )
            cursor.executemany(
                "INSERT INTO retired VALUES (?, NULL, ?, ?) ON CONFLICT (digest) DO NOTHING",
                [(digest, mark.request, now) for digest in [*contents, *mark.digests]],
            )
            _note(cursor, contents)

    def salt(self, digests: Iterable[bytes]) -> bytes:
        """Return the salt of the commitment to a set of samples.

        It is drawn once: as the set has one commitment, the server sees when the same is asked twice.
        """
        name = set_digest(digests)
        with self.database.writing() as cursor:
            cursor.execute("INSERT OR IGNORE INTO salts VALUES (?, ?)", (name, self._draw(SALT)))
        return self.salts()[name]

    def salts(self) -> dict[str, bytes]:
        """Return the salts that were drawn, by the digest of the set."""
        return dict(self.database.read("SELECT samples_digest, salt FROM salts"))

    def retired(self) -> dict[bytes, str]:
        """Return the digests of retired samples, and the request that retired each."""
        return dict(self.database.read("SELECT digest, request FROM retired ORDER BY at, rowid"))

    def keeps(self) -> Callable[[bytes, Content | None, str], bool]:
        """Return what says of a sample, by digest, content and label, whether it may be trained on.

        What was retired before contents were noted, or was not there, is known in each form by its former digests.
        """
        gone = set(self.retired())
        contents = self.contents(gone)
        old = self.database.read(
            "SELECT digest, content FROM retired WHERE digest NOT IN (SELECT digest FROM contents)"
        )
        former = {each for row in old for each in row if each is not None}
        marks = [mark for mark in self.marks() if mark.retired_at is not None]
        labels = {label for mark in marks for label in mark.labels}
        left = any(mark.granularity == "client" for mark in marks)

        def keep(digest: bytes, content: Content | None, label: str) -> bool:
            if left or label in labels or digest in gone:
                return False
            if content is None:
                return True
            return contents.isdisjoint(content.digests) and not (former and former & content.former(label))

        return keep

    def put(self, granularity: str, digests: Iterable[bytes] = (), note: str = "") -> int:
        """Have an ask wait for the next reply, and return its number.

        The same ask waits once, with the newest note until it is signed; one that was refused for good is put anew.
        """
        passing = ", ".join("?" * len(PASSING))
        with self.database.writing() as cursor:
            same = cursor.execute(
                f"SELECT number FROM asks WHERE granularity = ? AND digests = ? AND refused IN ({passing}) "  # noqa: S608
                "AND signings < ?",
                (granularity, joined(digests), *PASSING, SIGNINGS),
            ).fetchone()
            if same is not None:
                if note:
                    cursor.execute("UPDATE asks SET note = ? WHERE number = ? AND request = ''", (note, same[0]))
                return int(same[0])
            cursor.execute(
                "INSERT INTO asks (granularity, digests, note, put_at) VALUES (?, ?, ?, ?)",
                (granularity, joined(digests), note, self.now()),
            )
            return int(cursor.lastrowid or 0)

    def withdraw(self) -> tuple[int, int]:
        """Drop the asks that were never sent or were refused for good.

        Returns:
            Number of asks dropped, and number that remain because the server may have them.
        """
        passing = ", ".join("?" * len(PASSING))
        with self.database.writing() as cursor:
            cursor.execute(f"DELETE FROM asks WHERE request = '' OR refused NOT IN ({passing})", PASSING)  # noqa: S608
            return cursor.rowcount, int(cursor.execute("SELECT count(*) FROM asks").fetchone()[0])

    def asks(self) -> list[Ask]:
        """Return the asks that wait, those that were put first before the others."""
        found = self.database.read(f"SELECT {ASK} FROM asks ORDER BY number")  # noqa: S608
        return [Ask(row[0], row[1], split(row[2]), *row[3:]) for row in found]

    def signed(self, number: int, request: str, ask: bytes, signature: bytes) -> None:
        """Keep what an ask that waits was signed as, and mark what it is about, in one step."""
        now = self.now()
        with self.database.writing() as cursor:
            cursor.execute(
                "UPDATE asks SET request = ?, ask = ?, signature = ?, signed_at = ?, signings = signings + 1, "
                "refused = '' "
                "WHERE number = ?",
                (request, ask, signature, now, number),
            )
            cursor.execute(
                "INSERT OR IGNORE INTO marks (request, granularity, digests, labels, marked_at) "
                "SELECT request, granularity, digests, '[]', ? FROM asks WHERE number = ?",
                (now, number),
            )

    def taken(self, requests: Iterable[str]) -> None:
        """Drop the asks that the server says it has."""
        with self.database.writing() as cursor:
            cursor.executemany("DELETE FROM asks WHERE request = ? AND request != ''", [(each,) for each in requests])

    def refused(self, answers: Mapping[str, str]) -> None:
        """Keep why the server did not take asks, by their requests' ids."""
        with self.database.writing() as cursor:
            cursor.executemany(
                "UPDATE asks SET refused = ? WHERE request = ? AND request != ''",
                [(code, request) for request, code in answers.items()],
            )

    def _row(self, mark: Mark) -> tuple[str, str, bytes, str, float, float | None]:
        labels = json.dumps(mark.labels)
        return mark.request, mark.granularity, joined(mark.digests), labels, mark.marked_at or self.now(), None


def _note(cursor: Cursor, contents: Mapping[bytes, Iterable[bytes]]) -> None:
    rows = [(digest, content) for digest, each in contents.items() for content in each]
    cursor.executemany("INSERT OR IGNORE INTO contents VALUES (?, ?)", rows)


@contextmanager
def opened(path: Path) -> Iterator[Record]:
    """Open a record for as long as the context lasts."""
    with closing(Record(path)) as record:
        yield record


def joined(digests: Iterable[bytes]) -> bytes:
    """Return a set of digests as one value."""
    return b"".join(sorted(set(digests)))


def split(value: bytes) -> tuple[bytes, ...]:
    """Return the digests of a value that `joined` made.

    >>> split(joined([b"b" * 32, b"a" * 32])) == (b"a" * 32, b"b" * 32)
    True
    """
    return tuple(value[start : start + DIGEST] for start in range(0, len(value), DIGEST))
