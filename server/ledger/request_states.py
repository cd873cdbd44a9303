"""The states of a request, and which may follow which."""

from fedquit.errors import StateError, unknown

STATES = ("asked", "forgetting", "recovering", "done", "unrecovered", "refused", "failed")
"""Every state of a request."""
UNDER_WAY = ("forgetting", "recovering")
"""Begun, and not ended."""
FORGOTTEN = ("done", "unrecovered")
"""The data is forgotten; in "unrecovered" the model did not get back to its goal."""
ENDS = (*FORGOTTEN, "refused", "failed")
"""From these no request goes on."""
FOLLOWING = {
    "asked": {"forgetting", "refused"},
    "forgetting": {"forgetting", "recovering", "refused", "failed"},
    "recovering": {"recovering", "forgetting", *FORGOTTEN, "failed"},
    "done": {"done"},
    "unrecovered": {"unrecovered"},
    "refused": {"refused"},
    "failed": {"failed"},
}


def check_transition(of: str, to: str, *, adds_receipt: bool = False) -> None:
    """Refuse a transition that no request may make.

    A request under way may stay where it is (a fallback method, a further step), and go back from recovering to
    forgetting when what its method did is undone; one that ended may only gain the receipt that it lacks.

    Raises:
        StateError: `to` cannot follow `of`.
        InputError: one of them is no state.

    >>> check_transition("asked", "forgetting")
    >>> check_transition("done", "asked")
    Traceback (most recent call last):
    ...
    fedquit.errors.StateError: a request cannot go from done to asked; from done it stays
    """
    for state in (of, to):
        if state not in STATES:
            raise unknown("state", state, STATES)
    if to not in FOLLOWING[of]:
        further = [state for state in STATES if state in FOLLOWING[of] and state != of]
        raise StateError(f"a request cannot go from {of} to {to}; from {of} it {_can(further)}")
    if of == to and of in ENDS and not adds_receipt:
        raise StateError(f"a request cannot go from {of} to {to} but to add its receipt")


def _can(further: list[str]) -> str:
    """Say where a request can go."""
    return f"can go to {', '.join(further)}" if further else "stays"
