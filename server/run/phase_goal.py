"""When a phase of a simulation ends: after a number of rounds, at the goal of recovery, or when the budget is spent."""

from collections.abc import Collection

from fedquit.server.lifecycle.recovery_plan import RecoveryPlan, stop_rule
from fedquit.server.run.phases import Phase, nth
from fedquit.server.run.run_state import Round
from fedquit.server.run.simulated_run import SimulatedRun
from fedquit.unlearning.stop_rules import Budget, StopRule


def goal_of(run: SimulatedRun, phase: Phase) -> StopRule | None:
    """Return the rule that ends a phase; None: its budget was spent before it begins."""
    if phase.kind == "recover":
        plan = _plan(run, phase)
        return stop_rule(plan, _reference(run, phase, plan))
    rounds = run.settings.rounds
    if phase.kind == "later":
        rounds = _rounds_left(run, phase)
    elif phase.matches:
        since = run.store.state.rounds_since_training(run.settings.num_requests)
        rounds = run.settings.recover_rounds if since is None else since
    return Budget(rounds=rounds) if rounds else None


def payload(rounds: Collection[Round]) -> int:
    """Return the payload bytes of rounds, in both directions."""
    return sum(finished.bytes_down + finished.bytes_up for finished in rounds)


def _plan(run: SimulatedRun, phase: Phase) -> RecoveryPlan:
    """Return what recovery is to reach; after a method that restarts, as many rounds as the model had."""
    settings = run.settings
    if run.method.traits.restarts:
        return RecoveryPlan("budget", settings.rounds - run.store.trained(phase.after))
    return RecoveryPlan(
        settings.recover, settings.recover_rounds, settings.recover_bytes, settings.tolerance, settings.patience
    )


def _reference(run: SimulatedRun, phase: Phase, plan: RecoveryPlan) -> float | None:
    """Return the accuracy to reach; None: the plan has no use for one."""
    if plan.rule == "budget":
        return None
    if plan.rule == "oracle":
        return run.store.state.of("retrain")[-1].measures["holdout_accuracy"]
    return run.accuracy(run.phase(phase.after).start)


def _rounds_left(run: SimulatedRun, phase: Phase) -> int:
    """Return for how many more rounds the budget has bytes, at the bytes of the last round of recovery."""
    recover = run.store.state.of(phase.after)
    spent = payload(recover) + payload(run.store.state.of(nth("forget", phase.requests - 1)))
    each = payload(recover[-1:])
    return max(0, (run.settings.budget * each - spent) // each)
