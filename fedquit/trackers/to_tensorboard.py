"""TensorBoard: event files in the run's own folder; `tensorboard --logdir runs` shows every run below."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.image
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from fedquit.settings import Scalar
from fedquit.trackers.tracker import TrackedRun

FOLDER = "tensorboard"
SHOWN = {".json": "json", ".md": "", ".csv": ""}
"""Endings of the documents that are shown as text, and the language that they are marked as."""


class ToTensorBoard:
    """Scalars by round, settings as hyperparameters and as a table, words and documents as text, figures as images."""

    def __init__(self, run: TrackedRun) -> None:
        self.id = FOLDER
        self._writer = SummaryWriter(str(run.folder / FOLDER))

    def settings(self, values: Mapping[str, Scalar]) -> None:
        """Write the settings."""
        for summary in hparams(dict(values), {}):
            self._writer.file_writer.add_summary(summary)
        rows = "\n".join(f"| {key} | {value} |" for key, value in values.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def results(self, values: Mapping[str, float]) -> None:
        """Write scalars at step 0."""
        self.numbers(values, 0)

    def facts(self, values: Mapping[str, str]) -> None:
        """Write texts."""
        for name, value in values.items():
            self._writer.add_text(name, value)

    def file(self, path: Path) -> None:
        """Write a figure or a document; others stay where they are, beside the event files."""
        if path.suffix == ".png":
            self._writer.add_image(path.stem, matplotlib.image.imread(path)[..., :3], dataformats="HWC")
        elif path.suffix in SHOWN:
            text = path.read_text(encoding="utf-8")
            language = SHOWN[path.suffix]
            self._writer.add_text(path.stem, f"```{language}\n{text}\n```" if path.suffix != ".md" else text)

    def end(self, *, finished: bool) -> None:
        """Close the file; it does not say whether the run is finished."""
        del finished
        self._writer.close()
