"""MLflow: where MLFLOW_TRACKING_URI says, else where MLflow itself does; MLFLOW_EXPERIMENT_NAME or "fedquit"."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from fedquit.settings import Scalar
from fedquit.trackers.tracker import TrackedRun

QUIET = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
"""Else MLflow prints where a run is into the output of the command, which may be one JSON document."""
BATCH = 100
"""Parameters, or tags, that a call may carry; of metrics it may be 1000."""


class ToMLflow:
    """Settings as parameters, measures as metrics by round, words as tags, files as artifacts; nested by parent."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault(QUIET, "true")
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "fedquit"
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        tags = {"fedquit.group": run.group, "mlflow.parentRunId": run.parent}
        given = {key: value for key, value in tags.items() if value}
        if run.id:
            self._client.set_terminated(run.id, "RUNNING", end_time=0)
        else:
            made = self._client.create_run(experiment, run_name=run.name, tags=given)
        self.id: str = run.id or made.info.run_id

    def settings(self, values: Mapping[str, Scalar]) -> None:
        """Log the settings that are not empty; of an earlier session they are there already."""
        params = [Param(key, str(value)) for key, value in values.items() if value != ""]
        for first in range(0, len(params), BATCH):
            self._client.log_batch(self.id, params=params[first : first + BATCH])

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics at a round."""
        now = int(time.time() * 1000)
        metrics = [Metric(_allowed(name), float(value), now, step) for name, value in values.items()]
        for first in range(0, len(metrics), BATCH):
            self._client.log_batch(self.id, metrics=metrics[first : first + BATCH])

    def results(self, values: Mapping[str, float]) -> None:
        """Log metrics that have one value."""
        self.numbers(values, 0)

    def facts(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._client.log_batch(self.id, tags=[RunTag(_allowed(name), value) for name, value in values.items()])

    def file(self, path: Path) -> None:
        """Log an artifact."""
        self._client.log_artifact(self.id, str(path))

    def end(self, *, finished: bool) -> None:
        """End the run."""
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


def _allowed(name: str) -> str:
    """Return a name in the characters that MLflow takes.

    >>> _allowed("fedquit, auto/test_gap")
    'fedquit_ auto/test_gap'
    """
    return re.sub(r"[^\w./ -]", "_", name)
