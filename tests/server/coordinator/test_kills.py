"""Killed anywhere, a deployment ends where it would have; docs/results/kills.md has every point."""

from pathlib import Path

import pytest

from tests.harness.kills import Outcome, killed_at, points_of, prepare

POINTS = (
    "forgetting: committed",
    "device: train.forget comes",
    "device: train.forget is answered",
    "forgetting: quarantined",
    "forgetting: model written",
    "recovering: committed",
    "recover: model written",
    "recovering: purged",
    "done: committed",
)

WAITING = ("train: replies", "train: committed", "forgetting: falling back", "forgetting: model written")
"""Points in the life of a request whose device never comes: training continues, and then the fallback forgets."""

Prepared = tuple[Path, list[str], Outcome]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    scratch = tmp_path_factory.mktemp("kills")
    folder = prepare(scratch / "prepared").folder
    return folder, *points_of(folder, scratch)


def test_undisturbed_it_is_done_once_with_a_receipt(prepared: Prepared) -> None:
    outcome = prepared[2]
    assert (outcome.status, outcome.requests, outcome.ended, outcome.receipt) == ("done", 1, 1, True)
    assert outcome.steps[:3] == ("train", "train", "forget")
    assert not outcome.wrong


def test_undisturbed_a_model_that_does_not_recover_ends_the_request_once(tmp_path: Path) -> None:
    points, outcome = points_of(prepare(tmp_path / "prepared", recovers=False).folder, tmp_path)
    assert (outcome.status, outcome.requests, outcome.ended, outcome.receipt) == ("unrecovered", 1, 1, True)
    assert "unrecovered: committed" in points


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_it_ends_where_it_would_have(prepared: Prepared, tmp_path: Path, point: str) -> None:
    folder, points, undisturbed = prepared
    assert killed_at(folder, tmp_path, points.index(point), go_on_here=True) == undisturbed


@pytest.fixture(scope="module")
def prepared_waiting(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    scratch = tmp_path_factory.mktemp("waiting")
    rehearsal = prepare(scratch / "prepared", gone=True)
    rehearsal.tell({"forgetting": {"device-timeout": 9000}})
    return rehearsal.folder, *points_of(rehearsal.folder, scratch)


@pytest.mark.parametrize("point", WAITING)
def test_killed_while_a_request_waits_it_ends_where_it_would_have(
    prepared_waiting: Prepared, tmp_path: Path, point: str
) -> None:
    folder, points, undisturbed = prepared_waiting
    assert undisturbed.steps[:3] == ("train", "train", "train"), "it trains on while the request waits"
    assert "forget" in undisturbed.steps
    assert killed_at(folder, tmp_path, points.index(point), go_on_here=True) == undisturbed
