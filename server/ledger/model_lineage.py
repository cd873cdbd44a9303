"""What a model descends from: the steps of the ledger, each from `model_before` to `model_after`.

A model is its file: one with a SHA-256 that was there before is that earlier model. So a step that goes back, as
retraining and undoing do, makes nothing new, and what follows it descends from the model that it went back to.
"""

from collections.abc import Sequence

from fedquit.errors import FedquitError
from fedquit.server.ledger import Request, Step


def is_holder(request: Request, member: int) -> bool:
    """Say whether what a member contributed before a request is taken to hold what the request is about.

    A class may lie on any device; the server does not see where.
    """
    return request.granularity == "class" or member == request.subject


def forget_step(steps: Sequence[Step], request: Request) -> Step | None:
    """Return the step that forgot, None if there is none or it was undone."""
    own = [step for step in steps if step.request == request.id and step.phase in ("forget", "undo")]
    return own[-1] if own and own[-1].phase == "forget" else None


def recovery(steps: Sequence[Step], request: Request) -> list[Step]:
    """Return the rounds of recovery since the step that forgot."""
    forgot = forget_step(steps, request)
    return [s for s in steps if forgot and s.number > forgot.number and (s.request, s.phase) == (request.id, "recover")]


def descendants(steps: Sequence[Step], request: Request) -> list[Step]:
    """Return the steps from the first whose model contained what the request is about to the one before it forgot.

    If the federation went back meanwhile, for another request, not all of them did: it is no promise to say too much.
    """
    forgot, holding = forget_step(steps, request), _holding(steps, request)
    first = holding[0].number if holding else len(steps) + 1
    return [step for step in steps if first <= step.number and (forgot is None or step.number < forgot.number)]


def check_exact(steps: Sequence[Step], request: Request, model: str) -> None:
    """Check that a model descends from none that contained what the request is about.

    Args:
        steps: all steps, those that served the request included.
        request: which one.
        model: SHA-256 of its file.

    Raises:
        FedquitError: it does.
    """
    for step in _holding(steps, request):
        if step.model_after == model:
            raise FedquitError(f"model {model[:12]} (step {step.number}) descends from the data of the request")


def _holding(steps: Sequence[Step], request: Request) -> list[Step]:
    """Return the steps whose models descend from what was contributed before the request was served.

    Who contributes after that has dropped what the request is about.
    """
    forgot = forget_step(steps, request)
    last = forgot.number - 1 if forgot else max((step.number for step in steps), default=0)
    known, holding, found = {step.model_before for step in steps[:1]}, set[str](), list[Step]()
    for step in steps:
        if step.model_after not in known:
            gave = step.number <= last and any(is_holder(request, given.member) for given in step.contributions)
            if gave or step.model_before in holding:
                holding.add(step.model_after)
            known.add(step.model_after)
        if step.model_after in holding:
            found.append(step)
    return found
