"""A device with a kit: what was forgotten never trains again, and what was answered once is answered the same."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from PIL import Image

from fedquit.client.app import app
from fedquit.client.data.build_data_and_model import initial_model
from fedquit.client.device import deployed_device
from fedquit.client.device.command import leave
from fedquit.client.device.local_data.gather import find
from fedquit.client.device.local_data.sample_digest import set_digest
from fedquit.client.device.local_data.sample_names import marking
from fedquit.client.device.record import Mark, Record, opened, stored_replies
from fedquit.client.device.record.stored_replies import Replies
from fedquit.client.kit import Kit
from fedquit.client.models.model_file import model_hash
from fedquit.client.requests.keys import new_key, public_der, read_private
from fedquit.client.requests.piggyback import SIGNINGS
from fedquit.client.requests.signed_request import Signed, is_from, read_ask
from fedquit.errors import InputError
from fedquit.server.provision.certificates import node_key_files
from fedquit.settings import Settings
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.grid.array_record import arrays_of_record

SETTINGS = Settings(model="mlp", classes="3", input_shape="1x4x4", batch_size=4)
START = initial_model(SETTINGS, 0).state_dict()
REQUEST, OTHER = "5e" * 32, "07" * 32


def make_kit(folder: Path, count: int = 12, **more: str) -> Kit:
    folder.mkdir()
    draw = np.random.default_rng(3)
    np.savez(folder / "own.npz", x=draw.integers(0, 256, (count, 4, 4), dtype=np.uint8), y=[0, 1, 2] * (count // 3))
    told = {"federation": "clinics", "superlink": "h:1", "forget": "h:2", "name": "north", "data": "own.npz", **more}
    lines = [f'{key} = "{value}"' for key, value in told.items()]
    (folder / "device.toml").write_text("\n".join([*lines, "number = 4"]))
    (folder / "node.key").write_bytes(node_key_files(new_key())[0])
    (folder / "node.key").chmod(0o600)
    return Kit.read(folder)


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return make_kit(tmp_path / "kit")


def rows(kit: Kit, *numbers: int) -> tuple[bytes, ...]:
    return tuple(find(kit.path(kit.data), [str(number) for number in numbers]).values())


def change(kit: Kit, change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    with np.load(kit.path(kit.data)) as held:
        x, y = change(held["x"], held["y"])
    np.savez(kit.path(kit.data), x=x, y=y)


def send(kit: Kit, kind: str, state: Any = None, settings: Settings = SETTINGS, **config: Any) -> RecordDict:
    become_server_task(1)
    told = ConfigRecord({"seed": 5, "lr": 0.1, "server-round": 1, "phase": "train", **config})
    content = RecordDict({"arrays": ArrayRecord(dict(state or START)), "config": told})
    node: Any = {"kit": str(kit.folder)}
    context = Context(run_id=9, node_id=7, node_config=node, state=RecordDict(), run_config=settings.run_config())
    return app(Message(content, 7, kind), context).content


def forget(kit: Kit, request: str = REQUEST, **config: Any) -> RecordDict:
    return send(kit, "train.forget", **{"phase": "forget", "samples": "forget", "request": request, **config})


def said(content: RecordDict) -> dict[str, Any]:
    return dict(content.metric_records["metrics"])


def model_of(content: RecordDict) -> str:
    return model_hash(arrays_of_record(content.array_records["arrays"]))


def mark(kit: Kit, *numbers: int, request: str = REQUEST) -> None:
    with opened(kit.path(kit.record)) as record:
        record.mark(Mark(request, "sample", digests=rows(kit, *numbers)))


def trained_on(kit: Kit) -> set[bytes]:
    """Train a round and return the digests of what it trained on, as the record has them."""
    digest = send(kit, "train").config_records["config"]["samples-digest"]
    with opened(kit.path(kit.record)) as record:
        assert record.rounds()[-1].samples_digest == digest
        every = {each for row in record.database.read("SELECT digests FROM sample_sets") for each in parts(row[0])}
        return {each for each in every if record.rounds()[-1] in record.rounds(each)}


def parts(value: bytes) -> list[bytes]:
    return [value[start : start + 32] for start in range(0, len(value), 32)]


def test_it_says_its_number_and_how_many_samples_it_may_train_on(kit: Kit) -> None:
    assert said(send(kit, "query")) == {"number": 4, "num-examples": 12}
    mark(kit, 0, 1)
    forget(kit, granularity="sample")
    assert said(send(kit, "query"))["num-examples"] == 10


def test_a_round_is_in_its_record_and_its_reply_says_what_it_trained_on(kit: Kit) -> None:
    more: dict[str, Any] = {"server-round": 3}
    reply = send(kit, "train", **more)
    with opened(kit.path(kit.record)) as record:
        (done,) = record.rounds()
    assert (done.federation, done.run, done.phase, done.number) == ("clinics", "9", "train", 3)
    assert (done.model_in, done.model_out) == (model_hash(START), model_of(reply))
    assert done.num_examples == said(reply)["num-examples"] == 12
    assert done.samples_digest == reply.config_records["config"]["samples-digest"] == set_digest(rows(kit, *range(12)))


def test_a_device_trains_as_a_simulated_client_with_the_same_samples_does(kit: Kit) -> None:
    from fedquit.client.training.sgd import deterministic, fit
    from fedquit.unlearning.samples import Samples

    reply = send(kit, "train")
    with np.load(kit.path(kit.data)) as held:
        samples = Samples(torch.from_numpy(held["x"][:, None]), torch.from_numpy(held["y"]))
    model = initial_model(SETTINGS, 0)
    with deterministic(5):
        fit(model, samples, lr=0.1, batch_size=4, seed=5)
    assert model_of(reply) == model_hash(model.state_dict())


def test_forgotten_samples_never_train_again_in_any_position_or_number(kit: Kit) -> None:
    gone = rows(kit, 1, 5)
    mark(kit, 1, 5)
    forget(kit)
    assert trained_on(kit).isdisjoint(gone)
    change(kit, lambda x, y: (np.concatenate([x[::-1], x[[1, 1]]]), np.concatenate([y[::-1], y[[1, 1]]])))
    assert trained_on(kit).isdisjoint(gone)
    assert said(send(kit, "query"))["num-examples"] == 10


def stored_as(kit: Kit, form: str) -> None:
    """Store the kit's data in another form, without loss."""
    with np.load(kit.path(kit.data)) as held:
        x, y = held["x"], held["y"]
    arrays = {
        "with channels": x[:, None],
        "rows": x.reshape(12, 16),
        "float32 levels": x.astype(np.float32),
        "float64 0..1": x / 255,
        "float16 0..1": (x / 255).astype(np.float16),
        "as training sees it": x.astype(np.float32) / np.float32(127.5) - 1,
    }
    if form in arrays:
        np.savez(kit.path(kit.data), x=arrays[form], y=y.astype(np.uint8))
        return
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        (kit.folder / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(form).save(kit.folder / "images" / str(label) / f"{number}.png")
    told = kit.folder / "device.toml"
    told.write_text(told.read_text().replace("own.npz", "images"))


FORMS = (
    "with channels", "rows", "float32 levels", "float64 0..1", "float16 0..1", "as training sees it", "L", "RGB",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_was_forgotten_does_not_train_again_in_another_form(kit: Kit, form: str) -> None:
    mark(kit, 1, 5)
    forget(kit)
    stored_as(kit, form)
    kit = Kit.read(kit.folder)
    assert said(send(kit, "query"))["num-examples"] == 10
    assert said(send(kit, "train"))["num-examples"] == 10


@pytest.mark.parametrize("form", FORMS)
def test_samples_stored_in_another_form_since_the_request_are_forgotten(kit: Kit, form: str) -> None:
    marking(kit, "sample", rows(kit, 1, 5))(REQUEST)
    stored_as(kit, form)
    kit = Kit.read(kit.folder)
    reply = forget(kit, granularity="sample")
    assert said(reply)["num-examples"] == 2
    assert said(send(kit, "train"))["num-examples"] == 10
    assert model_of(forget(kit, granularity="sample")) == model_of(reply)


@pytest.mark.parametrize("form", FORMS)
def test_samples_named_in_a_piggybacked_request_are_forgotten_in_another_form(kit: Kit, form: str) -> None:
    CliRunner().invoke(leave, [str(kit.folder), "--sample", "1", "--sample", "5"], catch_exceptions=False)
    request = ridden(send(kit, "train")).id
    stored_as(kit, form)
    assert said(forget(Kit.read(kit.folder), request, granularity="sample"))["num-examples"] == 2


def test_a_sample_retired_once_is_not_forgotten_again_in_another_form(kit: Kit) -> None:
    mark(kit, 1, 5)
    forget(kit)
    stored_as(kit, "rows")
    assert said(forget(kit, OTHER, granularity="client"))["num-examples"] == 10


def test_a_class_that_was_forgotten_does_not_come_back_written_otherwise(kit: Kit) -> None:
    forget(kit, granularity="class", classes="2")
    change(kit, lambda x, y: (255 - x, np.char.add("0", y.astype(str))))
    assert said(send(kit, "query"))["num-examples"] == 8


def test_what_was_forgotten_does_not_come_back_under_another_label(kit: Kit) -> None:
    mark(kit, 1)
    forget(kit)
    change(kit, lambda x, y: (x, np.where(np.arange(12) == 1, 2, y)))
    assert len(trained_on(kit)) == 11


def test_samples_marked_then_deleted_do_not_train_when_they_come_back(kit: Kit) -> None:
    trained_on(kit)
    mark(kit, 1)
    whole = kit.path(kit.data).read_bytes()
    change(kit, lambda x, y: (np.delete(x, 1, 0), np.delete(y, 1, 0)))
    with pytest.raises(InputError, match="nothing that request 5e5e5e5e5e5e is about is there any more"):
        forget(kit)
    kit.path(kit.data).write_bytes(whole)
    assert len(trained_on(kit)) == 11


def test_samples_that_are_added_train_and_those_removed_do_not(kit: Kit) -> None:
    first = trained_on(kit)
    change(kit, lambda x, y: (np.concatenate([x[2:], 255 - x[:1]]), np.concatenate([y[2:], y[:1]])))
    second = trained_on(kit)
    assert len(first - second) == 2
    assert len(second - first) == 1


def test_forgetting_runs_the_methods_step_on_the_marked_samples(kit: Kit) -> None:
    mark(kit, 1, 5, 7)
    metrics = said(forget(kit))
    assert metrics["num-examples"] == 3
    for when in ("before", "after"):
        assert 0 <= metrics[f"forget-accuracy-{when}"] <= 1
        assert metrics[f"forget-loss-{when}"] > 0
    assert metrics["forget-loss-before"] != metrics["forget-loss-after"]
    assert "unseen-accuracy-after" not in metrics


def test_unseen_samples_are_measured_where_the_kit_names_some(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "kit", holdout="unseen.npz")
    np.savez(kit.folder / "unseen.npz", x=np.zeros((2, 4, 4), np.uint8), y=[0, 1])
    mark(kit, 1)
    assert said(forget(kit))["unseen-accuracy-before"] in (0, 0.5, 1)


def test_a_forget_reply_says_the_digest_that_was_asked_for(kit: Kit) -> None:
    mark(kit, 1, 5)
    for _ in range(2):
        assert forget(kit).config_records["config"]["samples-digest"] == set_digest(rows(kit, 1, 5))


def test_asked_again_it_answers_the_same_without_carrying_it_out_again(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark(kit, 1, 5)
    first = forget(kit)
    monkeypatch.setattr(
        "fedquit.client.messages.message_work.Work.forgotten", lambda _: pytest.fail("carried out again")
    )
    kit.path(kit.data).unlink()
    change_nothing = np.zeros((3, 4, 4), np.uint8)
    np.savez(kit.path(kit.data), x=change_nothing, y=[0, 1, 2])
    second = forget(kit)
    assert model_of(second) == model_of(first)
    assert {**said(second), "cpu-seconds": 0} == {**said(first), "cpu-seconds": 0}


def test_another_exercise_of_the_request_is_carried_out(kit: Kit) -> None:
    mark(kit, 1, 5)
    first, other = forget(kit), forget(kit, seed=6)
    assert model_of(first) != model_of(other)


def test_a_settled_reply_is_dropped(kit: Kit) -> None:
    mark(kit, 1)
    forget(kit)
    assert list((kit.folder / "replies").iterdir())
    send(kit, "train", settled=f"{OTHER},{REQUEST}")
    assert not list((kit.folder / "replies").iterdir())


def killed_at(target: Any, name: str, when: str) -> Callable[[], None]:
    """Return what makes a process kill itself before or after `target.name` is called, whatever it is doing."""
    real = getattr(target, name)

    def dies(*args: Any, **more: Any) -> Any:
        if when == "after":
            real(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: setattr(target, name, dies)


POINTS = {
    "before it retires": (Record, "retire", "before"),
    "after it retired": (Record, "retire", "after"),
    "before what was kept of rounds goes": (shutil, "rmtree", "before"),
    "before it distils": (deployed_device.DeployedDevice, "_measures", "before"),
    "after it distilled": (deployed_device, "replace", "before"),
    "before it keeps the reply": (Replies, "keep", "before"),
    "between the reply's model and its row": (stored_replies, "write_whole", "after"),
    "after it kept the reply": (Replies, "keep", "after"),
    "before it replies": (deployed_device.DeployedDevice, "adds", "before"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="kills a forked process")
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_a_device_replies_the_same_and_forgets_for_good(point: str, tmp_path: Path, kit: Kit) -> None:
    undisturbed = make_kit(tmp_path / "undisturbed")
    for each in (kit, undisturbed):
        mark(each, 1, 5)
    expected = forget(undisturbed)
    kill = killed_at(*POINTS[point])
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked process has none of its parent's other threads
        kill()
        forget(kit)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    if point != "before it retires":
        assert len(trained_on(kit)) == 10
    answer = forget(kit)
    assert model_of(answer) == model_of(expected)
    assert {**said(answer), "cpu-seconds": 0} == {**said(expected), "cpu-seconds": 0}
    assert len(trained_on(kit)) == 10


def test_a_device_that_left_trains_no_more_whatever_is_added(kit: Kit) -> None:
    assert said(forget(kit, granularity="client"))["num-examples"] == 12
    change(kit, lambda x, y: (255 - x, y))
    with pytest.raises(InputError, match="device 'north' has no samples: it left with request 5e5e5e5e5e5e"):
        send(kit, "train")
    assert said(send(kit, "query"))["num-examples"] == 0


def test_a_class_is_forgotten_wherever_it_lies_and_does_not_come_back(kit: Kit) -> None:
    assert said(forget(kit, granularity="class", classes="2"))["num-examples"] == 4
    change(kit, lambda x, y: (255 - x, y))
    assert said(send(kit, "query"))["num-examples"] == 8


def test_what_one_request_retired_another_does_not_forget_again(kit: Kit) -> None:
    mark(kit, 1, 5)
    forget(kit)
    assert said(forget(kit, OTHER, granularity="client"))["num-examples"] == 10


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "cannot serve request 5e5e5e5e5e5e: nothing was marked for it here; ask on the device"),
        ({"granularity": "sample"}, "nothing was marked for it here"),
        ({"request": "../../x"}, "'../../x' is not a request id"),
        ({"request": ""}, "'' is not a request id"),
        ({"granularity": "class", "classes": "3"}, "'3' is not a class of the federation; it has 0 to 2"),
        ({"samples": "all"}, "unknown kind of samples 'all'"),
    ],
)
def test_a_request_that_it_cannot_serve_is_refused_and_nothing_is_retired(
    kit: Kit, config: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError) as refused:
        forget(kit, **config)
    assert told in str(refused.value)
    assert len(trained_on(kit)) == 12


def test_a_request_for_samples_is_not_stretched_to_the_whole_device(kit: Kit) -> None:
    mark(kit, 1)
    with pytest.raises(InputError, match="it is about sample here, not client"):
        forget(kit, granularity="client")
    assert len(trained_on(kit)) == 12


def test_nothing_that_is_to_be_forgotten_is_trained_on(kit: Kit) -> None:
    mark(kit, 1)
    with pytest.raises(InputError, match="trains on nothing that is to be forgotten"):
        send(kit, "train", samples="forget", request=REQUEST)


def test_a_request_named_in_a_round_of_recovery_is_no_order_to_forget(kit: Kit) -> None:
    reply = send(kit, "train", request=REQUEST, phase="recover")
    assert said(reply)["num-examples"] == 12


def test_the_samples_of_a_request_can_be_asked_about_while_they_are_there(kit: Kit) -> None:
    mark(kit, 1, 5, 7)
    before = said(send(kit, "evaluate", samples="forget", request=REQUEST))
    done = said(forget(kit))
    assert (before["num-examples"], before["accuracy"]) == (3, done["forget-accuracy-before"])
    assert said(send(kit, "evaluate", samples="forget", request=REQUEST))["num-examples"] == 3
    assert said(send(kit, "evaluate"))["num-examples"] == 9


def test_what_it_kept_of_earlier_rounds_goes_with_what_it_retires(kit: Kit) -> None:
    send(kit, "train", settings=SETTINGS.model_copy(update={"objective": "moon"}))
    assert list((kit.folder / "memory").rglob("*.safetensors"))
    mark(kit, 1)
    forget(kit)
    assert not list((kit.folder / "memory").rglob("*.safetensors"))


def put(kit: Kit, *numbers: int) -> None:
    with opened(kit.path(kit.record)) as record:
        record.put("sample" if numbers else "client", rows(kit, *numbers), "please")


def ridden(content: RecordDict) -> Signed:
    told = content.config_records["ask"]
    ask, signature = told["ask"], told["signature"]
    assert isinstance(ask, bytes)
    assert isinstance(signature, bytes)
    return Signed(ask, signature)


def test_a_pending_request_is_piggybacked_signed_with_the_devices_key(kit: Kit) -> None:
    assert "ask" not in send(kit, "train").config_records
    put(kit, 1, 5)
    signed = ridden(send(kit, "train"))
    assert is_from(signed, public_der(read_private(kit.key_file)))
    ask = read_ask(signed.ask)
    assert (ask.federation, ask.granularity, ask.samples_count, ask.note) == ("clinics", "sample", 2, "please")
    assert ask.samples_digest == set_digest(rows(kit, 1, 5))


def test_a_piggybacked_request_keeps_its_bytes_until_acknowledged(kit: Kit) -> None:
    put(kit, 1)
    first = ridden(send(kit, "train"))
    assert ridden(send(kit, "train")) == first
    assert "ask" not in send(kit, "train", taken=first.id).config_records


def test_an_expired_request_is_signed_again_and_either_can_be_served(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    put(kit, 1)
    first = ridden(send(kit, "train"))
    with opened(kit.path(kit.record)) as record, record.database.writing() as cursor:
        cursor.execute("UPDATE asks SET signed_at = signed_at - 600")
    second = ridden(send(kit, "train"))
    assert first.id != second.id
    for signed in (first, second):
        assert said(forget(kit, signed.id))["num-examples"] == 1


def test_a_request_is_piggybacked_a_limited_number_of_times(kit: Kit) -> None:
    put(kit, 1)
    for _ in range(SIGNINGS):
        assert "ask" in send(kit, "train").config_records
        with opened(kit.path(kit.record)) as record, record.database.writing() as cursor:
            cursor.execute("UPDATE asks SET signed_at = signed_at - 600")
    assert "ask" not in send(kit, "train").config_records
    put(kit, 5)
    assert "ask" in send(kit, "train").config_records


@pytest.mark.parametrize(("code", "again"), [("nothing-contributed", False), ("quota", True), ("stale", True)])
def test_a_refused_request_is_piggybacked_again_only_if_retrying_can_help(kit: Kit, code: str, again: bool) -> None:
    put(kit, 1)
    first = ridden(send(kit, "train"))
    assert ("ask" in send(kit, "train", answers=f"{first.id}:{code}").config_records) is again
    with opened(kit.path(kit.record)) as record:
        assert [ask.refused for ask in record.asks()] == [code]


def test_a_request_accepted_under_another_id_is_not_piggybacked_again(kit: Kit) -> None:
    put(kit, 1)
    first = ridden(send(kit, "train"))
    assert "ask" not in send(kit, "train", answers=f"junk,{'0' * 64}:quota,{first.id}:taken").config_records
    with opened(kit.path(kit.record)) as record:
        assert record.asks() == []


def test_a_served_request_is_not_piggybacked_again(kit: Kit) -> None:
    put(kit)
    signed = ridden(send(kit, "train"))
    reply = forget(kit, signed.id)
    assert said(reply)["num-examples"] == 12
    assert "ask" not in reply.config_records
    with opened(kit.path(kit.record)) as record:
        assert record.asks() == []


def test_a_method_that_is_chosen_late_is_the_one_that_is_carried_out(kit: Kit) -> None:
    mark(kit, 1, 5)
    one = forget(kit)
    mark(kit, 1, 5, request=OTHER)
    other = forget(kit, OTHER, method="ascent", **{"method-settings": "lr=0.01"})
    assert model_of(one) != model_of(other)


def test_a_run_that_does_not_say_the_models_form_is_refused(kit: Kit) -> None:
    with pytest.raises(InputError, match="the run config must say classes and input-shape"):
        send(kit, "train", settings=Settings(model="mlp"))


def test_a_kit_without_data_is_named(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "kit", data="")
    with pytest.raises(InputError, match=r"names no data: add data = \"PATH\" to its device\.toml"):
        send(kit, "train")


def test_two_messages_are_never_at_work_at_once(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    from fedquit.errors import FedquitError

    monkeypatch.setattr(deployed_device, "LONGEST", 0.01)
    with (
        filelock.FileLock(str(kit.path(kit.record)) + ".lock"),
        pytest.raises(FedquitError, match="the message before this one"),
    ):
        send(kit, "train")
