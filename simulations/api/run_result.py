"""A finished run, for Python: its report with types, its figures, and its tables as DataFrames."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedquit.documents import Document
from fedquit.errors import InputError, unknown
from fedquit.extras import extras_named
from fedquit.simulations.api.data_frames import data_frame, single_numbers
from fedquit.simulations.api.run_parts import Phase, Ratios, Request, Stage
from fedquit.simulations.api.typed_document import typed
from fedquit.unlearning.evaluation.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FIGURES = ("accuracy", "labels", "cost", "verdict")
FRAMES = ("stages", "rounds", "phases")


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run; `simulate` and `read_report` return it.

    Attributes:
        folder: of the run, with report.json, models and figures.
        document: report.json as it is; docs/report.md has every key.
    """

    folder: Path
    document: Document = field(repr=False)

    @property
    def config(self) -> Mapping[str, Any]:
        """Every setting of the run, by its kebab-case name."""
        config: Mapping[str, Any] = self.document["config"]
        return config

    @property
    def stages(self) -> dict[str, Stage]:
        """The measured models: "original", "unlearned", "recovered", "later", "retrained", "control", as there are."""
        return {name: typed(Stage, stage) for name, stage in self.document["stages"].items() if stage}

    @property
    def references(self) -> list[Stage]:
        """Every retrained model, after as many rounds as the original."""
        return [typed(Stage, stage) for stage in self.document["references"]]

    @property
    def phases(self) -> dict[str, Phase]:
        """What each phase cost: "train", "forget", "recover", "later", "retrain", as there are."""
        return {name: typed(Phase, phase) for name, phase in self.document["phases"].items() if phase}

    @property
    def requests(self) -> list[Request]:
        """The requests, in their order."""
        return [typed(Request, request) for request in self.document["requests"]]

    @property
    def ratios(self) -> Ratios | None:
        """What forgetting and recovery cost as shares of retraining; None without a reference."""
        found = self.document["ratios_to_retraining"]
        return typed(Ratios, found) if found else None

    @property
    def verdict(self) -> Verdict | None:
        """Whether the recovered model can be told from a retrained one; None: the guard refused a model."""
        found = self.document["verdict"]
        return typed(Verdict, found) if found else None

    @property
    def refusal(self) -> str | None:
        """Why the guard refused the model of a request; None: it refused none."""
        from fedquit.simulations.simulate.run_report import refusal

        return refusal(self.document)

    def model(self, stage: str = "recovered") -> Path:
        """Return the safetensors file of a model of the run, such as "original", "recovered" or "matched-1".

        Raises:
            InputError: the run has none of that name.
        """
        folder = self.folder / "models"
        file = folder / f"{stage}.safetensors"
        if not file.is_file():
            raise unknown("model", stage, sorted(path.stem for path in folder.glob("*.safetensors")))
        return file

    @extras_named()
    def plot(self, what: str = "accuracy") -> "Figure":
        """Draw a figure and return it; nothing is shown, and pyplot is not used.

        Args:
            what: "accuracy" over the rounds, "labels" of the clients, "cost" compared with retraining, or "verdict".

        Raises:
            InputError: another name, or the run has nothing of the kind to draw.
        """
        from fedquit.server.run.run_folder import RunFolder, read_state
        from fedquit.simulations.api.verdict_figure import verdict_figure
        from fedquit.simulations.simulate import run_figures

        if what not in FIGURES:
            raise unknown("figure", what, FIGURES)
        if what == "verdict":
            return verdict_figure(self.document["verdict"])
        if what == "cost":
            if not self.document["ratios_to_retraining"]:
                raise InputError("there is no retrained model to compare costs with: set references=1 or more")
            return run_figures.cost_against_retraining(self.document)
        if what == "labels":
            return run_figures.label_distribution(RunFolder(self.folder))
        return run_figures.accuracy_over_rounds(read_state(self.folder))

    def frame(self, of: str = "stages") -> "DataFrame":
        """Return a table of the run as a pandas DataFrame.

        Args:
            of: "stages": a row for each measured model [up to 6, measures]; "rounds": a row for each round of every
                phase; "phases": a row for each phase, with what it cost.

        Raises:
            InputError: another name, or pandas is not installed (the extra `frames`).
        """
        if of not in FRAMES:
            raise unknown("table", of, FRAMES)
        if of == "rounds":
            return data_frame(self._rounds(), "round")
        parts, name = self.document[of], of.removesuffix("s")
        return data_frame([{name: key, **single_numbers(part)} for key, part in parts.items() if part], name)

    def _rounds(self) -> list[Document]:
        from fedquit.server.run.run_folder import read_state
        from fedquit.simulations.simulate.track_run import COSTS

        return [
            {
                "round": each.number,
                "phase": each.phase,
                "clients": len(each.participants),
                "refused": each.refused,
                "loss": each.loss,
                **each.measures,
                **{cost: getattr(each, cost) for cost in COSTS},
            }
            for each in read_state(self.folder).rounds
        ]
