import importlib.metadata
from dataclasses import dataclass, is_dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from fedquit.errors import FedquitError, InputError
from fedquit.unlearning import METHODS, FedQUIT, Method, Samples, Session, Traits, all_methods, make_method
from fedquit.unlearning.methods.base import method
from fedquit.unlearning.methods.references import Continue, Retrain
from fedquit.unlearning.tensors.convert import StateDict


@dataclass(frozen=True, slots=True)
class Shrink(Method):
    """A method of somebody else's."""

    name: ClassVar[str] = "shrink"
    traits: ClassVar[Traits] = Traits(frozenset({"client"}), "server", "nothing", False, True, "shrinks")

    scale: float

    def serve(self, session: Session) -> StateDict:
        return {name: self.scale * value for name, value in session.current.items()}


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint
    points = [
        point("shrink", f"{__name__}:Shrink", "fedquit.methods"),
        point("fedquit", "missing.module:Impostor", "fedquit.methods"),
    ]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: points if group == "fedquit.methods" else []
    )
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: {"Shrink": Shrink}[self.attr])


def test_the_built_in_methods_carry_their_own_names() -> None:
    for name, cls in METHODS.items():
        assert cls.name == name
        assert isinstance(cls.traits, Traits)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_the_one_form(name: str) -> None:
    cls = METHODS[name]
    assert issubclass(cls, Method)
    assert is_dataclass(cls)
    assert not hasattr(cls(), "__dict__"), "slotted"
    assert cls() == cls(), "every setting has a default"


def test_traits_say_what_each_method_needs() -> None:
    assert FedQUIT.traits.needs_device
    assert FedQUIT.traits.runs_at == "device"
    assert not Continue.traits.needs_device
    assert METHODS["federaser"].traits.history == "every"
    assert METHODS["federaser"].traits.history_interval == 2
    assert METHODS["projected-ascent"].traits.history == "last"
    assert Retrain.traits.restarts


def test_a_server_keeps_single_updates_only_for_methods_that_read_them() -> None:
    assert sorted(name for name, cls in METHODS.items() if cls.traits.keeps_updates) == [
        "federaser",
        "projected-ascent",
    ]


def test_a_method_whose_device_runs_it_needs_the_device() -> None:
    for cls in METHODS.values():
        assert cls.traits.needs_device == (cls.traits.runs_at == "device" or cls.name in ("mode", "orthogonal"))


def test_traits_refuse_words_that_programs_do_not_know() -> None:
    with pytest.raises(InputError, match=r"unknown granularity 'clients'.*known: client, sample, class"):
        Traits(frozenset({"clients"}), "server", "nothing", False, True, "")
    with pytest.raises(InputError, match="unknown place to run 'cloud'; known: server, device, federation"):
        Traits(frozenset({"client"}), "cloud", "nothing", False, True, "")
    with pytest.raises(InputError, match="unknown history 'all'; known: none, initial, rollback, last, every"):
        Traits(frozenset({"client"}), "server", "nothing", False, True, "", history="all")
    with pytest.raises(InputError, match="history_interval is 0"):
        Traits(frozenset({"client"}), "server", "nothing", False, True, "", history_interval=0)


def test_a_method_is_made_with_its_settings() -> None:
    assert make_method("fedquit", lr=0.01, teacher="topk") == FedQUIT(lr=0.01, teacher="topk")


def test_errors_name_what_is_known() -> None:
    with pytest.raises(InputError, match=r"unknown method 'fedquitt' \(did you mean 'fedquit'\?\); known: .*continue"):
        make_method("fedquitt")
    with pytest.raises(InputError, match=r"unknown setting of method 'fedquit' 'epoch' \(did you mean 'epochs'\?\)"):
        make_method("fedquit", epoch=2)
    with pytest.raises(InputError, match="method 'continue' takes no settings; given: lr"):
        make_method("continue", lr=1.0)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fedquit", {"lr": -1}, "lr is -1; it must be a finite number above 0"),
        ("ascent", {"clip": 0}, "clip is 0; it must be a finite number above 0"),
        ("ascent", {"max_loss": -1.0}, "max_loss is -1.0"),
        ("ascent", {"epochs": 0}, "epochs is 0; it must be a whole number of at least 1"),
        ("auxiliary-head", {"keep": 1.5}, "keep is 1.5; it must be between 0 and 1"),
        ("auxiliary-head", {"batch_size": "x"}, "batch_size is 'x'"),
        ("federaser", {"interval": 0}, "interval is 0"),
        ("federaser", {"epochs": 1.5}, "epochs is 1.5"),
        ("mode", {"rounds": 0}, "rounds is 0"),
        ("mode", {"keep": -0.1}, "keep is -0.1"),
        ("mode", {"lr": float("nan")}, "lr is nan"),
        ("orthogonal", {"lr": 0.0}, "lr is 0.0"),
        ("orthogonal", {"rounds": True}, "rounds is True"),
        ("orthogonal", {"epochs": 0}, "epochs is 0; it must be a whole number of at least 1"),
        ("orthogonal", {"batch_size": "run"}, "batch_size is 'run'"),
        ("projected-ascent", {"momentum": 1.0}, "momentum is 1.0; it must be at least 0 and below 1"),
        ("projected-ascent", {"stop_distance": -1}, "stop_distance is -1; it must be a finite number of at least 0"),
        ("projected-ascent", {"fresh_models": 0}, "fresh_models is 0"),
        ("pseudo-ascent", {"scale": 0}, "scale is 0"),
    ],
)
def test_each_setting_is_checked_when_it_is_given(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_method(name, **settings)


def test_a_step_that_a_device_cannot_carry_out_is_refused_by_name() -> None:
    model, samples = nn.Linear(2, 3), Samples(torch.ones(2, 2), torch.tensor([0, 1]))
    for name, cls in METHODS.items():
        with pytest.raises(InputError, match=f"method '{name}' has no device procedure 'dance'"):
            cls().on_device(model, samples, seed=0, step="dance")


@pytest.mark.parametrize("step", ["forget", "gradient"])
def test_a_server_that_expects_one_gradient_for_orthogonal_is_refused(step: str) -> None:
    model, samples = nn.Linear(2, 3), Samples(torch.ones(2, 2), torch.tensor([0, 1]))
    with pytest.raises(InputError, match=f"no device procedure '{step}'; it has unlearn, train"):
        make_method("orthogonal").on_device(model, samples, seed=0, step=step)


def test_the_documented_call_of_fedquit_and_its_exercise_are_the_same() -> None:
    samples, results = Samples(torch.randn(8, 2), torch.arange(8) % 3), []
    for through_exercise in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(2, 3)
        quit_ = FedQUIT(lr=0.1)
        losses = quit_.on_device(model, samples, seed=0) if through_exercise else quit_.forget(model, samples, seed=0)
        results.append((losses, model.weight.detach()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_a_name_cannot_be_taken_twice() -> None:
    class Other(Method):
        name = "fedquit"

    with pytest.raises(InputError, match="'fedquit' is registered already"):
        method(Other)
    assert METHODS["fedquit"] is FedQUIT


@pytest.mark.usefixtures("third_party")
def test_another_package_adds_a_method_by_an_entry_point() -> None:
    assert make_method("shrink", scale=2.0) == Shrink(2.0)
    assert "shrink" not in METHODS
    assert all_methods()["shrink"] is Shrink
    with pytest.raises(InputError, match="method 'shrink' needs these settings: scale"):
        make_method("shrink")
    with pytest.raises(InputError, match=r"known: .*shrink"):
        make_method("shrnk")


@pytest.mark.usefixtures("third_party")
def test_a_built_in_name_wins_and_loads_nothing() -> None:
    assert isinstance(make_method("fedquit"), FedQUIT)
    assert all_methods()["fedquit"] is FedQUIT


def test_a_stranger_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        importlib.metadata.EntryPoint("broken", "no_such_module_here:X", "fedquit.methods"),
        importlib.metadata.EntryPoint("empty", "builtins:int", "fedquit.methods"),
        importlib.metadata.EntryPoint("base", "fedquit.unlearning.methods.base:Method", "fedquit.methods"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points)
    with pytest.raises(FedquitError, match=r"'broken' \(no_such_module_here:X\) cannot be loaded: ModuleNotFoundError"):
        make_method("broken")
    with pytest.raises(FedquitError, match=r"'empty' .* is no method"):
        make_method("empty")
    with pytest.raises(FedquitError, match=r"'base' .* is no method: derive it from Method, with `traits`"):
        make_method("base")
