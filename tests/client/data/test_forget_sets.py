"""Which samples a request is about, at each granularity, and that wrong requests are refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedquit.client.data.build_data_and_model import dataset_of, split
from fedquit.client.data.forget_sets import askers, forgotten_clients, to_forget, to_keep
from fedquit.errors import InputError
from fedquit.settings import Settings

BASE = {"dataset": "digits", "clients": 4, "alpha": 1.0}


def settings(**given: Any) -> Settings:
    return Settings.read({**BASE, **given})


def test_what_is_forgotten_and_what_is_kept_are_all_that_a_client_has() -> None:
    for given in (
        {"forget": "1"},
        {"granularity": "sample", "forget": "0,2"},
        {"granularity": "class", "forget-class": "3,5"},
    ):
        key = settings(**given).key()
        for whole, gone, kept in zip(split(key), to_forget(key, 0), to_keep(key, 1), strict=True):
            assert np.array_equal(np.sort(np.concatenate([gone, kept])), whole)


def test_a_client_that_leaves_keeps_nothing_and_the_others_keep_all() -> None:
    asked = settings(forget="1,3")
    assert askers(asked, 0) == forgotten_clients(asked, 1) == (1, 3)
    assert forgotten_clients(asked, 0) == ()


def test_a_share_of_the_samples_is_drawn_by_the_seed_and_the_client_stays() -> None:
    half = settings(granularity="sample", forget="2", forget_share=0.5)
    gone = to_forget(half.key(), 0)[2]
    assert len(gone) == round(len(split(half.key())[2]) / 2)
    assert (askers(half, 0), forgotten_clients(half, 1)) == ((2,), ())
    assert np.array_equal(gone, to_forget(half.model_copy().key(), 0)[2])
    other = half.model_copy(update={"forget_share": 0.1})
    assert len(to_forget(other.key(), 0)[2]) < len(gone)


def test_a_class_is_forgotten_wherever_it_lies() -> None:
    asked = settings(granularity="class", forget_class="3")
    labels = dataset_of(asked).train.labels.numpy()
    gone = np.concatenate(to_forget(asked.key(), 0))
    assert set(labels[gone]) == {3}
    assert len(gone) == (labels == 3).sum()
    assert set(askers(asked, 0)) == {client for client, part in enumerate(split(asked.key())) if 3 in labels[part]}


def test_samples_are_named_by_a_file(tmp_path: Path) -> None:
    mine = split(settings().key())[1]
    file = tmp_path / "ids.json"
    file.write_text(json.dumps({"1": [int(mine[5]), int(mine[2])]}))
    asked = settings(granularity="sample", forget="1", forget_samples=str(file))
    assert to_forget(asked.key(), 0)[1].tolist() == [mine[2], mine[5]]


def odd(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    assert len(inputs) == len(labels)
    return labels % 2 == 1


def not_a_mask(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return inputs[:3] + labels[0]


def test_samples_are_chosen_by_a_predicate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedquit.client.data.forget_sets.import_factory", lambda spec: {"my:odd": odd}[spec])
    asked = settings(granularity="sample", forget="0", forget_samples="my:odd")
    labels = dataset_of(asked).train.labels.numpy()
    mine = split(asked.key())[0]
    assert to_forget(asked.key(), 0)[0].tolist() == [i for i in mine if labels[i] % 2 == 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2", "is not JSON"),
        ('{"2": [1]}', "no list of indices for client 1"),
        ('{"1": []}', "no list of indices for client 1"),
        ('{"1": ["a"]}', "no list of indices for client 1"),
        ('{"1": [999999]}', "sample 999999 is not one of client 1's"),
    ],
)
def test_a_wrong_file_of_samples_is_named(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / f"{abs(hash(content))}.json"
    file.write_text(content)
    with pytest.raises(InputError, match=said) as refused:
        to_forget(settings(granularity="sample", forget="1", forget_samples=str(file)).key(), 0)
    assert file.name in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"granularity": "class"}, "go together"),
        ({"forget_class": "3"}, "go together"),
        ({"forget_samples": "a.json"}, "needs granularity = sample"),
        ({"granularity": "sample", "forget_share": 1.0}, "forget-share"),
    ],
)
def test_settings_that_do_not_fit_the_granularity_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        settings(**given)


def test_a_class_that_no_one_holds_or_all_classes_cannot_be_forgotten() -> None:
    with pytest.raises(InputError, match="nothing to forget"):
        to_forget(settings(granularity="class", forget_class="77").key(), 0)
    with pytest.raises(InputError, match="something must stay"):
        to_forget(settings(granularity="class", forget_class=list(range(10))).key(), 0)


def test_a_predicate_that_gives_no_mask_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedquit.client.data.forget_sets.import_factory", lambda _spec: not_a_mask)
    with pytest.raises(InputError, match="it must give bool"):
        to_forget(settings(granularity="sample", forget="0", forget_samples="my:not_a_mask").key(), 0)


def test_a_later_request_is_about_what_the_earlier_ones_left() -> None:
    asked = settings(granularity="sample", forget="2;0,2", forget_share=0.4)
    first, second = (to_forget(asked.key(), request) for request in (0, 1))
    mine = split(asked.key())[2]
    assert len(first[2]) == len(second[2]) == round(0.4 * len(mine))
    assert not set(first[2]) & set(second[2])
    assert (askers(asked, 0), askers(asked, 1)) == ((2,), (0, 2))
    left = to_keep(asked.key(), 2)[2]
    assert set(left) == set(mine) - set(first[2]) - set(second[2])
    assert np.array_equal(to_keep(asked.key(), 0)[2], mine)


def test_clients_leave_with_their_own_request() -> None:
    asked = settings(forget="1;3")
    assert [forgotten_clients(asked, n) for n in range(3)] == [(), (1,), (1, 3)]


def test_with_a_split_seed_the_forget_set_ignores_the_training_seed() -> None:
    one, two = (
        settings(granularity="sample", forget="2", seed=seed, split_seed=5, model_seed=5).key() for seed in (1, 2)
    )
    assert np.array_equal(to_forget(one, 0)[2], to_forget(two, 0)[2])
    assert not np.array_equal(split(settings(seed=1).key())[0], split(one)[0])
