"""Whole runs of devices with models of their own: what travels, what stays, who is left out, and what is refused."""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, Message

from fedquit.client.models.model_file import model_hash
from fedquit.client.personal.personal_evaluation import checked_measures, mean_document
from fedquit.client.personal.personal_models import begun_after, check_own_models, models_of, own_model
from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import objective_of
from fedquit.errors import FedquitError, InputError
from fedquit.server.run.phase_rules import rules_of
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.simulations.simulate.run_report import write_report
from fedquit.simulations.simulate.run_simulation import run_simulation
from tests.server.run.test_objective_flow import SMALL, carry_out, kept

MIXED: dict[str, Any] = {"objective": "fd", "models": "mlp,cnn", "method": "continue", "rounds": 2, "recover-rounds": 1}
PROTOTYPES: dict[str, Any] = {**MIXED, "objective": "fedproto", "objective-settings": "features=16"}
FEDKD: dict[str, Any] = {"objective": "fedkd", "models": "mlp,cnn", "mentee": "mlp", "rounds": 3, "recover-rounds": 1}
AVGM = {"strategy": "fedavgm", "strategy-settings": "server_momentum=0.5"}
FOUR_CLASSES = {"scheme": "pathological", "classes-per-client": 4}
NOISE = {"dp": "server-fixed", "dp-settings": "noise_multiplier=1,clipping_norm=1"}
CLASSES = 10


def spied(seen: list[tuple[str, int, dict[str, tuple[int, ...]]]]) -> type[InProcessGrid]:
    """Return an engine that notes of every train message the way, the client and the shapes of its arrays."""

    def note(way: str, message: Message, client: int) -> None:
        if message.metadata.message_type == "train" and message.has_content():
            arrays = message.content.array_records["arrays"]
            assert all(array.numpy().dtype.itemsize == 4 for array in arrays.values()), "four bytes a number"
            seen.append((way, client, {name: tuple(array.shape) for name, array in arrays.items()}))

    class Spied(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            asked = list(messages)
            for message in asked:
                note("down", message, message.metadata.dst_node_id - 1000)
            for reply in super().send_and_receive(asked, timeout=timeout):
                note("up", reply, reply.metadata.src_node_id - 1000)
                yield reply

    return Spied


def tampered(change: Callable[[Message], None], client: int = 1) -> type[InProcessGrid]:
    """Return an engine in which a client's replies to train messages are changed."""

    class Tampered(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            for reply in super().send_and_receive(messages, timeout=timeout):
                if reply.metadata.message_type == "train" and reply.metadata.src_node_id == 1000 + client:
                    change(reply)
                yield reply

    return Tampered


def numbers(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes.values()))


def stage_of(path: Path, state: State, stage: str) -> dict[str, Any]:
    return dict(RunFolder(path).load_model(state.models[stage]))


# What travels


def test_fd_sends_c_squared_down_and_c_squared_and_c_up(tmp_path: Path) -> None:
    seen: list[Any] = []
    state = carry_out(tmp_path, engine=spied(seen), **MIXED, reference="none")
    first, later = seen[:6], seen[6:]
    assert {numbers(shapes) for way, _, shapes in first if way == "down"} == {0}, "nobody has said anything"
    assert {numbers(shapes) for way, _, shapes in later if way == "down"} == {CLASSES**2}
    assert {numbers(shapes) for way, _, shapes in seen if way == "up"} == {CLASSES**2 + CLASSES}
    headers = 2 * 128  # each array travels as a .npy file
    for phase in ("train", "recover"):
        for done in state.of(phase):
            said = done.bytes_up / len(done.participants)
            assert 0 <= said - 4 * (CLASSES**2 + CLASSES) - headers < 100, "the account counts them, and little else"


def test_fedproto_sends_prototypes_of_the_devices_classes_and_gets_all(tmp_path: Path) -> None:
    seen: list[Any] = []
    carry_out(tmp_path, engine=spied(seen), **{**PROTOTYPES, **FOUR_CLASSES}, reference="none")
    held = {client: shapes["counts"] for _, client, shapes in seen if "counts" in shapes}
    assert set(held.values()) == {(CLASSES,)}
    ups = [shapes["prototypes"] for way, _, shapes in seen if way == "up"]
    assert set(ups) == {(4, 16)}, "four classes each, of 16 features, whatever the model"
    assert [shapes for way, _, shapes in seen if way == "down"][-1] == {"prototypes": (CLASSES, 16)}


def test_fedkd_sends_factors_and_the_whole_mentee_to_clients_that_lack_it(tmp_path: Path) -> None:
    seen: list[Any] = []
    state = carry_out(tmp_path, engine=spied(seen), **FEDKD, reference="none")
    mentee = {name: array.shape for name, array in stage_of(tmp_path, state, "original").items()}
    whole = [shapes == mentee for way, _, shapes in seen if way == "down"]
    assert whole == [True] * 3 + [False] * 6 + [True] * 2, "in a phase's first round whole, then what it changed by"
    for _, _, shapes in seen:
        for name, shape in mentee.items():
            if f"{name}/s" in shapes:
                (rank,), (rows, columns) = shapes[f"{name}/s"], shape
                assert shapes[f"{name}/u"] == (rows, rank)
                assert shapes[f"{name}/v"] == (rank, columns)
                assert rank * (rows + columns + 1) < rows * columns
            else:
                assert shapes.get(f"{name}/whole", shapes.get(name)) == shape
    factors = [numbers(shapes) for way, _, shapes in seen if way == "up"]
    assert max(factors) < numbers(mentee)


# What stays, and who is left out


def test_a_forgotten_clients_replies_are_dropped_at_once(tmp_path: Path) -> None:
    state = carry_out(tmp_path, **MIXED, reference="none")
    for stage, clients in (("original", "012"), ("unlearned", "12"), ("recovered", "12")):
        assert {name[0] for name in stage_of(tmp_path, state, stage)} == set(clients)
    original, unlearned = (stage_of(tmp_path, state, stage) for stage in ("original", "unlearned"))
    assert all(np.array_equal(original[name], array) for name, array in unlearned.items()), "the others' is as it was"
    assert state.devices["original"] == state.devices["unlearned"] != state.devices["recovered"]
    assert set(state.devices["original"]) == {"1", "2"}, "the same devices are measured throughout"
    assert kept(tmp_path) == [f"{c}/0-train/{n}" for c, ns in ((0, (1, 2)), (1, (2, 3)), (2, (2, 3))) for n in ns]


def test_a_device_that_forgets_samples_restarts_its_personalised_model(tmp_path: Path) -> None:
    sample = {**MIXED, "granularity": "sample", "forget-share": 0.5}
    state = carry_out(tmp_path, **sample, reference="none")
    settings = RunFolder(tmp_path).settings()
    fresh = model_hash(own_model(settings, 0, settings.seed_of_model).state_dict())
    before, after = state.devices["original"], state.devices["unlearned"]
    assert before["0"]["model_sha256"] != after["0"]["model_sha256"] == fresh
    assert before["1"]["model_sha256"] == after["1"]["model_sha256"]
    assert {name[0] for name in stage_of(tmp_path, state, "unlearned")} == {"1", "2"}
    assert {name[0] for name in stage_of(tmp_path, state, "recovered")} == {"0", "1", "2"}
    assert not [name for name in kept(tmp_path) if name.startswith("0/0-")], "nothing of before is on its disk"
    assert [begun_after(settings, client, 1) for client in range(3)] == [1, 0, 0]


def test_fedquit_works_on_the_mentee_and_teachers_stay(tmp_path: Path) -> None:
    state = carry_out(tmp_path, **FEDKD, reference="none")
    assert len({state.models[stage] for stage in ("original", "unlearned", "recovered")}) == 3
    assert state.devices["original"] == state.devices["unlearned"] != state.devices["recovered"]
    assert state.of("forget")[0].participants == (0,)


def test_a_device_that_lost_its_state_skips_a_round_and_gets_the_whole_mentee(tmp_path: Path) -> None:
    reasons: list[str] = []

    def listen(event: Any) -> None:
        if event["event"] == "round" and event["phase"] == "train" and event["round"] == 2:
            (lost,) = (tmp_path / "devices").glob("*/1")
            shutil.rmtree(lost)
        if event["event"] == "refused":
            reasons.append(event["reason"])

    state = carry_out(tmp_path, listen, **{**FEDKD, "rounds": 4}, reference="none")
    assert [done.participants for done in state.of("train")] == [(0, 1, 2), (0, 1, 2), (0, 2), (0, 1, 2)]
    assert len(reasons) == 1
    assert "no longer has the mentee of its last round" in reasons[0]


@pytest.mark.parametrize("chosen", [MIXED, FEDKD], ids=["fd", "fedkd"])
def test_two_workers_end_where_one_does(tmp_path: Path, chosen: dict[str, Any]) -> None:
    one = carry_out(tmp_path / "one", **chosen)
    two = carry_out(tmp_path / "two", engine=partial(InProcessGrid, workers=2), **chosen)
    assert (one.models, one.devices) == (two.models, two.devices)


def test_the_report_says_what_each_device_has(tmp_path: Path) -> None:
    _, one = run_simulation({**SMALL, **MIXED}, out=tmp_path / "one", workers=1)
    recovered = one["stages"]["recovered"]
    assert {client: own["model"] for client, own in recovered["devices"].items()} == {"1": "cnn", "2": "mlp"}
    shares = [own["test_accuracy"] for own in recovered["devices"].values()]
    assert recovered["test_accuracy"] == pytest.approx(math.fsum(shares) / 2)
    assert recovered["worst_client_accuracy"] == min(recovered["per_client_accuracy"]["retain"].values())
    assert one["verdict"]["outcome"] == "undetermined", "two references"
    costs = (tmp_path / "one" / "costs.csv").read_text().splitlines()
    asked = [line.split(",") for line in costs if line.startswith("evaluate,")]
    assert {line[2] for line in asked} == {"1", "2"}
    folder = RunFolder.open(tmp_path / "one")
    try:
        assert write_report(folder) == one, "a report needs no device"
    finally:
        folder.release()


# What is refused


def replaced(message: Message, name: str, array: np.ndarray[Any, Any]) -> None:
    message.content.array_records["arrays"][name] = Array(array)


BAD: dict[str, tuple[Callable[[Message], None], str]] = {
    "more classes than there are": (
        lambda m: replaced(m, "prototypes", np.zeros((11, 16), np.float32)),
        r"'prototypes' is float32 \(11, 16\), not float32 \(10, 16\)",
    ),
    "other features": (lambda m: replaced(m, "prototypes", np.zeros((10, 8), np.float32)), "not float32"),
    "another dtype": (lambda m: replaced(m, "prototypes", np.zeros((10, 16))), "'prototypes' is float64"),
    "not finite": (
        lambda m: replaced(m, "prototypes", np.full((10, 16), np.nan, np.float32)),
        "'prototypes' holds NaN or infinity",
    ),
    "counts of others": (lambda m: replaced(m, "counts", np.full(10, 7, np.int32)), "not those of 30 samples"),
    "negative counts": (
        lambda m: replaced(m, "counts", np.array([-1, 31] + [0] * 8, np.int32)),
        "not those of 30 samples",
    ),
    "prototypes of classes it has none of": (
        lambda m: replaced(m, "counts", np.array([30] + [0] * 9, np.int32)),
        r"\d+ prototypes where 'counts' name 1 classes",
    ),
    "one array too many": (lambda m: replaced(m, "more", np.zeros(1, np.float32)), "unexpected more"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_malformed_prototype_reply_is_refused_and_named(tmp_path: Path, bad: str) -> None:
    change, reason = BAD[bad]
    reasons: list[str] = []

    def listen(event: Any) -> None:
        if event["event"] == "refused":
            reasons.append(f"client {event['client']}: {event['reason']}")

    short = {**PROTOTYPES, "rounds": 1, "samples": 90, "reference": "none"}
    state = carry_out(tmp_path, listen, tampered(change), **short)
    assert [done.participants for done in state.of("train")] == [(0, 2)]
    assert reasons
    with pytest.raises(AssertionError, match=r"^client 1: .*" + reason):
        raise AssertionError(reasons[0])
    assert {name[0] for name in stage_of(tmp_path, state, "original")} == {"0", "2"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "fd"}, r"method 'fedquit' works on a global model; objective 'fd' has none: .* continue"),
        ({"objective": "fedproto", "method": "negate"}, "method 'negate' works on a global model"),
        ({"objective": "fedkd", "mentee": "mlp", "method": "federaser"}, "method 'federaser' has devices train"),
        ({"models": "mlp,cnn"}, "models: objective 'fedavg' averages weights, .* fd, fedkd, fedproto"),
        ({"objective": "fedkd"}, "objective 'fedkd' shares a small model .* set mentee, such as mlp"),
        ({"objective": "fd", "mentee": "mlp"}, "mentee: objective 'fd' shares no such model"),
        ({**PROTOTYPES, "objective-settings": ""}, r"'mlp' and 'cnn' .* prototypes \[1, 200\] and \[1, 512\]"),
        ({**PROTOTYPES, "objective-settings": "features=-1"}, "features is -1"),
        ({**MIXED, "models": "mlp,cmn"}, "unknown model 'cmn'"),
        ({**MIXED, "strategy": "fedmedian"}, "strategy: objective 'fd' has no models to aggregate"),
        ({**MIXED, **NOISE}, "dp: objective 'fd' has no models to aggregate"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_runs(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        run_simulation({**SMALL, **wrong}, out=out, workers=1)
    assert not out.exists()


def test_training_of_another_run_cannot_be_taken_over(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--start continues from another run's training"):
        run_simulation({**SMALL, **MIXED}, out=tmp_path / "b", start=tmp_path / "a", workers=1)


def test_a_file_says_which_model_each_client_has(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"0": "cnn", "1": "mlp", "2": "cnn"}))
    settings = Settings.read({**SMALL, **MIXED, "models": str(file)})
    assert models_of(settings) == ("cnn", "mlp", "cnn")
    check_own_models(settings)
    file.write_text(json.dumps({"0": "cnn"}))
    with pytest.raises(InputError, match="names no model for client 1"):
        models_of(settings)
    with pytest.raises(InputError, match="cannot read the models of devices from"):
        models_of(settings.model_copy(update={"models": str(tmp_path / "none.json")}))


def test_the_methods_and_strategies_that_work_are_let_through() -> None:
    for chosen in (MIXED, PROTOTYPES, FEDKD, {**FEDKD, "method": "negate"}, {**FEDKD, **AVGM}):
        settings = Settings.read({**SMALL, **chosen})
        assert method_of(settings).name == settings.method
        assert objective_of(settings).name == settings.objective
        rules_of(settings)


def test_a_devices_word_on_its_model_is_checked() -> None:
    good = {"holdout_accuracy": 0.5, "forget_accuracy": 0.25}
    assert checked_measures(good, 3, stage=False) == good
    for wrong, message in [
        ({"holdout_accuracy": 0.5}, "no forget_accuracy"),
        ({**good, "forget_accuracy": 1.5}, "'forget_accuracy' is 1.5"),
        ({**good, "forget_accuracy": -0.1}, "'forget_accuracy' is -0.1"),
        ({**good, "attacks": 0.5}, "'attacks' is 0.5: no such measure"),
        ({**good, "per_client_accuracy.retain.2": 0.5}, "of another client's samples"),
    ]:
        with pytest.raises(InputError, match=message):
            checked_measures(wrong, 3, stage=False)
    with pytest.raises(InputError, match="no retain_accuracy"):
        checked_measures(good, 3, stage=True)


def test_the_mean_over_devices_has_the_form_of_one_models_measures() -> None:
    said = {
        1: {"test_accuracy": 0.5, "per_class_accuracy.0": 0.2, "per_class_accuracy.2": 0.8,
            "per_client_accuracy.retain.1": 0.9, "attacks.confidence.member_rate": 0.4},
        2: {"test_accuracy": 1.0, "per_class_accuracy.0": 0.4, "per_class_accuracy.2": 1.0,
            "per_client_accuracy.retain.2": 0.7, "attacks.confidence.member_rate": 0.6},
    }  # fmt: skip
    document = mean_document(said)
    assert document["test_accuracy"] == 0.75
    assert document["per_class_accuracy"] == pytest.approx([0.3, None, 0.9])
    assert document["worst_class_accuracy"] == pytest.approx(0.3)
    assert (document["worst_client"], document["worst_client_accuracy"]) == (2, 0.7)
    assert document["attacks"] == {"confidence": {"member_rate": 0.5}}
    assert asdict(State())["devices"] == {}


def test_where_no_device_answers_the_run_stops_and_says_so(tmp_path: Path) -> None:
    class Silent(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            for reply in super().send_and_receive(messages, timeout=timeout):
                if reply.metadata.message_type == "evaluate.own":
                    reply.content.metric_records["metrics"]["holdout_accuracy"] = 7.0
                yield reply

    with pytest.raises(FedquitError, match="train round 1: no device reported metrics of its model"):
        carry_out(tmp_path, engine=Silent, **MIXED)
