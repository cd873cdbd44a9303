"""Objectives by name: the built-in ones, those of other packages, and the checks of their settings."""

import importlib.metadata
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar

import pytest
from torch import nn
from torch.nn import functional as F

from fedquit.client.objectives import (
    OBJECTIVES,
    LocalRound,
    Objective,
    Traits,
    all_objectives,
    make_objective,
)
from fedquit.client.objectives.base.objective import objective
from fedquit.errors import FedquitError, InputError
from fedquit.unlearning.samples import Samples


@dataclass(frozen=True, slots=True)
class Double(Objective):
    """An objective of somebody else's."""

    name: ClassVar[str] = "double"
    traits: ClassVar[Traits] = Traits("twice the cross-entropy")

    by: float

    def loss(self, model: nn.Module, samples: Samples, local_round: LocalRound) -> Any:
        return lambda student, batch: self.by * F.cross_entropy(student(batch.inputs), batch.labels)


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        importlib.metadata.EntryPoint("double", f"{__name__}:Double", "fedquit.objectives"),
        importlib.metadata.EntryPoint("fedavg", "missing.module:Impostor", "fedquit.objectives"),
        importlib.metadata.EntryPoint("stranger", f"{__name__}:Stranger", "fedquit.objectives"),
    ]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: points if group == "fedquit.objectives" else []
    )
    monkeypatch.setattr(
        importlib.metadata.EntryPoint, "load", lambda self: {"Double": Double, "Stranger": int}[self.attr]
    )


def test_the_built_in_objectives_have_the_one_form() -> None:
    for name, cls in OBJECTIVES.items():
        assert cls.name == name
        assert isinstance(cls.traits, Traits)
        assert is_dataclass(cls)
        assert not hasattr(cls(), "__dict__"), "slotted"
        assert cls() == cls(), "every setting has a default"


@pytest.mark.usefixtures("third_party")
def test_another_package_adds_an_objective_by_an_entry_point() -> None:
    assert make_objective("double", by=2.0) == Double(by=2.0)
    with pytest.raises(InputError, match="objective 'double' needs these settings: by"):
        make_objective("double")
    assert make_objective("fedavg") == OBJECTIVES["fedavg"](), "a built-in name wins"
    with pytest.raises(FedquitError, match=r"objective 'stranger' .* is no objective"):
        all_objectives()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(InputError, match="objective 'fedavg' is registered already"):
        objective(type("Other", (Objective,), {"name": "fedavg"}))


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("fedprx", {}, r"unknown objective 'fedprx' \(did you mean 'fedprox'\?\); known: fd, fedavg"),
        ("fedavg", {"mu": 1}, "objective 'fedavg' takes no settings; given: mu"),
        ("fedprox", {"nu": 1}, "unknown setting of objective 'fedprox' 'nu'; known: mu"),
        ("fedprox", {"mu": -1}, "mu is -1; it must be a finite number of at least 0"),
        ("kd", {"weight": 1.5}, "weight is 1.5; it must be between 0 and 1"),
        ("kd", {"temperature": 0}, "temperature is 0"),
        ("kd", {"reduction": "sum"}, "unknown reduction 'sum'; known: batchmean, mean"),
        ("kd", {"teacher_mode": "dream"}, "unknown teacher_mode 'dream'; known: eval, train"),
        ("kd", {"tau_squared": 1}, "tau_squared is 1; it must be true or false"),
        ("kd", {"gate": "speculative"}, "gate is 'speculative'; make one with make_gate"),
        ("fedgkd", {"models": 0}, "models is 0"),
        ("fedntd", {"weight": float("nan")}, "weight is nan"),
        ("moon", {"temperature": -1}, "temperature is -1"),
        ("moon", {"mu": "x"}, "mu is 'x'"),
    ],
)
def test_each_setting_is_checked_when_it_is_given(name: str, own: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_objective(name, **own)


def test_traits_refuse_words_that_programs_do_not_know() -> None:
    with pytest.raises(InputError, match="unknown thing to keep 'memories'"):
        Traits("", keeps="memories")
    with pytest.raises(InputError, match="unknown thing that travels 'gradients'"):
        Traits("", up="gradients")
