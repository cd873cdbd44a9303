"""A device's own record, in one SQLite file: its owner's evidence."""

from fedquit.client.record.record import Record, opened
from fedquit.client.record.rows import Ask, Forgotten, Mark, Round

__all__ = ["Ask", "Forgotten", "Mark", "Record", "Round", "opened"]
