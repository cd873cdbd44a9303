"""What the server of a deployed federation does, for weeks: train on a schedule, forget, recover, and account."""

from fedquit.server.coordinator.coordinator import Coordinator
from fedquit.server.coordinator.opening import open_place
from fedquit.server.coordinator.receipts import NoReceipts, Receipts, SignedReceipts
from fedquit.server.coordinator.workplace import Workplace

__all__ = ["Coordinator", "NoReceipts", "Receipts", "SignedReceipts", "Workplace", "open_place"]
