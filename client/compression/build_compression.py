"""How a run's models are compressed on their way up and down, from its settings."""

from dataclasses import dataclass

from fedquit.client.compression.codecs import Chain, chain_of, settings_of_codec
from fedquit.client.training.build_objective import objective_of
from fedquit.errors import InputError, unknown
from fedquit.settings import Settings


@dataclass(frozen=True, slots=True)
class Compression:
    """The chain of each direction; None: models travel as they are."""

    up: Chain | None = None
    down: Chain | None = None

    @property
    def exact(self) -> bool:
        """Whether what arrives is what was sent, in both directions."""
        return all(chain is None or chain.exact for chain in (self.up, self.down))

    @property
    def keeps(self) -> bool:
        """Whether devices keep what was lost of an update, for the next."""
        return self.up is not None and self.up.keeps


def compression_of(settings: Settings) -> Compression:
    """Return how models travel in a run.

    Raises:
        InputError: there is no such codec or setting, a codec does not fit its direction, or the objective sends
            something else than models.

    >>> compression_of(Settings(compress_up="top-k+zstd", compress_settings="share=0.05")).up.codecs
    (TopK(share=0.05, feedback=True), Zstd(level=3))
    """
    settings_given = settings.compress_settings
    up, down = (
        chain_of(text, settings_given) if text else None for text in (settings.compress_up, settings.compress_down)
    )
    codecs = [codec for chain in (up, down) if chain for codec in chain.codecs]
    known = list(dict.fromkeys(key for codec in codecs for key in settings_of_codec(codec)))
    for key in settings_given:
        if not known:
            raise InputError(
                f"compress-settings: {key} has no effect without a codec; set compress-up or compress-down"
            )
        if key not in known:
            raise unknown("setting of compression", key, known)
    for codec in down.codecs if down else ():
        if codec.traits.for_updates:
            raise InputError(f"compress-down: {codec.name} leaves most of a model out; it is for updates: compress-up")
    if up and not up.exact and settings.dp.startswith("client"):
        raise InputError(
            f"compress-up: dp '{settings.dp}' bounds the norm of client updates, but {up.name} is lossy and can exceed "
            "the bound; use zstd, or server-side clipping"
        )
    needs = objective_of(settings).needs()
    if up and needs.up != "model":
        raise InputError(
            f"compress-up: objective '{settings.objective}' sends {needs.up}; only models can be compressed"
        )
    if down and "model" not in needs.down:
        raise InputError(
            f"compress-down: objective '{settings.objective}' receives {needs.down}; only models can be compressed"
        )
    return Compression(up, down)
