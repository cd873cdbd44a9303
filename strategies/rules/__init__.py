"""How the models of a round become one: Flower's strategies, by name, each a rule with ours around it."""

import inspect
from typing import Any

from fedquit.errors import unknown
from fedquit.strategies.rules.fair import QFedAvg
from fedquit.strategies.rules.flower import FlowerRule
from fedquit.strategies.rules.mean import FedAvg, FedProx, is_mean
from fedquit.strategies.rules.optimisers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from fedquit.strategies.rules.privacy import ClientAdaptive, ClientFixed, Private, ServerAdaptive, ServerFixed
from fedquit.strategies.rules.robust import Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum
from fedquit.strategies.rules.rule import Opening, Rule, Traits
from fedquit.unlearning.setting_checks import construct

__all__ = [
    "PRIVACY",
    "RULES",
    "FlowerRule",
    "Opening",
    "Rule",
    "Traits",
    "is_mean",
    "make_private",
    "make_rule",
    "settings_of_rule",
]

RULES: dict[str, type[FlowerRule]] = {
    cls.name: cls
    for cls in (
        FedAvg, FedProx, FedAvgM, FedAdam, FedYogi, FedAdagrad, QFedAvg,
        FedMedian, FedTrimmedAvg, Krum, MultiKrum, Bulyan,
    )
}  # fmt: skip
"""Every aggregation strategy by name."""
PRIVACY: dict[str, type[Private]] = {
    cls.name: cls for cls in (ServerFixed, ServerAdaptive, ClientFixed, ClientAdaptive)
}
"""Every kind of differential privacy by name."""


def make_rule(name: str, /, **settings: Any) -> FlowerRule:
    """Return the strategy `name` with these settings.

    Raises:
        InputError: no such strategy, no such setting, or a setting is missing or out of range.

    >>> make_rule("fedadam", eta=0.01)
    FedAdam(eta=0.01, beta_1=0.9, beta_2=0.99, tau=0.001)
    """
    if name not in RULES:
        raise unknown("strategy", name, RULES)
    return construct(f"strategy '{name}'", RULES[name], settings)


def make_private(name: str, inner: FlowerRule, /, **settings: Any) -> Private:
    """Return `inner` with differential privacy around it.

    Raises:
        InputError: no such kind, no such setting, or a setting is missing or out of range.

    >>> make_private("server-fixed", FedAvg(), noise_multiplier=1.0, clipping_norm=0.5).noise_multiplier
    1.0
    """
    if name not in PRIVACY:
        raise unknown("dp", name, PRIVACY)
    known = [key.replace("-", "_") for key in settings_of_rule(PRIVACY[name])]
    for given in settings:
        if given not in known:
            raise unknown(f"setting of dp '{name}'", given, known)
    return construct(f"dp '{name}'", PRIVACY[name], {"inner": inner, **settings})


def settings_of_rule(cls: type[Rule]) -> dict[str, float | None]:
    """Return the settings of a rule with their defaults; None: it must be given.

    >>> settings_of_rule(FedTrimmedAvg), settings_of_rule(Krum)
    ({'beta': 0.2}, {'num-malicious-nodes': None})
    """
    return {
        name.replace("_", "-"): None if parameter.default is parameter.empty else parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if name != "inner"
    }
