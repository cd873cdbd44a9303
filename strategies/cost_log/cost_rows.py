"""The rows of the cost log: what one message cost, a line each in a CSV file that is only ever appended to."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast, get_args

from fedquit.errors import InputError

Direction = Literal["down", "up"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


class Row(NamedTuple):
    """What one message cost.

    Attributes:
        phase: train, forget, recover, later, retrain, ... or evaluate.
        round: of the phase.
        node: the client (its partition-id), whatever Flower numbers it at present.
        direction: "down", from the server, or "up".
        payload_bytes: the content of its records, as Flower's `count_bytes` counts it.
        wire_bytes: what Flower sends for it.
        deduplicated_bytes: the same without the objects that a message before it in this exchange carried already.
        seconds: from the question to the answer; 0 for a question.
        device_seconds: of processor time, as the device says.
        saved_bytes: of payload, that compression saved; 0 without.
    """

    phase: str
    round: int
    node: int
    direction: Direction
    payload_bytes: int
    wire_bytes: int
    deduplicated_bytes: int
    seconds: float = 0.0
    device_seconds: float = 0.0
    saved_bytes: int = 0


HEADER = (",".join(Row._fields) + "\n").encode()
OLD_HEADER = HEADER.replace(b",saved_bytes", b"")
"""Of a run begun before there was compression, whose later rows may have one value more."""


def line_of(row: Row) -> bytes:
    """Return a row as a line.

    >>> line_of(Row("train", 1, 0, "up", 90, 100, 100, 0.25)).strip()
    b'train,1,0,up,90,100,100,0.250000,0.000000,0'
    """
    counts = (*row[1:3], row.direction.encode(), *row[4:])
    return b"%b,%d,%d,%b,%d,%d,%d,%.6f,%.6f,%d\n" % (row.phase.encode(), *counts)


def write_rows(file: BinaryIO, rows: Iterable[Row]) -> None:
    """Add rows to a file, with a header if they are its first."""
    if file.tell() == 0:
        file.write(HEADER)
    file.writelines(map(line_of, rows))


def read_rows(path: Path, size: int | None = None) -> Iterator[Row]:
    """Yield the rows of a file one by one, or those within its first `size` bytes.

    Raises:
        InputError: a line is no row.
    """
    if size == 0 or not path.exists():
        return
    with path.open("rb") as file:
        place = 0
        for number, line in enumerate(file, start=1):
            place += len(line)
            if size is not None and place > size:
                return
            if number == 1 and line in (HEADER, OLD_HEADER):
                continue
            yield _row(line, f"{path}, line {number}")


def _row(line: bytes, where: str) -> Row:
    try:
        values = line.decode().split(",")
        phase, number, node, direction, payload, wire, deduplicated, seconds, device, *saved = values
        if direction not in ("down", "up") or not line.endswith(b"\n") or len(saved) > 1:
            raise ValueError(direction)
        return Row(
            phase, int(number), int(node), cast(Direction, direction),
            int(payload), int(wire), int(deduplicated), float(seconds), float(device), *map(int, saved),
        )  # fmt: skip
    except ValueError:
        raise InputError(f"{where}: no row of a cost log") from None
