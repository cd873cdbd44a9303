"""The objective that a run's settings name, with its gate, checked against each other."""

from functools import lru_cache

from fedquit.client.objectives import OBJECTIVES, Objective, Traits, make_gate, make_objective
from fedquit.errors import InputError
from fedquit.settings import Key, Settings, settings_of

NOT_DEPLOYED = (
    "objective '{}' has devices train models of their own, which deployed devices do not do yet; take one with a "
    "global model alone, such as fedavg or fedntd"
)


def objective_of(settings: Settings) -> Objective:
    """Return the objective with its settings and its gate.

    Raises:
        InputError: there is no such objective, gate or setting, the objective has nothing for a gate to choose, or
            devices cannot have such models with it.

    >>> objective_of(Settings(objective="fedprox", objective_settings="mu=0.1"))
    FedProx(mu=0.1)
    """
    return _objective(settings.key())


@lru_cache(maxsize=16)
def _objective(key: Key) -> Objective:
    """Make an objective once: it is frozen, and every message asks for it."""
    settings = settings_of(key)
    plain = make_objective(settings.objective, **settings.objective_settings)
    _check_models(settings, plain.needs())
    if not settings.gate:
        if settings.gate_settings:
            raise InputError(f"gate-settings: {', '.join(settings.gate_settings)} has no effect without a gate")
        return plain
    gate = make_gate(settings.gate, **settings.gate_settings)
    if not plain.traits.gated:
        raise InputError(
            f"gate: objective '{settings.objective}' has no per-sample distillation loss to gate; drop gate, or use "
            f"one of: {', '.join(other for other, cls in OBJECTIVES.items() if cls.traits.gated)}"
        )
    return make_objective(settings.objective, **settings.objective_settings, gate=gate)


def _check_models(settings: Settings, traits: Traits) -> None:
    name = settings.objective
    if settings.models and traits.same_model:
        others = ", ".join(other for other, cls in OBJECTIVES.items() if not cls.traits.same_model)
        raise InputError(
            f"models: objective '{name}' averages weights, so all devices have the same model: give model instead, "
            f"or take an objective of devices with models of their own: {others}"
        )
    if traits.keeps == "own teacher" and not settings.mentee:
        raise InputError(
            f"objective '{name}' shares a small model besides the personalised ones: set mentee, such as mlp"
        )
    if settings.mentee and traits.keeps != "own teacher":
        raise InputError(f"mentee: objective '{name}' shares no such model; leave it out, or take objective = fedkd")


def check_global_model(settings: Settings, what: str) -> None:
    """Refuse `what`, which works on files of the global model, where there is none.

    Raises:
        InputError: devices share something else.

    >>> check_global_model(Settings(), "fedquit audit")
    """
    if objective_of(settings).needs().shares != "model":
        raise InputError(
            f"{what} works on a global model; objective '{settings.objective}' has none: report.json has the "
            "metrics of each personalised model"
        )


def check_taken_over(settings: Settings, what: str) -> None:
    """Refuse `what`, which continues another run's training, where devices keep a part of its state themselves.

    Raises:
        InputError: they do.

    >>> check_taken_over(Settings(), "--start")
    """
    if objective_of(settings).needs().owns:
        raise InputError(
            f"{what} continues from another run's training; with objective '{settings.objective}' the devices keep "
            "models of their own, which cannot be taken over: run fedquit simulate for each, and fedquit summary"
        )
