"""What a device minimises when it trains: plain cross-entropy, or with a teacher (knowledge distillation)."""

from fedquit.client.objectives.base.gates import GATES, Adaptive, Speculative, make_gate
from fedquit.client.objectives.base.objective import (
    OBJECTIVES,
    Done,
    LocalRound,
    Objective,
    Traits,
    all_objectives,
    make_objective,
    progress,
)
from fedquit.client.objectives.base.sharing import Form, Sharing
from fedquit.client.objectives.fd import FD
from fedquit.client.objectives.fedavg import FedAvg
from fedquit.client.objectives.fedgkd import FedGKD
from fedquit.client.objectives.fedkd import FedKD
from fedquit.client.objectives.fedlmd import FedLMD
from fedquit.client.objectives.fedntd import FedNTD
from fedquit.client.objectives.fedproto import FedProto
from fedquit.client.objectives.fedprox import FedProx
from fedquit.client.objectives.kd import KD
from fedquit.client.objectives.moon import MOON

__all__ = [
    "FD",
    "GATES",
    "KD",
    "MOON",
    "OBJECTIVES",
    "Adaptive",
    "Done",
    "FedAvg",
    "FedGKD",
    "FedKD",
    "FedLMD",
    "FedNTD",
    "FedProto",
    "FedProx",
    "Form",
    "LocalRound",
    "Objective",
    "Sharing",
    "Speculative",
    "Traits",
    "all_objectives",
    "make_gate",
    "make_objective",
    "progress",
]
