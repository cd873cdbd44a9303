"""What could run under secure aggregation, where the server learns the sum of the clients' updates and no single one.

Nothing can today. Flower 1.41 has SecAgg and SecAgg+ as `SecAggPlusWorkflow` and `secaggplus_mod`, for its older
interface: the workflow demands a LegacyContext with a strategy that has `configure_fit`, the mod a FitRes. What fedquit
is built on, the message API (`flwr.serverapp`, `flwr.clientapp`), has neither.
"""

from collections.abc import Collection

from fedquit.client.method import method_of
from fedquit.client.settings import Settings
from fedquit.errors import InputError
from fedquit.strategies.rules import RULES, Rule
from fedquit.unlearning.methods import all_methods


def check_secure_aggregation(settings: Settings, rules: Collection[Rule]) -> None:
    """Refuse what reads single clients' updates, if the run is to be under secure aggregation; then refuse the run.

    Raises:
        InputError: with the reason and what would work.

    >>> check_secure_aggregation(Settings(), [])
    """
    if not settings.secure_aggregation:
        return
    methods = ", ".join(name for name, method in all_methods().items() if method.traits.secure_aggregation)
    strategies = ", ".join(name for name, rule in RULES.items() if not rule.traits.reads_single)
    if not method_of(settings).traits.secure_aggregation:
        raise InputError(
            f"secure-aggregation: method '{settings.method}' reads single clients' updates; these do not: {methods}"
        )
    for rule in rules:
        if rule.traits.reads_single:
            raise InputError(
                f"secure-aggregation: strategy '{rule.name}' reads single clients' updates; these do not: {strategies}"
            )
    raise InputError(
        "secure-aggregation: not yet: Flower 1.41 has it for its older interface only, not for the message API that "
        f"fedquit uses. Methods that would work: {methods}. Strategies: {strategies}"
    )
