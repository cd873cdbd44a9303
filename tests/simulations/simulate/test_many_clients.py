"""What a run of many clients shows: measures of all of them in one pass, figures of some."""

from types import SimpleNamespace
from typing import Any

import torch

from fedquit.settings import Settings
from fedquit.simulations.simulate.run_figures import SHOWN, label_distribution, shown_clients
from fedquit.unlearning.evaluation.measures import group_accuracy


def folder_of(**given: Any) -> Any:
    return SimpleNamespace(settings=lambda: Settings(scheme="iid", **given))


def test_the_figure_of_many_clients_draws_some_and_says_so() -> None:
    (axes,) = label_distribution(folder_of(clients=700, forget="612")).axes
    assert len(axes.patches) == SHOWN * 10, "a bar for each of ten classes"
    assert axes.get_xlabel() == "client, 60 of 700"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["612"]


def test_the_figure_of_few_clients_draws_all() -> None:
    (axes,) = label_distribution(folder_of(clients=7)).axes
    assert len(axes.patches) == 7 * 10
    assert axes.get_xlabel() == "client"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(client) for client in range(7)]


def test_many_who_asked_are_not_all_shown() -> None:
    shown = shown_clients(100_000, range(5000, 9000))
    assert SHOWN - 1 <= len(shown) <= SHOWN
    assert sum(5000 <= client < 9000 for client in shown) >= SHOWN // 2


def test_the_accuracy_of_every_group_is_that_of_its_samples_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    log_p = torch.randn(500, 4, generator=draw).double().log_softmax(dim=1)
    labels, groups = (torch.randint(0, high, (500,), generator=draw) for high in (4, 90))
    found = group_accuracy(log_p, labels, groups)
    right = (log_p.argmax(dim=1) == labels).double()
    assert list(found) == sorted(set(groups.tolist()))
    assert found == {group: right[groups == group].mean().item() for group in found}
