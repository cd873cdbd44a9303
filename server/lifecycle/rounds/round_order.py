"""The order of a round, in plain values: simulations and deployments build it in the same way."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedquit.client.objectives import progress
from fedquit.settings import Settings
from fedquit.strategies.rounds.aggregate import Config


@dataclass(frozen=True, slots=True)
class Order:
    """The plan of a round that both drivers share.

    Attributes:
        phase: as in the cost log.
        number: that its messages count to. Seeds derive from it and `drawn_as`, and devices are sent both.
        nth: which round of its phase it is, from 1.
        seed: of the samplings and the clients.
        lr: the devices' learning rate.
        config: what every device is sent besides `lr`.
        own: client -> what only it is sent, besides that.
        fraction: share of the clients that take part.
        progress: fraction of training that is done at the round's end.
        before: the clients that took part in the phase's round before.
        draws: the phase whose random choices the round makes, if it is not its own; "": it is.
    """

    phase: str
    number: int
    nth: int
    seed: int
    lr: float
    config: Config = field(default_factory=dict)
    own: Mapping[int, Config] = field(default_factory=dict)
    fraction: float = 1.0
    progress: float = 1.0
    before: Collection[int] = ()
    draws: str = ""

    @property
    def drawn_as(self) -> str:
        """The phase that seeds derive from."""
        return self.draws or self.phase


def round_order(
    settings: Settings,
    phase: str,
    number: int,
    *,
    nth: int,
    seed: int,
    trained: int,
    config: Config,
    own: Mapping[int, Config] | None = None,
    before: Collection[int] = (),
    draws: str = "",
) -> Order:
    """Return the order of a round.

    Args:
        settings: of the federation.
        phase: as in the cost log.
        number: that its messages count to.
        nth: which round of its phase it is, from 1.
        seed: of the samplings and the clients.
        trained: how many rounds the model has been trained for before.
        config: what every device is sent besides the learning rate.
        own: client -> what only it is sent, besides that.
        before: the clients that took part in the phase's round before.
        draws: the phase whose random choices the round makes; "": its own.

    >>> order = round_order(Settings(lr_decay=0.5, rounds=4), "train", 2, nth=2, seed=7, trained=1, config={})
    >>> order.lr, order.progress
    (0.05, 0.5)
    """
    return Order(
        phase=phase,
        number=number,
        nth=nth,
        seed=seed,
        lr=learning_rate(settings, trained + 1),
        config=config,
        own=own or {},
        fraction=settings.fraction,
        progress=progress(trained + 1, settings.rounds),
        before=before,
        draws=draws,
    )


def learning_rate(settings: Settings, number: int) -> float:
    """Return the learning rate of round `number` of a model; the schedule continues after a request.

    >>> learning_rate(Settings(lr=0.1, lr_decay=0.5), 3)
    0.025
    """
    return float(settings.lr * settings.lr_decay ** (number - 1))
