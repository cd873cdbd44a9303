"""What devices report of their personalised models: after each round where no model is global, and at each phase's end.

In every phase it is those that remain to the end of the run, so that the numbers are of the same devices throughout.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from fedquit.client.data.forget_sets import forgotten_clients
from fedquit.client.personal.personal_evaluation import Measures, checked_measures, mean_of
from fedquit.client.personal.personal_models import models_of
from fedquit.errors import BadReplyError, FedquitError, InputError
from fedquit.server.run.phases import Phase
from fedquit.settings import Settings
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.evaluate_personal import OwnModel, poll
from fedquit.strategies.rounds.reply import OnReply

Reports = dict[str, dict[str, Any]]
"""Client -> the name of its model, its SHA-256, and its measures."""


class Devices:
    """The devices of a run that report.

    Args:
        grid: carries the messages, after `begin`, which says what they count to.
        settings: of the run.
        on_refused: called with every reply that is refused.
    """

    def __init__(self, grid: MeteredGrid, settings: Settings, on_refused: OnReply) -> None:
        self._grid, self._settings, self._on_refused = grid, settings, on_refused

    def config(self, phase: Phase) -> dict[str, float | str]:
        """Return what a device needs to find its personalised model, or to initialise one."""
        return {"phase": phase.line, "model-seed": self._settings.seed_of_model + phase.reference}

    def round(self, phase: Phase, number: int) -> Measures:
        """Return the mean of what devices report after round `number`."""
        reports = self._reports(phase, number, stage=False)
        return mean_of({client: own.measures for client, own in reports.items()})

    def stage(self, phase: Phase, number: int) -> Reports:
        """Return what each device reports at the end of a phase, after round `number`."""
        kinds, reports = models_of(self._settings), self._reports(phase, number, stage=True)
        return {
            str(client): {"model": kinds[client], "model_sha256": own.sha256, "measures": own.measures}
            for client, own in reports.items()
        }

    def _reports(self, phase: Phase, number: int, *, stage: bool) -> Mapping[int, OwnModel]:
        gone = forgotten_clients(self._settings, self._settings.num_requests)
        stay = [client for client in range(self._settings.clients) if client not in gone]
        config = {"server-round": number + 1, "requests": phase.requests, "seed": 0, "stage": int(stage)}
        read = partial(_read, stage=stage)
        reports = poll(self._grid, stay, {**self.config(phase), **config}, read, self._on_refused)
        if not reports:
            raise FedquitError(f"{phase.name} round {number}: no device reported metrics of its model")
        return reports


def measures_by_client(reports: Mapping[str, Mapping[str, Any]]) -> dict[int, Measures]:
    """Return the measures of each client in the reports of a stage.

    >>> measures_by_client({"3": {"model": "cnn", "measures": {"test_accuracy": 0.5}}})
    {3: {'test_accuracy': 0.5}}
    """
    return {int(client): dict(own["measures"]) for client, own in reports.items()}


def _read(client: int, report: Mapping[str, float], *, stage: bool) -> Measures:
    try:
        return checked_measures(report, client, stage=stage)
    except InputError as reason:
        raise BadReplyError(str(reason)) from None
