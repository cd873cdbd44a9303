"""What a simulation's request is about: the server of a simulation knows it from the settings."""

from fedquit.client.data.evaluation_sets import sets_of
from fedquit.client.data.forget_sets import askers, forgotten_clients, to_forget, to_keep
from fedquit.server.lifecycle.grid_session import Case
from fedquit.server.lifecycle.request_seeds import RequestSeeds
from fedquit.settings import Settings


def simulated_case(settings: Settings, request: int, phase: str, number: int) -> Case:
    """Return request `request` of a simulation, from 0, which has been trained for `number` rounds."""
    leaving, key = askers(settings, request), settings.key()
    left = {*leaving, *forgotten_clients(settings, request)}
    parts = zip(to_forget(key, request), to_keep(key, request + 1), strict=True)
    return Case(
        forgotten=leaving,
        remaining=tuple(client for client in range(settings.clients) if client not in left),
        num_examples={client: len(gone) or len(kept) for client, (gone, kept) in enumerate(parts)},
        seeds=RequestSeeds.of_phase(settings.seed, request, phase, number),
        config={"requests": request + 1},
        proxy=lambda: sets_of(settings).holdout,
    )
