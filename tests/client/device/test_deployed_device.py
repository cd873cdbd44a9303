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

from fedquit.client.data.build_data_and_model import initial_model
from fedquit.client.device import deployed_device
from fedquit.client.device.join import line_of
from fedquit.client.device.local_data.samples_commitment import set_digest
from fedquit.client.device.processes.refusals import Refusals
from fedquit.client.device.record import Record, opened, stored_replies
from fedquit.client.device.record.stored_replies import Replies
from fedquit.client.kit import Kit
from fedquit.client.models.model_file import model_hash
from fedquit.errors import InputError
from fedquit.server.coordinator.participants import presence
from fedquit.settings import Settings
from tests.client.device.kit_messages import (
    OTHER,
    REQUEST,
    SETTINGS,
    START,
    change,
    committed,
    forget,
    make_kit,
    mark,
    model_of,
    rows,
    said,
    send,
    trained_on,
)


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
    assert done.samples_digest == set_digest(rows(kit, *range(12)))
    assert reply.config_records["config"]["samples-digest"] == committed(kit, *rows(kit, *range(12)))


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


def test_replies_tell_nobody_who_has_the_samples_that_it_was_these(tmp_path: Path) -> None:
    sent = set()
    for name in ("north", "south"):  # two devices with the same data
        kit = make_kit(tmp_path / name)
        mark(kit, 1, 5)
        replies = send(kit, "train"), forget(kit), send(kit, "train")
        told = [reply.config_records["config"]["samples-digest"] for reply in replies]
        sets = (rows(kit, *range(12)), rows(kit, 1, 5), set(rows(kit, *range(12))) - set(rows(kit, 1, 5)))
        for digest, samples in zip(told, sets, strict=True):
            assert digest == committed(kit, *samples)  # the owner shows what it was
            assert digest != set_digest(samples)  # which is all that a guesser can compute
        sent |= {*told}
    assert len(sent) == 6  # nor does one device's say anything of another's


def test_a_forget_reply_says_the_digest_that_was_asked_for(kit: Kit) -> None:
    mark(kit, 1, 5)
    for _ in range(2):
        assert forget(kit).config_records["config"]["samples-digest"] == committed(kit, *rows(kit, 1, 5))


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


def test_noise_is_the_same_for_the_same_step_and_another_for_another_method(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "kit")
    run = {**SETTINGS.run_config(), "forget-clip": 1.0, "forget-noise": 4.0}

    def seed(**config: Any) -> int:
        device = deployed_device.deployed_device(kit.folder, run, "9", config)
        return device.noise_seed({"request": REQUEST, **config})

    first = seed(seed=5)
    assert seed(seed=6) == first  # so that asking often averages nothing out
    others = [seed(method="ascent"), seed(**{"method-settings": "lr=0.01"}), seed(**{"forget-clip": 2.0})]
    assert len({first, *others}) == 4


def test_noise_is_another_where_the_runs_training_makes_another_step(tmp_path: Path) -> None:
    kit = make_kit(tmp_path / "kit")

    def seed(method: str, **training: int) -> int:
        noisy = {"forget-clip": 1.0, "forget-noise": 4.0, "local-epochs": 1, "batch-size": 32}
        run = {**SETTINGS.run_config(), **noisy, **{key.replace("_", "-"): value for key, value in training.items()}}
        device = deployed_device.deployed_device(kit.folder, run, "9", {"method": method})
        return device.noise_seed({"request": REQUEST, "method": method})

    first = seed("orthogonal")  # which trains for the run's epochs, in its batches
    assert seed("orthogonal", local_epochs=1, batch_size=32) == first
    others = [seed("orthogonal", local_epochs=2), seed("orthogonal", batch_size=16)]
    assert len({first, *others}) == 3
    own = {seed("ascent"), seed("ascent", local_epochs=2), seed("ascent", batch_size=16)}
    assert len(own) == 1, "the step is the same, and asking in many runs averages nothing out"


def test_a_device_with_an_older_record_still_forgets_what_it_is_asked_to(kit: Kit) -> None:
    mark(kit, 1, 5)
    earlier = f"{OTHER},{'3c' * 32}:2"  # of its own samples, which the record lacks, and a class
    assert said(forget(kit, retired=earlier))["num-examples"] == 2
    with opened(kit.path(kit.record)) as record:
        assert {*rows(kit, 1, 5, 2, 8, 11)} == {*record.retired()}
    with pytest.raises(InputError, match="does not train: its record"):
        send(kit, "train", retired=earlier)
    with pytest.raises(InputError, match="does not train: its record"):
        forget(kit, samples="keep", retired=earlier)


def test_no_more_reminders_are_taken_than_an_honest_server_sends(kit: Kit) -> None:
    reminders = ",".join(f"{number:064x}:{0 if number == 0 else 2}" for number in range(51))
    send(kit, "train", retired=reminders)
    with opened(kit.path(kit.record)) as record:
        assert len(record.marks()) == deployed_device.REMINDED == presence.LISTED
        assert {*rows(kit, 2, 5, 8, 11)} == {*record.retired()}


def test_join_names_what_a_message_of_the_server_alone_had_retired(kit: Kit, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    refusals = Refusals(lambda event: told.append(line_of(event)))
    mark(kit, 1)
    forget(kit)  # asked on this device: its owner knows
    for _ in range(2):
        send(kit, "train", retired=f"{OTHER}:0:2:2")
    for line in capfd.readouterr().err.splitlines():
        refusals.hear(line)
    assert told == ["retired  for good, as the server says that request 070707070707 asks: class 0, 2"]
