"""Weights & Biases: project WANDB_PROJECT or "fedquit"; offline, in the run's folder, where no API key is known.

Of the machine it is told nothing: no code, no git remote, no statistics of the system, no console.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from fedquit.settings import Scalar
from fedquit.trackers.tracker import TrackedRun

STEP = "round"
"""The x axis of what is measured by round; W&B's own steps only count the calls."""


class ToWandb:
    """Settings as config, measures by round, results and words in the summary, figures as media, files as artifacts."""

    def __init__(self, run: TrackedRun) -> None:
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "fedquit",
            name=run.name,
            group=run.group or None,
            id=run.id or None,
            resume="allow" if run.id and mode == "online" else None,
            reinit="create_new",
            dir=str(run.folder),
            mode=mode,
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, save_code=False, x_disable_stats=True,
                x_disable_meta=True, x_disable_machine_info=True,
            ),
        )  # fmt: skip
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        self.id: str = self._run.id

    def settings(self, values: Mapping[str, Scalar]) -> None:
        """Set the config; what an earlier session said stands."""
        self._run.config.update(dict(values), allow_val_change=True)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Log measures at a round."""
        self._run.log({**values, STEP: step})

    def results(self, values: Mapping[str, float]) -> None:
        """Put results into the summary."""
        self._run.summary.update(dict(values))

    def facts(self, values: Mapping[str, str]) -> None:
        """Put words into the summary."""
        self._run.summary.update(dict(values))

    def file(self, path: Path) -> None:
        """Log a figure, or keep a document as an artifact."""
        if path.suffix == ".png":
            self._run.log({path.stem: wandb.Image(str(path))})
            return
        artifact = wandb.Artifact(f"{path.stem}-{self.id}", type="report")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def end(self, *, finished: bool) -> None:
        """Finish the run."""
        self._run.finish(exit_code=0 if finished else 1)
