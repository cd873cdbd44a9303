"""What the server of a deployed federation does, for weeks: train on a schedule, forget, recover, and account."""

from fedquit.server.coordinator.coordinator import Coordinator
from fedquit.server.coordinator.open_workplace import open_place
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.receipts.receipt_maker import NoReceipts, Receipts, SignedReceipts

__all__ = ["Coordinator", "NoReceipts", "Receipts", "SignedReceipts", "Workplace", "open_place"]
