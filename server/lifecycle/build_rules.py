"""The strategies that the settings name for training and for recovery, checked against each other."""

from dataclasses import dataclass

from fedquit.client.data.build_data_and_model import empty_model
from fedquit.client.training.build_objective import objective_of
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.strategies.rules import FlowerRule, is_mean, make_private, make_rule
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.arithmetic import parameter_names


@dataclass(frozen=True, slots=True)
class Rules:
    """How models become one: in training and in the models that are retrained, and in recovery."""

    training: FlowerRule
    recovery: FlowerRule

    def after(self, method: Method | None) -> FlowerRule:
        """Return the rule of rounds after a method served a request; None: of training.

        A method that restarts leaves a model to train again, so that its recovery is training.
        """
        return self.training if method is None or method.traits.restarts else self.recovery


def named_rules(settings: Settings) -> Rules:
    """Return the strategies that the settings name, whoever the clients are.

    Raises:
        InputError: no such strategy or setting, or settings that exclude each other.
    """
    if objective_of(settings).needs().shares != "model":
        _check_no_mean(settings)
    rules = _private(settings, _plain(settings))
    if "fedprox" in (settings.strategy, settings.recover_strategy) and settings.objective != "fedavg":
        raise InputError(
            f"strategy 'fedprox' has devices minimise an objective of its own: leave out objective = "
            f"{settings.objective}, or take another strategy"
        )
    return rules


def _plain(settings: Settings) -> Rules:
    training = make_rule(settings.strategy, **settings.strategy_settings)
    recovery = training
    if settings.recover_strategy:
        recovery = make_rule(settings.recover_strategy, **settings.recover_strategy_settings)
    elif settings.recover_strategy_settings:
        raise InputError("recover-strategy-settings: there is no recover-strategy whose settings they could be")
    return Rules(training, recovery)


def _private(settings: Settings, rules: Rules) -> Rules:
    """Put differential privacy around the rules, if the settings ask for it."""
    if not settings.dp:
        if settings.dp_settings:
            raise InputError("dp-settings: there is no dp whose settings they could be")
        return rules
    for rule in (rules.training, rules.recovery):
        if not is_mean(rule):
            raise InputError(
                f"dp: its noise fits a mean, and strategy '{rule.name}' makes none: take fedavg or fedprox, or no dp"
            )
    _check_private(settings)
    training, recovery = (
        make_private(settings.dp, rule, **settings.dp_settings) for rule in (rules.training, rules.recovery)
    )
    return Rules(training, recovery)


def _check_no_mean(settings: Settings) -> None:
    """Refuse what makes one model of many, where devices share no model."""
    others = {
        "recover-strategy": settings.recover_strategy,
        "dp": settings.dp,
        "weight-cap": settings.weight_cap,
        "clip-steps": settings.clip_steps,
        "accuracy-floor": settings.accuracy_floor,
    }
    for name, given in {"strategy": settings.strategy != "fedavg", **others}.items():
        if given:
            raise InputError(f"{name}: objective '{settings.objective}' has no models to aggregate: leave it out")


def _check_private(settings: Settings) -> None:
    """Refuse what noise or clipping cannot be right for."""
    model = empty_model(settings.key())
    buffers = sorted(set(model.state_dict()) - parameter_names(model))
    if buffers:
        raise InputError(
            f"dp: noise on running statistics, such as '{buffers[0]}', can make a model useless; take a model without "
            "batch normalisation"
        )
    if settings.dp.startswith("client") and objective_of(settings).needs().down != "model":
        raise InputError(
            f"dp: devices clip against the one model they get, objective '{settings.objective}' sends more: "
            f"take dp = {settings.dp.replace('client', 'server')}"
        )
