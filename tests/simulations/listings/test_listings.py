"""What the commands list without PyTorch is what is registered."""

import importlib.metadata
import json

import pytest

from fedquit.simulations.listings import registries
from fedquit.simulations.listings.registries import FILE, REGISTRIES, built_in, listed


def test_the_committed_tables_are_those_of_the_registries() -> None:
    """If this fails: make tables."""
    assert json.loads(FILE.read_text(encoding="utf-8")) == json.loads(json.dumps(built_in()))


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_row_is_listed_for_each_that_is_registered(kind: str) -> None:
    assert listed(kind) == json.loads(json.dumps(REGISTRIES[kind]()))


def test_a_method_of_another_package_is_listed_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("theirs", "fedquit.unlearning.methods.negate:Negate", "fedquit.methods")

    def points(*, group: str) -> list[importlib.metadata.EntryPoint]:
        return [point] if group == point.group else []

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    names = [row["name"] for row in registries.listed("methods")]
    assert {"theirs", "fedquit"} <= set(names)
    assert "theirs" not in [row["name"] for row in built_in()["methods"]]
