"""Which forgotten samples each shadow model has, and the settings of its run.

Models 2k and 2k + 1 are a pair: the samples are dealt to the two like cards, request by request and client by client,
so the one has what the other has not, and the samples of every forgotten client are halved too. So each sample is in
exactly half of any even number of models, and further pairs change nothing in those before. A model's run is the run
itself with other seeds, without the samples that the model has not. Sources: arXiv 2112.03570 (LiRA: each sample is in
half of the models), 2403.01218 (U-LiRA: models "in" are trained on the sample and then forget it by the method that is
evaluated).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedquit.client.data.build_data_and_model import split
from fedquit.client.data.forget_sets import to_forget
from fedquit.client.data.partition import Indices
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.unlearning.seeds import derive_seed

FIRST_SEED = 1_000_000  # on top of the run's own, which go up by one for each retrained model, of which 20 at most
ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class ShadowRun:
    """The run that makes one shadow model.

    Attributes:
        number: of the model, from 0.
        inside: what it has of the samples that the requests are about; `outside`: what it has not. Both sorted.
        parts: each client's samples.
        settings: its own, without its split and its file of samples to forget.
        asked: granularity sample: client -> which of its samples it asks for; empty otherwise.
    """

    number: int
    inside: tuple[int, ...]
    outside: tuple[int, ...]
    parts: tuple[Indices, ...]
    settings: dict[str, Any]
    asked: dict[str, list[int]]


def shadow_run(settings: Settings, number: int, *, plain: bool) -> ShadowRun:
    """Return the run that makes shadow model `number` of the run with these settings.

    Args:
        settings: of the run.
        number: from 0.
        plain: do not make the model forget what it was trained on.

    Raises:
        InputError: there are too few samples to halve, or it is unknown what a shadow is to forget.

    >>> first, second = (shadow_run(Settings(clients=3, forget="1"), number, plain=False) for number in (0, 1))
    >>> first.inside == second.outside, len(first.inside) - len(first.outside) in (-1, 0, 1)
    (True, True)
    """
    hands = _dealt(settings, number // 2)
    inside, outside = hands[number % 2], hands[1 - number % 2]
    own, asked = {**shared(settings, plain=plain), **_seeds(settings, number)}, dict[str, list[int]]()
    if settings.granularity == "sample":
        own["forget"], asked = _asked(settings, inside)
    there, gone = tuple(inside.tolist()), tuple(outside.tolist())
    return ShadowRun(number, there, gone, _without(settings, outside), own, asked)


def deal(groups: Sequence[Indices], seed: int) -> tuple[Indices, Indices]:
    """Deal shuffled groups in turn to two hands: each group, and all of them together, is halved to within one.

    >>> [len(hand) for hand in deal([np.arange(3), np.arange(3, 6)], seed=0)]
    [3, 3]
    """
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(group) for group in groups])
    hands = order[0::2], order[1::2]
    return hands if rng.random() < 0.5 else hands[::-1]


def _dealt(settings: Settings, pair: int) -> tuple[Indices, Indices]:
    """Return what the two models of a pair have; a deal that leaves a client nothing at all is made again."""
    requests = [to_forget(settings.key(), request) for request in range(settings.num_requests)]
    for request, groups in enumerate(requests):
        if sum(map(len, groups)) < 2:
            raise InputError(f"request {request + 1} is about a single sample: a shadow without it has none to forget")
    bare: list[int] = []
    for attempt in range(ATTEMPTS):
        dealt = [
            deal(groups, derive_seed(settings.seed, "shadow pair", pair, request, attempt))
            for request, groups in enumerate(requests)
        ]
        first, second = (np.sort(np.concatenate(hands)) for hands in zip(*dealt, strict=True))
        parts = zip(_without(settings, first), _without(settings, second), strict=True)
        bare = [client for client, both in enumerate(parts) if not all(map(len, both))]
        if not bare:
            return first, second
    raise InputError(
        f"client {bare[0]} has too few samples: half of the shadow models would leave it none, "
        "as they go without half of those to forget"
    )


def _without(settings: Settings, outside: Indices) -> tuple[Indices, ...]:
    """Return each client's samples but those in `outside`."""
    return tuple(part[~np.isin(part, outside)] for part in split(settings.key()))


def _asked(settings: Settings, inside: Indices) -> tuple[str, dict[str, list[int]]]:
    """Return who asks in a shadow's run, as the setting `forget`, and for which samples; who has none does not ask."""
    asking: list[list[str]] = []
    asked: dict[str, list[int]] = {}
    for request, clients in enumerate(settings.forget):
        parts = to_forget(settings.key(), request)
        had = {str(client): parts[client][np.isin(parts[client], inside)].tolist() for client in clients}
        had = {client: those for client, those in had.items() if those}
        if had.keys() & asked.keys():
            raise InputError(
                f"client {min(had.keys() & asked.keys())} asks in two requests about some of its samples; "
                "one file of client -> samples cannot tell a shadow's run which is which: let each client ask once"
            )
        asking.append(list(had))
        asked |= had
    return ";".join(map(",".join, asking)), asked


def shared(settings: Settings, *, plain: bool) -> dict[str, Any]:
    """Return the settings that all shadow models share; the seeds are those of the run whose shadows they are.

    They need a retrained model themselves only where recovery stops by that. Where they forget nothing, they need not
    keep anything of training for a method either.

    >>> settings = shared(Settings(method="federaser", references=3), plain=True)
    >>> settings["method"], settings["reference"]
    ('continue', 'none')
    """
    oracle = settings.recover == "oracle" and not plain
    own: dict[str, Any] = {"reference": "retrain" if oracle else "none", "references": 1, "budget": 0}
    if plain:
        own |= {"method": "continue", "method-settings": "", "teacher": "min", "recover": "budget"}
    return {**settings.run_config(), **own}


def _seeds(settings: Settings, number: int) -> dict[str, int]:
    """Return the seeds of a shadow's run: none is the run's own, or that of a model retrained in it."""
    own = {"seed": settings.seed, "model-seed": settings.seed_of_model}
    return {name: (seed + FIRST_SEED + number) % 2**31 for name, seed in own.items()}
