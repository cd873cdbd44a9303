"""What a device minimises when it trains: plain cross-entropy, or with a teacher (knowledge distillation)."""

from fedquit.client.objectives.fedavg import FedAvg
from fedquit.client.objectives.fedgkd import FedGKD
from fedquit.client.objectives.fedlmd import FedLMD
from fedquit.client.objectives.fedntd import FedNTD
from fedquit.client.objectives.fedprox import FedProx
from fedquit.client.objectives.gates import GATES, Adaptive, Speculative, make_gate
from fedquit.client.objectives.kd import KD
from fedquit.client.objectives.moon import MOON
from fedquit.client.objectives.objective import (
    OBJECTIVES,
    Done,
    LocalRound,
    Objective,
    Traits,
    all_objectives,
    make_objective,
)

__all__ = [
    "GATES",
    "KD",
    "MOON",
    "OBJECTIVES",
    "Adaptive",
    "Done",
    "FedAvg",
    "FedGKD",
    "FedLMD",
    "FedNTD",
    "FedProx",
    "LocalRound",
    "Objective",
    "Speculative",
    "Traits",
    "all_objectives",
    "make_gate",
    "make_objective",
]
