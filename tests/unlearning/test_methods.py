import importlib.metadata
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from fedquit.errors import FedquitError, InputError
from fedquit.unlearning import METHODS, FedQUIT, all_methods, make_method
from fedquit.unlearning.methods import Kept, StateDict, Traits, method
from fedquit.unlearning.references import Continue, Retrain


@dataclass(frozen=True)
class Negate:
    """A method of somebody else's."""

    scale: float
    name: ClassVar[str] = "negate"
    traits: ClassVar[Traits] = Traits(frozenset({"client"}), "server", "nothing", False, True, "negates")

    def forget(self, current: StateDict, kept: Kept) -> StateDict:
        return {name: -self.scale * value for name, value in current.items()}


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint
    points = [
        point("negate", f"{__name__}:Negate", "fedquit.methods"),
        point("fedquit", "missing.module:Impostor", "fedquit.methods"),
    ]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: points if group == "fedquit.methods" else []
    )
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: {"Negate": Negate}[self.attr])


def test_the_built_in_methods_carry_their_own_names() -> None:
    assert {"fedquit": FedQUIT, "continue": Continue, "retrain": Retrain}.items() <= METHODS.items()
    for name, cls in METHODS.items():
        assert cls.name == name
        assert isinstance(cls.traits, Traits)


def test_traits_say_what_each_method_needs() -> None:
    assert FedQUIT.traits.needs_device
    assert FedQUIT.traits.runs_at == "device"
    assert Retrain.traits.server_keeps == "initial model"
    assert not Continue.traits.needs_device


def test_traits_refuse_words_that_programs_do_not_know() -> None:
    with pytest.raises(InputError, match=r"unknown granularity 'clients'.*known: client, sample, class"):
        Traits(frozenset({"clients"}), "server", "nothing", False, True, "")
    with pytest.raises(InputError, match="unknown place to run 'cloud'; known: device, server"):
        Traits(frozenset({"client"}), "cloud", "nothing", False, True, "")


def test_continue_keeps_the_model_and_retrain_goes_back_to_the_first() -> None:
    current, kept = {"w": torch.ones(2)}, Kept(initial={"w": torch.zeros(2)})
    assert Continue().forget(current, kept) is current
    assert Retrain().forget(current, kept) is kept.initial


def test_a_method_is_made_with_its_settings() -> None:
    assert make_method("fedquit", lr=0.01, teacher="topk") == FedQUIT(lr=0.01, teacher="topk")


def test_errors_name_what_is_known() -> None:
    with pytest.raises(InputError, match=r"unknown method 'fedquitt' \(did you mean 'fedquit'\?\); known: .*continue"):
        make_method("fedquitt")
    with pytest.raises(InputError, match=r"unknown setting of method 'fedquit' 'epoch' \(did you mean 'epochs'\?\)"):
        make_method("fedquit", epoch=2)
    with pytest.raises(InputError, match="method 'continue' takes no settings; given: lr"):
        make_method("continue", lr=1.0)
    with pytest.raises(InputError, match="lr is -1"):
        make_method("fedquit", lr=-1)


def test_a_name_cannot_be_taken_twice() -> None:
    class Other:
        name = "fedquit"

    with pytest.raises(InputError, match="'fedquit' is registered already"):
        method(Other)
    assert METHODS["fedquit"] is FedQUIT


@pytest.mark.usefixtures("third_party")
def test_another_package_adds_a_method_by_an_entry_point() -> None:
    assert make_method("negate", scale=2.0) == Negate(2.0)
    assert "negate" not in METHODS
    assert all_methods()["negate"] is Negate
    with pytest.raises(InputError, match="method 'negate' needs these settings: scale"):
        make_method("negate")
    with pytest.raises(InputError, match=r"known: .*negate"):
        make_method("nagete")


@pytest.mark.usefixtures("third_party")
def test_a_built_in_name_wins_and_loads_nothing() -> None:
    assert isinstance(make_method("fedquit"), FedQUIT)
    assert all_methods()["fedquit"] is FedQUIT


def test_a_stranger_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        importlib.metadata.EntryPoint("broken", "no_such_module_here:X", "fedquit.methods"),
        importlib.metadata.EntryPoint("empty", "builtins:int", "fedquit.methods"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points)
    with pytest.raises(FedquitError, match=r"'broken' \(no_such_module_here:X\) cannot be loaded: ModuleNotFoundError"):
        make_method("broken")
    with pytest.raises(FedquitError, match=r"'empty' .* is no method"):
        make_method("empty")
