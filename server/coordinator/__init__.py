"""What the server of a deployed federation does, for weeks: train on a schedule, forget, recover, and log costs."""

from fedquit.server.coordinator.coordinator import Coordinator
from fedquit.server.coordinator.open_workplace import open_place
from fedquit.server.coordinator.workplace import Workplace

__all__ = ["Coordinator", "Workplace", "open_place"]
