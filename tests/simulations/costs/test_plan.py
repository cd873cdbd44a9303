"""`fedquit plan`: what is foretold is what is then accounted."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fedquit.errors import InputError
from fedquit.simulations.costs.plan.make_plan import make_plan
from fedquit.simulations.costs.price import Price
from fedquit.simulations.simulate.run_simulation import run_simulation
from fedquit.strategies.cost_log.cost_rows import read_rows
from fedquit.unlearning.exchanges import Exchange, Outlook
from fedquit.unlearning.methods.base import METHODS, Method, Traits
from fedquit.unlearning.session import Session
from fedquit.unlearning.tensors.convert import StateDict

SMALL = {"model": "mlp", "clients": 4, "alpha": 1.0, "rounds": 4, "samples": 300, "holdout": 100}
TRAIN = {**SMALL, "reference": "none"}
KEEP = ("federaser", "projected-ascent", "retrain")
AFTER: dict[str, Any] = {
    "forget": "3",
    "recover": "budget",
    "recover-rounds": 2,
    "reference": "none",
    "guard": "adopt",  # what a method costs, also where it breaks the model
}


def train(path: Path, **changes: Any) -> Path:
    given = {**TRAIN, **{key.replace("_", "-"): value for key, value in changes.items()}}
    run_simulation(given, workers=1, out=path, only=["train"], keep=KEEP)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("plan") / "trained")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which half the clients train in a round, and devices keep their last model."""
    return train(tmp_path_factory.mktemp("plan") / "sparse", fraction=0.5, objective="moon")


def accounted(path: Path) -> dict[tuple[str, int], Counter[str]]:
    """Return the payload and messages of every round of every phase, by their order within the phase."""
    sums: dict[tuple[str, int], Counter[str]] = {}
    order: dict[str, list[int]] = {}
    for row in read_rows(path / "costs.csv"):
        numbers = order.setdefault(row.phase, [])
        if row.round not in numbers:
            numbers.append(row.round)
        found = sums.setdefault((row.phase, numbers.index(row.round) + 1), Counter())
        found[f"payload_bytes_{row.direction}"] += row.payload_bytes
        found["messages"] += 1
        found["wire_bytes"] += row.wire_bytes
    return sums


def carry_out(trained: Path, out: Path, given: dict[str, Any], keys: dict[str, Any]) -> dict[tuple[str, int], Any]:
    run_simulation({**SMALL, **keys, **given}, workers=1, out=out, start=trained)
    return accounted(out)


def check(estimate: dict[str, Any], found: Counter[str]) -> None:
    for key in ("messages", "payload_bytes_down", "payload_bytes_up"):
        assert estimate[key] == found[key], key
    assert estimate["wire_bytes"] == pytest.approx(found["wire_bytes"], abs=12 * found["messages"])


CASES: list[dict[str, Any]] = [
    *({"method": name} for name in sorted(METHODS)),
    {"method": "fedquit", "method-settings": "lr=auto"},
    {"method": "federaser", "method-settings": "interval=4", "forget": "0,3"},
    {"method": "fedquit", "forget": "1;3"},
    {"method": "fedquit", "granularity": "sample", "forget-share": 0.2},
    {"method": "negate", "granularity": "class", "forget-class": "7"},
    {"method": "auxiliary-head", "granularity": "class", "forget-class": "7"},
    {"method": "fedquit", "recover-bytes": 700_000},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_payload_of_forgetting_and_recovery_is_estimated_exactly(
    trained: Path, tmp_path: Path, case: dict[str, Any]
) -> None:
    given = {**AFTER, **case}
    told = {key: value for key, value in given.items() if key not in ("method", "reference")}
    plan = make_plan(trained, told, Price(), method=case["method"])
    assert plan["exact_payload"] is True
    found = carry_out(trained, tmp_path / "run", given, {})
    for request in plan["requests"]:
        estimate, suffix = request["methods"][case["method"]], "" if request["request"] == 1 else "-2"
        assert estimate["can_be_served"], estimate
        forget = Counter[str]()
        for (phase, _), sums in found.items():
            if phase == f"forget{suffix}":
                forget.update(sums)
        check(estimate["forget"], forget)
        rounds = [sums for (phase, _), sums in found.items() if phase == f"recover{suffix}"]
        assert estimate["recover"]["at_least"] == estimate["recover"]["at_most"] == len(rounds)
        for one, sums in zip(estimate["recover"]["rounds"], rounds, strict=True):
            check(one, sums)
        whole = estimate["total"]["at_most"]
        assert whole["payload_bytes"] == sum(
            sums[f"payload_bytes_{way}"] for sums in (forget, *rounds) for way in ("down", "up")
        )


def test_estimates_are_exact_with_sampling_and_device_state_and_for_retraining(sparse: Path, tmp_path: Path) -> None:
    given = {**AFTER, "method": "fedquit", "reference": "retrain", "references": 1, "recover-rounds": 3}
    plan = make_plan(sparse, {"forget": "3", "recover": "budget", "recover-rounds": 3}, Price(), method="fedquit")
    found = carry_out(sparse, tmp_path / "run", given, {"fraction": 0.5, "objective": "moon"})
    (request,) = plan["requests"]
    check(request["methods"]["fedquit"]["forget"], found["forget", 1])
    for number in (1, 2, 3):
        check(request["methods"]["fedquit"]["recover"]["rounds"][number - 1], found["recover", number])
    retrain = Counter[str]()
    for number in range(1, 5):
        retrain.update(found["retrain", number])
    check(request["retraining"], retrain)


@pytest.mark.parametrize(
    ("codecs", "exact"),
    [
        ({"compress-up": "int8", "compress-down": "fp16"}, True),
        ({"compress-up": "top-k", "compress-settings": "share=0.05"}, True),
        ({"compress-up": "int8+zstd", "compress-down": "fp16+zstd"}, False),
    ],
    ids=str,
)
def test_a_plan_includes_compression_and_says_when_sizes_depend_on_values(
    tmp_path: Path, codecs: dict[str, Any], exact: bool
) -> None:
    trained = train(tmp_path / "trained", **codecs)
    given = {**AFTER, "method": "fedquit"}
    plan = make_plan(trained, {key: given[key] for key in ("forget", "recover", "recover-rounds")}, Price())
    assert plan["exact_payload"] is exact
    found = carry_out(trained, tmp_path / "run", given, codecs)
    estimate = plan["requests"][0]["methods"]["fedquit"]
    for one, sums in (
        (estimate["forget"], found["forget", 1]),
        *((estimate["recover"]["rounds"][number - 1], found["recover", number]) for number in (1, 2)),
    ):
        if exact:
            check(one, sums)
        for way in ("down", "up"):
            assert one[f"payload_bytes_{way}"] == pytest.approx(sums[f"payload_bytes_{way}"], rel=0.1)


def test_recovery_rounds_are_estimated_as_a_range_until_one_was_observed(trained: Path, tmp_path: Path) -> None:
    told = {"forget": "3", "recover": "utility", "recover-rounds": 3, "patience": 2}
    recover = make_plan(trained, told, Price(), method="negate")["requests"][0]["methods"]["negate"]["recover"]
    assert (recover["at_least"], recover["at_most"]) == (2, 3)
    assert "not known" in recover["because"]
    assert len(recover["rounds"]) == 3
    after = {"forget": "0", "method": "negate", "reference": "none", "recover-rounds": 3, "tolerance": 0.9}
    run_simulation({**SMALL, **after}, workers=1, out=tmp_path / "done", start=trained)
    again = make_plan(tmp_path / "done", {"forget": "3"}, Price(), method="all")["requests"][0]["methods"]
    assert (again["negate"]["recover"]["at_least"], again["negate"]["recover"]["at_most"]) == (1, 1)
    assert "request(s) of this run" in again["negate"]["recover"]["because"]
    assert (again["fedquit"]["recover"]["at_least"], again["fedquit"]["recover"]["at_most"]) == (1, 3)
    assert not again["federaser"]["can_be_served"], "what it reads is purged"


def test_a_plan_writes_nothing(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    make_plan(trained, {"forget": "3"}, Price())
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_method_without_an_estimate_is_not_estimated_and_the_others_are(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, slots=True)
    class Strange(Method):
        name: ClassVar[str] = "strange"
        traits: ClassVar[Traits] = METHODS["continue"].traits

        def serve(self, session: Session) -> StateDict:
            return session.current

    class Broken(Strange):
        name: ClassVar[str] = "broken"

        def exchanges(self, outlook: Outlook) -> tuple[Exchange, ...]:
            raise KeyError(outlook.forgotten)

    monkeypatch.setitem(METHODS, "strange", Strange)
    monkeypatch.setitem(METHODS, "broken", Broken)
    methods = make_plan(trained, {"forget": "3"}, Price())["requests"][0]["methods"]
    assert methods["strange"]["why"].startswith("not estimated: ")
    assert "KeyError((3,))" in methods["broken"]["why"]
    assert {name for name in METHODS if not methods[name]["known"]} == {"strange", "broken"}


def test_a_method_that_cannot_forget_so_says_so(trained: Path) -> None:
    methods = make_plan(trained, {"granularity": "class", "forget-class": "7"}, Price())["requests"][0]["methods"]
    assert "not by class" in methods["federaser"]["why"]
    assert methods["negate"]["known"]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "plan")


def test_people_get_a_table_and_programs_a_document(run: Run, trained: Path) -> None:
    code, out, _ = run(trained, "--forget", 3, "--link", 20, "--teacher", "topk")
    assert code == 0
    for word in (*METHODS, "retraining", "link: 20 Mbit/s", "exact"):
        assert word in out
    code, out, _ = run(trained, "--forget", 3, "--link", 20, "--method", "fedquit", "--json")
    found = json.loads(out)["requests"][0]["methods"]["fedquit"]["total"]["at_least"]
    assert found["link_seconds"] == pytest.approx(found["busiest_bytes"] * 8 / 20e6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "is not the folder of a run"),
        (["{run}", "--forget", "9"], "there is no client 9"),
        (["{run}", "--method", "fedquitt"], "unknown method 'fedquitt'"),
        (["{run}", "--method-settings", "lr=1"], "name it with --method"),
        (["{run}", "--method", "negate", "--teacher", "topk"], "teacher is a setting of method fedquit"),
    ],
)
def test_a_mistake_gets_one_line(run: Run, trained: Path, arguments: list[str], said: str) -> None:
    code, _, err = run(*(part.format(run=trained) for part in arguments))
    assert code == 4
    assert said in err


def test_settings_of_training_cannot_be_given(trained: Path) -> None:
    with pytest.raises(InputError, match="rounds"):
        make_plan(trained, {"rounds": 3}, Price())
