"""Requests whose device is gone, fails or cheats: the next method of the policy, or an end with the reason."""

import pytest
from flwr.app import Error, Message

from fedquit.errors import FedquitError
from fedquit.server.ledger import FORGOTTEN
from tests.server.coordinator.observed_grid import Make, grid_of, members, read, spoilt, steps


def test_after_the_timeout_the_next_method_forgets_for_a_device_that_is_gone(make: Make) -> None:
    rehearsal = make(forgetting={"fallback": ["retrain"], "device-timeout": 3600})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        told = ledger.request(request.id)
        events = {event.kind: event for event in ledger.events(request=request.id)}
    assert told.status in FORGOTTEN
    assert told.method == "retrain"
    assert "did not connect" in events["fallback"].facts["why"]
    assert events["fallback"].at - events["forgetting"].at >= 3600


def test_without_a_usable_method_the_request_fails_and_the_device_stays_out(make: Make) -> None:
    rehearsal = make(forgetting={"fallback": []})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    rehearsal.run(grid, rounds=1)
    grid.away = set()
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        told = ledger.request(request.id)
    assert told.status == "failed"
    assert told.reason == "fedquit: the device of member 1 did not connect in time"
    assert members(steps(rehearsal)[-1]) == [0, 2, 3]


@pytest.mark.parametrize(("guard", "fallback", "status"), [("refuse", [], "refused"), ("refuse", ["retrain"], "done")])
def test_a_sabotaged_model_never_becomes_the_global_one(
    make: Make, guard: str, fallback: list[str], status: str
) -> None:
    rehearsal = make(forgetting={"fallback": fallback, "guard": guard})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)

    def sabotage(message: Message, reply: Message) -> Message:
        return spoilt(message, reply, 0.5) if message.metadata.message_type == "train.forget" else reply

    grid.change = sabotage
    request = rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        told = ledger.request(request.id)
        held = [event for event in ledger.events(request=request.id) if event.kind == "quarantined"]
    bad = {event.facts["model"] for event in held if event.facts["verdict"] == "refuse"}
    assert told.status == status
    assert [event.facts["verdict"] for event in held] == ["refuse", *(["adopt"] if fallback else [])]
    assert "furthest weight" in held[0].facts["off"]
    assert not bad & {step.model_after for step in steps(rehearsal)}
    assert not list((rehearsal.server / "quarantine").iterdir())


def test_a_device_that_fails_is_asked_again_and_then_another_method_forgets(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))
    failures = iter(range(2))

    def fails(message: Message, reply: Message) -> Message:
        failing = message.metadata.message_type == "train.forget" and next(failures, None) is not None
        return Message(Error(2, "battery empty"), reply_to=message) if failing else reply

    grid.change = fails
    rehearsal.run(grid, rounds=1)
    other = rehearsal.ask(rehearsal.signed(2))
    failures = iter(range(3))
    rehearsal.run(grid, rounds=1)
    with read(rehearsal) as ledger:
        assert [ledger.request(each.id).method for each in (request, other)] == ["fedquit", "retrain"]
        assert {each.status for each in ledger.requests()} <= set(FORGOTTEN)


def test_a_missing_model_file_is_reported_and_fails_no_request(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))
    current = rehearsal.server / "models" / f"{steps(rehearsal)[-1].model_after}.safetensors"
    content = current.read_bytes()
    current.unlink()
    with pytest.raises(FedquitError, match="is missing"):
        rehearsal.run(grid, rounds=1)
    current.write_bytes(content)
    rehearsal.run(grid, rounds=1)
    with read(rehearsal) as ledger:
        assert (ledger.request(request.id).status, ledger.request(request.id).method) == ("done", "fedquit")


def test_a_bug_in_a_method_does_not_keep_a_request_for_ever(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = make()
    rehearsal.run(grid_of(rehearsal), rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))

    def broken(*_args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fedquit.unlearning.methods.fedquit.FedQUIT.serve", broken)
    rehearsal.run(grid_of(rehearsal), rounds=1)
    with read(rehearsal) as ledger:
        assert ledger.request(request.id).status in FORGOTTEN
        assert ledger.request(request.id).method == "retrain"


@pytest.mark.parametrize("method", ["retrain", "federaser"])
def test_the_fallbacks_that_go_back_do_so_without_what_the_device_gave(make: Make, method: str) -> None:
    rehearsal = make(forgetting={"fallback": [method]})
    grid = grid_of(rehearsal)
    grid.away = {1}
    rehearsal.run(grid, rounds=1)
    grid.away = set()
    rehearsal.run(grid, rounds=3)
    [first, *_] = trained = steps(rehearsal)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    rehearsal.run(grid, rounds=3)
    with read(rehearsal) as ledger:
        assert (ledger.request(request.id).status, ledger.request(request.id).method) == ("done", method)
    forget = steps(rehearsal)[len(trained)]
    assert (forget.phase, 1 in members(forget)) == ("forget", False)
    if method == "retrain":
        assert (forget.model_after, forget.round) == (first.model_after, first.round)
    assert not (rehearsal.server / "history").exists()
