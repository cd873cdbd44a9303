"""An audit, for Python: `audit` evaluates a model file against retrained models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.extras import extras_named
from fedquit.simulations.api.data_frames import data_frame, single_numbers
from fedquit.simulations.api.run_parts import Stage
from fedquit.simulations.api.run_result import RunResult
from fedquit.simulations.api.typed_document import typed
from fedquit.unlearning.evaluation.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class AuditResult:
    """An audit of a model; `audit` returns it.

    Attributes:
        document: what `fedquit audit --json` prints; docs/report.md has every key.
    """

    document: Document = field(repr=False)

    @property
    def verdict(self) -> Verdict:
        """Whether the model can be told from one more retrained model."""
        return typed(Verdict, self.document["verdict"])

    @property
    def model(self) -> Stage:
        """The audited model, measured."""
        return typed(Stage, self.document["model"])

    @property
    def references(self) -> list[Stage]:
        """The retrained models, measured."""
        return [typed(Stage, reference) for reference in self.document["references"]]

    @property
    def gaps(self) -> Mapping[str, float]:
        """Accuracy of the model minus the mean of the references, of each part of the data; in shares."""
        gaps: Mapping[str, float] = self.document["gaps"]
        return gaps

    @property
    def not_measured(self) -> Mapping[str, str]:
        """What could not be measured, and why."""
        missing: Mapping[str, str] = self.document["not_measured"]
        return missing

    @extras_named()
    def plot(self) -> "Figure":
        """Draw each measure in the interval where one more retrained model would be, and return the figure.

        Raises:
            InputError: the verdict compared nothing, as with fewer than five references.
        """
        from fedquit.simulations.api.verdict_figure import verdict_figure

        return verdict_figure(self.document["verdict"])

    def frame(self) -> "DataFrame":
        """Return a row for each model: the audited one, the references, the original and the control, if given.

        Raises:
            InputError: pandas is not installed (the extra `frames`).
        """
        models: dict[str, Any] = {"model": self.document["model"]}
        models |= {f"reference {number}": found for number, found in enumerate(self.document["references"])}
        models |= {name: self.document[name] for name in ("original", "control") if self.document[name]}
        rows = [
            {
                "name": name,
                **single_numbers(found),
                **{attack: rate["member_rate"] for attack, rate in found["attacks"].items()},
            }
            for name, found in models.items()
        ]
        return data_frame(rows, "name")


@extras_named()
def audit(
    model: str | Path,
    run: str | Path | RunResult,
    *,
    references: Sequence[str | Path] = (),
    original: str | Path | None = None,
    control: str | Path | None = None,
    shadows: str | Path | None = None,
    relearn_steps: int = 200,
    leak: bool = False,
) -> AuditResult:
    """Evaluate a model file against models retrained without the samples.

    `fedquit audit` is this function.

    Args:
        model: the candidate, however it was made: safetensors, or npz as docs/report.md says.
        run: a finished run or its folder: gives the data, the split, and who was forgotten.
        references: models retrained without the samples; five or more, of different seeds, for a verdict. Empty: the
            `matched` models of the run.
        original: the model before forgetting; the run's if None.
        control: a model that forgot nothing, for the same test; the run's if None.
        shadows: the list that `fedquit shadows` wrote, for U-LiRA and position by shadow models.
        relearn_steps: give up relearning after this number of steps.
        leak: also measure what the run's last request reveals to the server and to other devices.

    Raises:
        InputError: a file cannot be used, two references are the same model, or there is none.

    Example:
        ```python
        from fedquit import audit, simulate

        run = simulate(references=5)
        audit(run.model("recovered"), run).verdict.outcome
        ```
    """
    from fedquit.server.run.run_folder import RunFolder
    from fedquit.simulations.audit import audit as work
    from fedquit.simulations.simulate.leak_of_run import leak_of_run

    folder = run.folder if isinstance(run, RunResult) else Path(run)
    of_run = RunFolder(folder)
    settings = of_run.settings()
    document = work.audit(
        Path(model),
        reference_files=[Path(reference) for reference in references] or _matched(folder),
        original_file=Path(original) if original else _of_run(folder, "original"),
        control_file=Path(control) if control else _of_run(folder, "control"),
        shadows_file=Path(shadows) if shadows else None,
        settings=settings,
        relearn_steps=relearn_steps,
    )
    document["leak"] = leak_of_run(of_run) if leak else None
    return AuditResult(document)


def _matched(folder: Path) -> list[Path]:
    """Return the run's retrained models of as many rounds as its recovered model, in the order of their seeds."""
    found = sorted(folder.glob("models/matched*.safetensors"), key=lambda path: (len(path.stem), path.stem))
    if not found:
        raise InputError(
            f"the run in {folder} has no retrained model to compare with: give at least one --reference FILE"
        )
    return found


def _of_run(folder: Path, stage: str) -> Path | None:
    """Return the file of a stage's model in a run's folder, if it is there."""
    file = folder / "models" / f"{stage}.safetensors"
    return file if file.is_file() else None
