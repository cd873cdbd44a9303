"""The lineage of models the plain way: all steps are read, oldest first. The ledger must come to the same."""

from collections.abc import Sequence

from fedquit.server.ledger import Request, Step
from fedquit.server.ledger.model_lineage import forget_step


def holding(steps: Sequence[Step], request: Request) -> list[Step]:
    """Return the steps whose models descend from what was contributed before the request was served."""
    forgot = forget_step(steps, request)
    last = forgot.number - 1 if forgot else len(steps)
    known, models, found = {step.model_before for step in steps[:1]}, set[str](), list[Step]()
    for step in steps:
        if step.model_after not in known:
            whose = {given.member for given in step.contributions}
            gave = step.number <= last and bool(whose if request.granularity == "class" else whose & {request.subject})
            if gave or step.model_before in models:
                models.add(step.model_after)
            known.add(step.model_after)
        if step.model_after in models:
            found.append(step)
    return found


def descendants(steps: Sequence[Step], request: Request) -> list[int]:
    """Return the numbers of the steps from the first that held the data to the one before the step that forgot."""
    forgot, held = forget_step(steps, request), holding(steps, request)
    first = held[0].number if held else len(steps) + 1
    return [step.number for step in steps if first <= step.number and (forgot is None or step.number < forgot.number)]
