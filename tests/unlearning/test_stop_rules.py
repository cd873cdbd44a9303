import pytest

from fedquit.errors import InputError
from fedquit.unlearning.stop_rules import Budget, Oracle, StopRule, Utility

RULES: list[StopRule] = [Budget(rounds=1, num_bytes=1), Utility(0.0, max_rounds=1), Oracle(0.0, max_rounds=1)]


@pytest.mark.parametrize("rule", RULES)
def test_at_least_one_round_is_run(rule: StopRule) -> None:
    assert rule.stop([], num_bytes=10**9) is None
    assert rule.stop([1.0], num_bytes=10**9) is not None


def test_a_budget_of_rounds_is_spent_exactly() -> None:
    assert Budget(rounds=3).stop([0.1, 0.2], num_bytes=10**12) is None
    stopped = Budget(rounds=3).stop([0.1, 0.2, 0.3], num_bytes=0)
    assert stopped is not None
    assert stopped.reached
    assert "3 rounds" in stopped.reason


def test_a_budget_of_bytes_stops_whatever_the_rounds() -> None:
    rule = Budget(rounds=100, num_bytes=500)
    assert rule.stop([0.1], num_bytes=499) is None
    stopped = rule.stop([0.1], num_bytes=500)
    assert stopped is not None
    assert "500 bytes" in stopped.reason


def test_utility_stops_within_the_tolerance() -> None:
    rule = Utility(reference=0.52, tolerance=0.05)
    assert rule.stop([0.2, 0.4699], num_bytes=0) is None
    stopped = rule.stop([0.2, 0.47], num_bytes=0)  # in binary, 0.52 - 0.05 is above 0.47
    assert stopped is not None
    assert stopped.reached


def test_patience_wants_its_rounds_in_a_row() -> None:
    rule = Utility(reference=0.9, tolerance=0.0, patience=2)
    assert rule.stop([0.95], num_bytes=0) is None
    assert rule.stop([0.95, 0.8, 0.95], num_bytes=0) is None
    stopped = rule.stop([0.95, 0.8, 0.95, 0.91], num_bytes=0)
    assert stopped is not None
    assert stopped.reached


@pytest.mark.parametrize("rule", [Utility(0.9, max_rounds=2), Oracle(0.9, max_rounds=2)])
def test_running_out_of_rounds_is_not_reaching_the_goal(rule: StopRule) -> None:
    assert rule.stop([0.1], num_bytes=0) is None
    stopped = rule.stop([0.1, 0.2], num_bytes=0)
    assert stopped is not None
    assert not stopped.reached
    assert "not reached in 2 rounds" in stopped.reason
    reached = rule.stop([0.1, 0.9], num_bytes=0)
    assert reached is not None
    assert reached.reached


def test_the_oracle_stops_at_the_retrained_accuracy_and_not_below() -> None:
    assert Oracle(target=0.8).stop([0.7, 0.79], num_bytes=0) is None
    stopped = Oracle(target=0.8).stop([0.7, 0.8], num_bytes=0)
    assert stopped is not None
    assert "retrained" in stopped.reason


def test_an_accuracy_that_is_nan_never_reaches_a_goal() -> None:
    assert Utility(0.0).stop([float("nan")], num_bytes=0) is None


def test_rules_refuse_what_they_cannot_use() -> None:
    with pytest.raises(InputError, match="a budget needs rounds or num_bytes"):
        Budget()
    with pytest.raises(InputError, match="rounds is 0"):
        Budget(rounds=0)
    with pytest.raises(InputError, match="reference is 90"):
        Utility(reference=90)
    with pytest.raises(InputError, match="patience is 0"):
        Utility(reference=0.9, patience=0)
    with pytest.raises(InputError, match="target is nan"):
        Oracle(target=float("nan"))
