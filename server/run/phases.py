"""The phases of a run: train, then forget and recover for each request, and the retrained models to compare with."""

from dataclasses import dataclass

from fedquit.settings import Settings


@dataclass(frozen=True, slots=True)
class Phase:
    """From the model of one stage to that of another, by ordinary rounds or by the method.

    Attributes:
        name: as in events and the cost log.
        kind: train, forget, recover, later or retrain.
        start: stage that it starts from; `result`: stage that it ends in.
        seed: of its clients and samplings.
        after: the phase whose rounds the starting model has been trained for; "" if none.
        requests: how many requests are in force, the one that a "forget" carries out included.
        reference: which retrained model it makes.
    """

    name: str
    kind: str
    start: str
    result: str
    seed: int
    after: str = ""
    requests: int = 0
    reference: int = 0

    @property
    def recovers(self) -> bool:
        """Whether its rounds follow a request."""
        return self.kind in ("recover", "later")

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


def phases(settings: Settings) -> list[Phase]:
    """Return the phases of a run in order.

    The oracle rule compares recovery with the retrained model, which must then come first.
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
    return [made[0], *references, *made[1:]] if settings.recover == "oracle" else [*made, *references]
