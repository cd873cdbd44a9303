"""Central differential privacy around the mean: every client's step is clipped, and the mean gets Gaussian noise.

Sources: McMahan et al. 2018, arXiv 1710.06963 (a fixed norm); Andrew et al. 2021, arXiv 1905.03871 (an adaptive one).
One client moves a mean of n by at most norm / n if all count the same; so here they do, whatever their numbers of
samples, and n is the number of good replies, known before noise is added. The noise follows from the run's seed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from flwr.serverapp import strategy as flower

from fedquit.errors import BadReplyError, InputError
from fedquit.strategies.flower_internals import (
    KEY_NORM_BIT,
    ClientAdaptiveClipping,
    ServerAdaptiveClipping,
)
from fedquit.strategies.rules.flower import FlowerRule, Metrics, SingleReplies, norm, quiet
from fedquit.strategies.rules.rule import Opening, Traits
from fedquit.unlearning.setting_checks import check_at_least_zero, check_positive, check_share
from fedquit.unlearning.tensors.convert import Arrays

NORM = "clipping-norm"
PRECISION = 1e-6  # of a model in float32, in which a device clips


@dataclass(frozen=True, slots=True, kw_only=True)
class Private(SingleReplies):
    """What the four have in common.

    Attributes:
        inner: the rule that makes the mean.
        noise_multiplier: standard deviation of the noise, in norms of clipping; 0: none, which is not private.
    """

    wrapper: ClassVar[Any]
    clipped_by: ClassVar[str]

    inner: FlowerRule
    noise_multiplier: float

    def own_settings(self) -> dict[str, Any]:
        """Return what Flower's wrapper is built with, besides the number of replies."""
        return {name: value for name, value in asdict(self).items() if name != "inner"}

    def strategy(self, opening: Opening, replies: int) -> flower.Strategy:
        """See `FlowerRule`."""
        inner = self.inner.strategy(opening, replies)
        wrapped: flower.Strategy = self.wrapper(inner, num_sampled_clients=replies, **self.own_settings())
        return wrapped

    def clips_to(self, opening: Opening) -> float:
        """Return the norm of clipping of a round."""
        raise NotImplementedError

    def check_size(self, asked: int) -> None:
        """See `Rule`: Flower refuses some noise multipliers for few clients."""
        try:
            with quiet():
                self.strategy(Opening(sent={}, parameters=frozenset()), asked)
        except ValueError as error:
            raise InputError(f"dp = {self.name}, {asked} clients a round: {' '.join(str(error).split())}") from error

    def check_reply(self, opening: Opening, arrays: Arrays, metrics: Metrics) -> None:  # noqa: ARG002 - the interface
        """See `SingleReplies`."""
        size = norm(arrays, opening.sent)
        if self.clipped_by == "server" and size == 0:
            raise BadReplyError("it sent the model back as it was, which Flower cannot clip")
        if self.clipped_by == "device":
            most = self.clips_to(opening)
            if size > most * 1.001 + norm(opening.sent) * PRECISION:
                raise BadReplyError(f"its step has norm {size:.4g}; it was to be clipped to {most:.4g}")

    def say(self, num_examples: int, metrics: Metrics) -> Metrics:  # noqa: ARG002 - the interface
        """See `SingleReplies`: every client counts the same."""
        return {"num-examples": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFixed(Private):
    """The server clips to a norm that stays.

    Attributes:
        clipping_norm: of a client's step, over all parameters together.
    """

    name: ClassVar[str] = "server-fixed"
    traits: ClassVar[Traits] = Traits("the server clips to a norm that stays", "arXiv 1710.06963", reads_single=True)
    wrapper: ClassVar[Any] = flower.DifferentialPrivacyServerSideFixedClipping
    clipped_by: ClassVar[str] = "server"

    clipping_norm: float

    def __post_init__(self) -> None:
        check_at_least_zero("noise-multiplier", self.noise_multiplier)
        check_positive("clipping-norm", self.clipping_norm)

    def clips_to(self, opening: Opening) -> float:  # noqa: ARG002 - the interface
        """See `Private`."""
        return self.clipping_norm


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFixed(ServerFixed):
    """Devices clip to a norm that stays; the server refuses a step that is larger."""

    name: ClassVar[str] = "client-fixed"
    traits: ClassVar[Traits] = Traits("devices clip to a norm that stays", "arXiv 1710.06963")
    wrapper: ClassVar[Any] = flower.DifferentialPrivacyClientSideFixedClipping
    clipped_by: ClassVar[str] = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAdaptive(Private):
    """The server clips to a norm that follows what clients send.

    Attributes:
        initial_clipping_norm: of the first round.
        target_clipped_quantile: share of the updates to be clipped.
        clip_norm_lr: how fast the norm moves.
        clipped_count_stddev: of the noise on how many were clipped; 0: a twentieth of the clients.
    """

    name: ClassVar[str] = "server-adaptive"
    traits: ClassVar[Traits] = Traits(
        "the server clips to a norm that follows the clients'", "arXiv 1905.03871", "the norm", reads_single=True
    )
    wrapper: ClassVar[Any] = ServerAdaptiveClipping
    clipped_by: ClassVar[str] = "server"

    initial_clipping_norm: float = 0.1
    target_clipped_quantile: float = 0.5
    clip_norm_lr: float = 0.2
    clipped_count_stddev: float = 0.0

    def __post_init__(self) -> None:
        for field in ("noise_multiplier", "clipped_count_stddev"):
            check_at_least_zero(field.replace("_", "-"), getattr(self, field))
        for field in ("initial_clipping_norm", "clip_norm_lr"):
            check_positive(field.replace("_", "-"), getattr(self, field))
        check_share("target-clipped-quantile", self.target_clipped_quantile)

    def own_settings(self) -> dict[str, Any]:
        """See `Private`."""
        return {**Private.own_settings(self), "clipped_count_stddev": self.clipped_count_stddev or None}

    def clips_to(self, opening: Opening) -> float:
        """See `Private`."""
        return self.initial_clipping_norm if opening.state is None else float(opening.state[NORM])

    def restore(self, strategy: Any, state: Arrays, names: Sequence[str]) -> None:  # noqa: ARG002 - the interface
        """See `FlowerRule`."""
        strategy.clipping_norm = float(state[NORM])

    def to_keep(self, strategy: Any, names: Sequence[str]) -> Arrays | None:  # noqa: ARG002 - the interface
        """See `FlowerRule`."""
        return {NORM: np.array(strategy.next_norm)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientAdaptive(ServerAdaptive):
    """Devices clip to a norm that follows what they say; the server refuses a step that is larger."""

    name: ClassVar[str] = "client-adaptive"
    traits: ClassVar[Traits] = Traits("devices clip to a norm that follows theirs", "arXiv 1905.03871", "the norm")
    wrapper: ClassVar[Any] = ClientAdaptiveClipping
    clipped_by: ClassVar[str] = "device"

    def check_reply(self, opening: Opening, arrays: Arrays, metrics: Metrics) -> None:
        """See `SingleReplies`."""
        Private.check_reply(self, opening, arrays, metrics)
        if metrics.get(KEY_NORM_BIT) not in (0, 1):
            raise BadReplyError("it does not say whether it clipped its step")

    def say(self, num_examples: int, metrics: Metrics) -> Metrics:
        """See `SingleReplies`."""
        return {**Private.say(self, num_examples, metrics), KEY_NORM_BIT: metrics[KEY_NORM_BIT]}
