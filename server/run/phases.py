"""The phases of a run: train, then forget and recover for each request, and the models to compare with.

Those are retrained without the samples. For the verdict (`unlearning/evaluation/verdict.py`) they are trained on, for
as many rounds as the recovered model has more than the original (`match`), and so is the original, which forgot nothing
(`control`): what is compared has seen the same number of rounds.
"""

from dataclasses import dataclass

from fedquit.client.training.build_objective import objective_of
from fedquit.settings import Settings


@dataclass(frozen=True, slots=True)
class Phase:
    """From the model of one stage to that of another, by ordinary rounds or by the method.

    Attributes:
        name: as in events and the cost log.
        kind: train, forget, recover, later, retrain, control or match.
        start: stage that it starts from; `result`: stage that it ends in.
        seed: of its clients and samplings.
        after: the phase whose rounds the starting model has been trained for; "" if none.
        requests: how many requests are in force, the one that a "forget" carries out included.
        reference: which retrained model it makes or trains on.
        draws: the phase whose random choices it makes, of which it is another course or the rest; "": its own.
    """

    name: str
    kind: str
    start: str
    result: str
    seed: int
    after: str = ""
    requests: int = 0
    reference: int = 0
    draws: str = ""

    @property
    def recovers(self) -> bool:
        """Whether its rounds follow a request."""
        return self.kind in ("recover", "later", "control")

    @property
    def matches(self) -> bool:
        """Whether it trains a model on for as many rounds as the recovered one, to compare that with."""
        return self.kind in ("control", "match")

    @property
    def line(self) -> str:
        """The name of what a device's own model is trained in without a break: training with all that follows it."""
        return self.name if self.kind == "retrain" else "train"


def nth(name: str, number: int) -> str:
    """Return the name of a phase or stage that there are several of: the first goes without a number.

    >>> nth("forget", 0), nth("forget", 1)
    ('forget', 'forget-2')
    """
    return name if number == 0 else f"{name}-{number + 1}"


def reference_name(number: int) -> str:
    """Return the stage of retrained model `number`.

    >>> reference_name(0), reference_name(2)
    ('retrained', 'retrained-2')
    """
    return "retrained" if number == 0 else f"retrained-{number}"


def trained_on(stage: str, number: int) -> str:
    """Return the name of a stage's model after `number` more rounds; 0: as it was.

    >>> trained_on("retrained-1", 2), trained_on("retrained-1", 0)
    ('retrained-1+2', 'retrained-1')
    """
    return f"{stage}+{number}" if number else stage


def is_trained_on(stage: str) -> bool:
    """Say whether a stage's name is one that `trained_on` gives to a model with more rounds.

    >>> is_trained_on("retrained-1+2"), is_trained_on("retrained-1")
    (True, False)
    """
    return "+" in stage


def matched_name(number: int) -> str:
    """Return the stage of retrained model `number` with as many rounds as the recovered one.

    >>> matched_name(0), matched_name(2)
    ('matched', 'matched-2')
    """
    return reference_name(number).replace("retrained", "matched")


def phases(settings: Settings, *, matches: bool = True) -> list[Phase]:
    """Return the phases of a run in order.

    The oracle rule compares recovery with the retrained model, which must then come first.

    Args:
        settings: of the run.
        matches: with those that train models on for the verdict; without in runs that an earlier version began.
    """
    made = [Phase("train", "train", "initial", "original", settings.seed)]
    for i in range(settings.num_requests):
        start, forget, unlearned = made[-1], nth("forget", i), nth("unlearned", i)
        made += [
            Phase(forget, "forget", start.result, unlearned, settings.seed, start.name, i + 1),
            Phase(nth("recover", i), "recover", unlearned, nth("recovered", i), settings.seed, forget, i + 1),
        ]
    if settings.budget:
        last = made[-1]
        made.append(Phase("later", "later", last.result, "later", settings.seed, last.name, settings.num_requests))
    references = [
        Phase(
            name="retrain" if number == 0 else f"retrain-{number}",
            kind="retrain",
            start="initial" if number == 0 else f"initial-{number}",
            result=reference_name(number),
            seed=settings.seed + number,
            requests=settings.num_requests,
            reference=number,
        )
        for number in range(settings.references if settings.reference == "retrain" else 0)
    ]
    first = [made[0], *references, *made[1:]] if settings.recover == "oracle" else [*made, *references]
    return [*first, *(_for_the_verdict(settings, references) if matches else ())]


def _for_the_verdict(settings: Settings, references: list[Phase]) -> list[Phase]:
    """Return the phases that train the original and the retrained models on; none where each device has its own."""
    if not references or objective_of(settings).needs().owns:
        return []
    everyone, last = settings.num_requests, nth("recover", settings.num_requests - 1)
    control = Phase("control", "control", "original", "control", settings.seed, "train", everyone, draws=last)
    return [
        control,
        *(
            Phase(
                name="match" if each.reference == 0 else f"match-{each.reference}",
                kind="match",
                start=each.result,
                result=matched_name(each.reference),
                seed=each.seed,
                after=each.name,
                requests=everyone,
                reference=each.reference,
                draws=each.name,
            )
            for each in references
        ),
    ]
