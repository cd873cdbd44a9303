"""What Weights & Biases is told, and in which words, by a stand-in for its package: it is one process less to run."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fedquit.trackers.tracker import TrackedRun, Tracker, open_tracker


class Standing:
    """Stands in for the package and for a run in it, and writes down what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.id = "an-id"
        self.config = SimpleNamespace(update=lambda values, **_: self.said.append(("config", values)))
        self.summary = SimpleNamespace(update=lambda values: self.said.append(("summary", values)))

    def init(self, **given: Any) -> "Standing":
        self.said.append(("init", given))
        return self

    def define_metric(self, name: str, step_metric: str = "") -> None:
        self.said.append(("metric", (name, step_metric)))

    def log(self, values: dict[str, Any]) -> None:
        self.said.append(("log", values))

    def log_artifact(self, artifact: list[str]) -> None:
        self.said.append(("artifact", artifact))

    def finish(self, exit_code: int) -> None:
        self.said.append(("finish", exit_code))


class Artifact(list[str]):
    """Has the files that it was given."""

    def __init__(self, name: str, type: str) -> None:  # noqa: A002 - W&B's own name
        super().__init__([name, type])

    def add_file(self, path: str) -> None:
        self.append(Path(path).name)


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    found, module = Standing(), ModuleType("wandb")
    module.__dict__.update(
        init=found.init,
        api=SimpleNamespace(api_key=None),
        Settings=lambda **given: given,
        Image=Path,
        Artifact=Artifact,
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delitem(sys.modules, "fedquit.trackers.to_wandb", raising=False)
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield found
    sys.modules.pop("fedquit.trackers.to_wandb", None)


def test_wandb_is_offline_without_a_key_and_told_nothing_of_the_machine(standing: Standing, tmp_path: Path) -> None:
    tracker: Tracker = open_tracker("wandb", TrackedRun("a run", tmp_path, group="many"))
    given = standing.said[0][1]
    expected = {"mode": "offline", "project": "fedquit", "dir": str(tmp_path), "group": "many"}
    assert expected.items() <= given.items()
    for kept_back in ("disable_code", "disable_git", "x_disable_stats", "x_disable_machine_info"):
        assert given["settings"][kept_back]
    assert tracker.id == "an-id"


def test_wandb_is_told_settings_rounds_words_and_files(standing: Standing, tmp_path: Path) -> None:
    tracker: Tracker = open_tracker("wandb", TrackedRun("a run", tmp_path))
    tracker.settings({"lr": 0.1})
    tracker.numbers({"train/loss": 2.0}, 3)
    tracker.results({"stages/recovered/test_accuracy": 0.5})
    tracker.facts({"verdict": "undetermined"})
    tracker.file(tmp_path / "cost.png")
    tracker.file(tmp_path / "report.json")
    tracker.end(finished=False)
    assert standing.said[1:] == [
        ("metric", ("round", "")),
        ("metric", ("*", "round")),
        ("config", {"lr": 0.1}),
        ("log", {"train/loss": 2.0, "round": 3}),
        ("summary", {"stages/recovered/test_accuracy": 0.5}),
        ("summary", {"verdict": "undetermined"}),
        ("log", {"cost": tmp_path / "cost.png"}),
        ("artifact", ["report-an-id", "report", "report.json"]),
        ("finish", 1),
    ]
