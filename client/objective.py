"""The objective that a run's settings name, with its gate, checked against each other."""

from fedquit.client.objectives import Objective, make_gate, make_objective
from fedquit.client.settings import Settings
from fedquit.errors import InputError


def objective_of(settings: Settings) -> Objective:
    """Return the objective with its settings and its gate.

    Raises:
        InputError: there is no such objective, gate or setting, or the objective has nothing for a gate to choose.

    >>> objective_of(Settings(objective="fedprox", objective_settings="mu=0.1"))
    FedProx(mu=0.1)
    """
    plain = make_objective(settings.objective, **settings.objective_settings)
    if not settings.gate:
        if settings.gate_settings:
            raise InputError(f"gate-settings: there is no gate to set {', '.join(settings.gate_settings)} of")
        return plain
    gate = make_gate(settings.gate, **settings.gate_settings)
    if not plain.traits.gated:
        raise InputError(
            f"gate: objective '{settings.objective}' has no term of each sample that a gate could leave out"
        )
    return make_objective(settings.objective, **settings.objective_settings, gate=gate)
