"""The step that forgets, the same in a simulation and a deployment: session, method, guard, new model."""

from collections.abc import Callable
from dataclasses import dataclass

from fedquit.server.lifecycle.grid_session import GridSession, served
from fedquit.strategies.guard.decide import Decision, Evaluate, Policy, admit_model, check_reply
from fedquit.strategies.guard.step_checks import Bounds, Recent
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of, tensors_of


@dataclass(frozen=True, slots=True)
class Guard:
    """All that the guard needs for one request.

    Attributes:
        recent: what recent rounds show.
        bounds: of the method's model.
        policy: what is done with a model out of bounds.
        evaluate: gives the accuracy of a model on the server's own data, if it has any.
    """

    recent: Recent
    bounds: Bounds
    policy: Policy
    evaluate: Evaluate | None = None

    def check(self, new: StateDict, sent: StateDict, *, training: bool) -> None:
        """Refuse a device's reply, see `check_reply`.

        Raises:
            BadReplyError: the reply is out of bounds; the text says in what.
        """
        check_reply(new, sent, self.recent, self.bounds, self.policy, training=training)

    def admit(self, new: Arrays, current: StateDict) -> Decision:
        """Decide what becomes of a method's model, see `admit_model`."""
        return admit_model(tensors_of(new), current, self.recent, self.bounds, self.policy, self.evaluate)


@dataclass(frozen=True, slots=True)
class ForgetResult:
    """The outcome of a forget step.

    Attributes:
        arrays: the model to continue with, entries in the order of the layers; None: the guard refused it.
        decision: the guard's; None: no model is shared, so there was none to check.
        restart_round: the round from which training continues, for a method that goes back to an earlier model.
    """

    arrays: Arrays | None
    decision: Decision | None = None
    restart_round: int | None = None


Serve = Callable[[Method, GridSession], Arrays]


def forget_and_admit(
    method: Method,
    session: GridSession,
    guard: Guard | None,
    *,
    serve: Serve = served,
    hold: Callable[[Arrays], None] = lambda _new: None,
) -> ForgetResult:
    """Have a method serve a request, and the guard decide about its model.

    Args:
        method: that serves the request.
        session: of the request; afterwards it has the replies, and what they cost.
        guard: decides; None: no model is shared.
        serve: has the method serve the request: `served`, with a driver's own errors around it.
        hold: given the method's model before the guard looks at it, to keep it aside; what it raises ends the step.

    Raises:
        NoReplyError: a device that is needed did not reply.
        FedquitError: the method cannot do it.
    """
    new = serve(method, session)
    restart = method.restart_round(session) if method.traits.restarts else None
    hold(new)
    if guard is None:
        return ForgetResult(new, None, restart)
    decision = guard.admit(new, session.current)
    state = decision.state
    admitted = None if state is None else arrays_of({name: state[name] for name in session.current})
    return ForgetResult(admitted, decision, restart)
