"""A device's memory: what it kept is there after a restart, a round never reads itself, a request empties it."""

from pathlib import Path
from typing import Annotated

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from fedquit.client.device.device import simulated_device
from fedquit.client.device.memory import Memory
from fedquit.client.models.model_file import tensors_in
from fedquit.client.objectives import LocalRound, make_objective
from fedquit.errors import FedquitError, InputError
from fedquit.server.lifecycle.training_history import Keep, check_room
from fedquit.settings import Part, Scope, Settings, setting
from fedquit.unlearning import Samples, make_method


def kept(memory: Memory, phase: str, requests: int, number: int) -> float | None:
    state = memory.recall(phase, requests, number)
    return None if state is None else float(state["w"])


def keep(memory: Memory, phase: str, requests: int, number: int) -> None:
    memory.keep({"w": torch.tensor(float(number))}, phase, requests, number)


def test_a_round_carried_out_again_reads_what_it_read_the_first_time(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    for number in (2, 3, 7):
        keep(memory, "train", 0, number)
    for _ in range(2):
        assert kept(Memory(tmp_path), "train", 0, 7) == 3
        keep(memory, "train", 0, 7)
    assert kept(memory, "train", 0, 8) == 7


def test_no_more_is_kept_than_a_round_and_the_one_before(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    for number in range(1, 6):
        keep(memory, "train", 0, number)
    assert sorted(file.name for file in tmp_path.rglob("*.safetensors")) == ["4.safetensors", "5.safetensors"]


def test_a_restarted_run_reads_no_state_of_the_later_rounds_before(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    keep(memory, "train", 0, 9)
    keep(memory, "train", 0, 1)
    assert kept(memory, "train", 0, 10) == 1


def test_every_phase_begins_with_an_empty_memory(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    keep(memory, "train", 0, 1)
    assert kept(memory, "retrain", 0, 2) is None


def test_what_is_older_than_a_request_is_removed(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    keep(memory, "train", 0, 4)
    keep(memory, "recover", 1, 5)
    memory.forget_before(1)
    assert kept(memory, "train", 0, 9) is None
    assert kept(memory, "recover", 1, 9) == 5


def test_runs_and_clients_that_share_a_folder_do_not_read_each_other(tmp_path: Path) -> None:
    mine = Memory.of(tmp_path, Settings(), 0)
    keep(mine, "train", 0, 1)
    for other in (Memory.of(tmp_path, Settings(), 1), Memory.of(tmp_path, Settings(seed=1), 0)):
        assert kept(other, "train", 0, 2) is None
    resumed = Settings(partition="elsewhere/partition.json", device_folder="x", data_root="y")
    assert kept(Memory.of(tmp_path, resumed, 0), "train", 0, 2) == 1


def test_a_version_with_one_more_setting_finds_what_was_kept_before_it(tmp_path: Path) -> None:
    class Later(Settings):
        width: Annotated[int, setting("made up", Part.TRAINING, Scope.TRAINING)] = 3

    keep(Memory.of(tmp_path, Settings(lr=0.5), 0), "train", 0, 1)
    assert kept(Memory.of(tmp_path, Later(lr=0.5), 0), "train", 0, 2) == 1
    assert kept(Memory.of(tmp_path, Later(lr=0.5, width=4), 0), "train", 0, 2) is None


@pytest.mark.parametrize("phase", ["../train", "a/b", "", "TRAIN", "."])
def test_a_servers_word_never_leads_out_of_the_folder(tmp_path: Path, phase: str) -> None:
    with pytest.raises(InputError, match="is not a phase name"):
        keep(Memory(tmp_path), phase, 0, 1)


def test_a_nodes_own_folder_wins_over_the_runs(tmp_path: Path) -> None:
    config = Settings(clients=2, device_folder=str(tmp_path / "run")).run_config()
    for own, place in (("", tmp_path / "run"), (str(tmp_path / "node"), tmp_path / "node")):
        memory = simulated_device(config, 0, 2, own).memory
        assert memory is not None
        assert place in memory.folder.parents
    assert simulated_device(Settings(clients=2).run_config(), 0, 2).memory is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedquitError, match="cannot write"):
        keep(Memory(tmp_path / "file"), "train", 0, 1)


class Tied(nn.Module):
    """A model one weight of which goes by two names, and part of which is a parameter's view."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight
        self.register_buffer("row", self.first.weight.detach()[1])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.second(self.first(inputs).relu()))
        return logits


def test_saved_state_of_a_model_with_tied_weights_holds_them_once(tmp_path: Path) -> None:
    memory, model = Memory(tmp_path), Tied()
    samples = Samples(torch.randn(8, 4), torch.arange(8) % 3)
    done = make_objective("moon").train(model, samples, LocalRound(seed=0, lr=0.1))
    assert done.keep is not None
    memory.keep(done.keep, "train", 0, 1)
    found = memory.recall("train", 0, 2)
    assert found is not None
    assert found.keys() == done.keep.keys()
    assert all(torch.equal(tensor, done.keep[name]) for name, tensor in found.items())
    (file,) = tmp_path.rglob("*.safetensors")
    assert sorted(load(file.read_bytes())) == [
        "first.bias",
        "first.weight",
        "head.bias",
        "head.weight",
        "row",
        "second.bias",
    ]
    make_objective("moon").train(Tied(), samples, LocalRound(seed=1, lr=0.1, state=found))


def test_a_file_that_names_a_tensor_that_it_lacks_is_damaged() -> None:
    content = save({"w": torch.ones(1)}, {"shared": '{"v": "u"}'})
    with pytest.raises(FedquitError, match="it is damaged, or no safetensors file"):
        tensors_in(content, "it")


@pytest.mark.parametrize("method", ["federaser", "projected-ascent"])
def test_a_model_with_shared_weights_can_have_its_training_kept(method: str) -> None:
    keep = Keep.of(make_method(method).needs())
    check_room(Settings(method=method), keep, Tied().state_dict())
