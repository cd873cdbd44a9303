"""The strategies of a simulation's phases, checked against how many clients there are in each."""

from fedquit.client.data.forget_sets import forgotten_clients
from fedquit.client.training.build_method import method_of
from fedquit.errors import InputError
from fedquit.server.lifecycle.build_rules import Rules, named_rules
from fedquit.server.run.phases import Phase, phases
from fedquit.settings import Settings
from fedquit.strategies.rounds.train import num_sampled
from fedquit.strategies.rules import Rule


def rules_of(settings: Settings) -> Rules:
    """Return the strategies with their settings, and with differential privacy around them if they set it.

    Raises:
        InputError: no such strategy or setting, settings that exclude each other, or fewer clients than it needs.

    >>> rules_of(Settings(strategy="fedmedian", forget=1)).recovery
    FedMedian()
    """
    rules = named_rules(settings)
    for phase in phases(settings):
        if phase.kind != "forget":
            _check_size(rules.after(method_of(settings) if phase.recovers else None), phase, settings)
    return rules


def _check_size(rule: Rule, phase: Phase, settings: Settings) -> None:
    """Refuse a strategy that needs more replies than clients take part in the rounds of a phase."""
    left = settings.clients - len(forgotten_clients(settings, phase.requests))
    sampled = num_sampled(left, settings.fraction)
    if sampled < rule.needs():
        raise InputError(
            f"strategy '{rule.name}' needs {rule.needs()} replies a round with these settings, and in phase "
            f"'{phase.name}' {sampled} of {left} clients take part: take more clients, or other strategy settings"
        )
    rule.check_size(sampled)
