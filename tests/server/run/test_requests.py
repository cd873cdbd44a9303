"""Requests one after the other, at each granularity: who is asked what, and what never trains again."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedquit.client.data.build_data_and_model import dataset_of, split
from fedquit.client.training.sgd import fit
from fedquit.errors import FedquitError, InputError
from fedquit.server.run.loop import Loop
from fedquit.server.run.run_folder import RunFolder
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.unlearning import FedQUIT, Samples

SMALL = {"model": "mlp", "clients": 4, "samples": 80, "scheme": "iid", "holdout": 60, "rounds": 2, "recover": "budget",
         "recover-rounds": 1, "references": 1}  # fmt: skip


class Stop(Exception):  # noqa: N818
    """The run is killed here."""


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@dataclass(frozen=True)
class Work:
    """What a device really did: in which phase, which client, whether it trained or forgot, on which samples."""

    phase: str
    client: int
    did: str
    samples: frozenset[bytes]


class Spy(InProcessGrid):
    """An engine that asks one client after the other, and says whose turn it is."""

    phase, client = "join", -1
    asked: set[tuple[str, str, int]]

    def _submit(self, message: Message) -> Any:
        self.client = message.metadata.dst_node_id - FIRST_NODE_ID
        self.asked.add((self.phase, message.metadata.message_type, self.client))
        return super()._submit(message)


def names(samples: Samples) -> frozenset[bytes]:
    """Return the samples' contents, which no two of the digits share: no index of ours can hide a wrong one."""
    found = frozenset(sample.numpy().tobytes() for sample in samples.inputs)
    assert len(found) == len(samples)
    return found


class Watched:
    """Runs in folders, with every exercise of every device written down."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done: list[Work] = []
        self.asked: set[tuple[str, str, int]] = set()
        self.spy: Spy | None = None
        forget = FedQUIT.forget

        def fitted(model: Any, samples: Samples, **how: Any) -> float:
            self._note("train", samples)
            return fit(model, samples, **how)

        def forgotten(method: FedQUIT, model: Any, samples: Samples, **how: Any) -> list[float]:
            self._note("forget", samples)
            return forget(method, model, samples, **how)

        patch.setattr("fedquit.client.objectives.base.objective.fit", fitted)
        patch.setattr(FedQUIT, "forget", forgotten)

    def _note(self, did: str, samples: Samples) -> None:
        assert self.spy is not None
        self.done.append(Work(self.spy.phase, self.spy.client, did, names(samples)))

    def run(self, path: Path, stop_at: int | None = None, **changed: Any) -> tuple[State, list[Mapping[str, Any]]]:
        """Carry out a run, or resume it; killed at event `stop_at`."""
        begun = (path / "settings.json").exists()
        asked = {**SMALL, **{key.replace("_", "-"): value for key, value in changed.items()}}
        folder = RunFolder.open(path) if begun else RunFolder.create(path, Settings.read(asked))
        settings, events = folder.settings(), list[Mapping[str, Any]]()
        try:
            with Spy(settings.clients, settings.run_config()) as spy:
                self.spy, spy.asked = spy, self.asked

                def heard(event: Mapping[str, Any]) -> None:
                    spy.phase = event["phase"] if event["event"] == "phase" else spy.phase
                    events.append(event)
                    if len(events) - 1 == stop_at:
                        raise Stop

                return Loop(MeteredGrid(spy, patience=600), settings, folder, heard).run(), events
        finally:
            folder.release()

    def samples(self, *phases: str, did: str = "train", client: int | None = None) -> frozenset[bytes]:
        """Return all samples that devices worked on in some phases."""
        mine = [w for w in self.done if w.phase in phases and w.did == did and client in (None, w.client)]
        return frozenset().union(*(w.samples for w in mine))

    def clients(self, phase: str) -> tuple[set[int], set[int]]:
        """Return who was asked to train, and who to forget, in a phase."""
        kinds = ("train", "train.forget")
        train, forget = ({c for where, kind, c in self.asked if (where, kind) == (phase, k)} for k in kinds)
        return train, forget


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


COMPARED = ("later", "retrain", "control", "match")
AFTER = {1: ("recover", "forget-2", "recover-2", *COMPARED), 2: ("recover-2", *COMPARED)}
REQUESTS: dict[str, dict[str, Any]] = {
    "client": {"forget": "0;2,3"},
    "sample": {"granularity": "sample", "forget": "1;1,2", "forget_share": 0.3},
    "class": {"granularity": "class", "forget_class": "3;5,7"},
}


@pytest.mark.parametrize("granularity", REQUESTS)
@pytest.mark.parametrize("kill", [False, True])
def test_forgotten_samples_never_train_again_whatever_restarts(
    tmp_path: Path, watched: Watched, granularity: str, kill: bool
) -> None:
    changed = {"budget": 4, **REQUESTS[granularity]}
    if kill:
        for stop_at in (12, 9, 4, 7, 3, 6):
            with pytest.raises(Stop):
                watched.run(tmp_path, stop_at, **changed)
    state, _ = watched.run(tmp_path, **changed)
    assert list(state.ended) == ["train", "forget", "recover", "forget-2", "recover-2", *COMPARED]
    everything = watched.samples("train")
    assert len(everything) == 80
    forgotten = frozenset[bytes]()
    for number, phase in ((1, "forget"), (2, "forget-2")):
        gone = watched.samples(phase, did="forget")
        assert gone
        assert not gone & forgotten, "each request is about what the ones before it have left"
        forgotten |= gone
        for later in AFTER[number]:
            assert not gone & watched.samples(later), f"{later} trained on what {phase} forgot"
    assert watched.samples("later") == watched.samples("retrain") == everything - forgotten, "all others train on"


def test_a_client_that_asks_forgets_all_it_has_and_is_never_asked_again(tmp_path: Path, watched: Watched) -> None:
    watched.run(tmp_path, **REQUESTS["client"])
    assert [watched.clients(phase) for phase in ("train", "forget", "recover", "forget-2", "recover-2", "retrain")] == [
        ({0, 1, 2, 3}, set()), (set(), {0}), ({1, 2, 3}, set()), (set(), {2, 3}), ({1}, set()), ({1}, set()),
    ]  # fmt: skip
    for phase, client in (("forget", 0), ("forget-2", 2), ("forget-2", 3)):
        assert watched.samples(phase, did="forget", client=client) == watched.samples("train", client=client)


def test_a_client_that_has_some_samples_forgotten_stays_with_the_rest(tmp_path: Path, watched: Watched) -> None:
    watched.run(tmp_path, **REQUESTS["sample"])
    assert (watched.clients("forget")[1], watched.clients("forget-2")[1]) == ({1}, {1, 2})
    assert watched.clients("recover")[0] == watched.clients("retrain")[0] == {0, 1, 2, 3}
    for client, requests in ((1, ("forget", "forget-2")), (2, ("forget-2",))):
        mine = watched.samples("train", client=client)
        each = [watched.samples(phase, did="forget", client=client) for phase in requests]
        assert [len(gone) for gone in each] == [round(0.3 * len(mine))] * len(requests)
        assert watched.samples("recover-2", client=client) == mine.difference(*each)


def test_a_class_is_forgotten_by_all_who_hold_it_and_by_nobody_else(tmp_path: Path, watched: Watched) -> None:
    watched.run(tmp_path, **REQUESTS["class"])
    settings = Settings.read({**SMALL, "granularity": "class", "forget-class": "3;5,7"})
    train = dataset_of(settings).train
    for phase, labels in (("forget", (3,)), ("forget-2", (5, 7))):
        for client, part in enumerate(split(settings.key())):
            mine = [i for i in part.tolist() if int(train.labels[i]) in labels]
            expected = frozenset(train.inputs[i].numpy().tobytes() for i in mine)
            assert watched.samples(phase, did="forget", client=client) == expected
            assert (client in watched.clients(phase)[1]) == bool(mine)


def test_a_method_that_asks_the_others_asks_none_of_those_who_left_before(tmp_path: Path, watched: Watched) -> None:
    watched.run(tmp_path, forget="0;2", method="mode", method_settings="rounds=1", reference="none")
    assert watched.clients("forget") == ({1, 2, 3}, {0})
    assert watched.clients("forget-2") == ({1, 3}, {2})


@pytest.mark.parametrize("method", ["federaser", "projected-ascent"])
def test_a_method_that_reads_updates_refuses_a_second_request_at_once(
    tmp_path: Path, watched: Watched, method: str
) -> None:
    with pytest.raises(InputError, match=rf"method '{method}' can serve one request in a run: .*forget = 0,3"):
        watched.run(tmp_path, forget="0;1", method=method)
    assert watched.done == []


def test_a_device_that_fails_to_forget_is_named_and_asked_again_on_resume(
    tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = watched.run(tmp_path / "whole", forget="2", reference="none")
    with monkeypatch.context() as patch:

        def fails(*_: Any, **__: Any) -> list[float]:
            raise OSError("battery empty")

        patch.setattr(FedQUIT, "forget", fails)
        with pytest.raises(FedquitError, match=r"client\(s\) 2.*client 2: OSError: battery empty"):
            watched.run(tmp_path / "run", forget="2", reference="none")
    assert watched.run(tmp_path / "run")[0].models == whole.models
