"""A device's own record, in one SQLite file: its owner's evidence."""

from fedquit.client.device.record.record import Record, opened
from fedquit.client.device.record.record_rows import Ask, Forgotten, Mark, Round

__all__ = ["Ask", "Forgotten", "Mark", "Record", "Round", "opened"]
