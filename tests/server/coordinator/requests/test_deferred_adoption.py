"""`adopt = deferred` in a deployment: who is sent which model, what the receipt says, and killed anywhere."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.app import Message

from fedquit.client.models.model_file import model_hash
from fedquit.client.receipts import read_receipt
from fedquit.server.lifecycle.evaluator import Evaluator
from fedquit.strategies.guard.round_screen import Verdict
from tests.harness.kills import Outcome, killed_at, points_of, prepare
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

POINTS = ("recovering: committed", "recover: begin", "recover: model written", "recover: committed")


class Spied(KitGrid):
    """Remembers which model went to which member."""

    sent: list[tuple[int, str, str]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = list(messages)
        for message in asked:
            record = message.content.array_records.get("arrays")
            if record is not None:
                arrays = {name: array.numpy() for name, array in record.items()}
                member = self._members[message.metadata.dst_node_id]
                self.sent.append((member, message.metadata.message_type, model_hash(arrays)))
        yield from super().send_and_receive(asked, timeout=timeout)


def serve(folder: Path, adopt: str) -> tuple[Rehearsal, list[tuple[int, str, str]], str]:
    """Serve a request of a device, without a validation set, so that devices evaluate; the model that forgot."""
    rehearsal = rehearse(folder, {"forgetting": {"adopt": adopt}})
    grid = Spied(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    grid.sent = []
    rehearsal.run(grid, rounds=2)
    rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=3)
    with rehearsal.ledger() as ledger:
        [forgot] = ledger.steps(phase="forget")
    return rehearsal, grid.sent, forgot.model_after


def receipt_of(rehearsal: Rehearsal) -> dict[str, object]:
    with rehearsal.ledger() as ledger:
        [request] = ledger.requests()
    assert request.receipt is not None
    key = load_pem_public_key((rehearsal.server / "receipts.pub").read_bytes())
    return dict(read_receipt(request.receipt, key).predicate)  # type: ignore[arg-type]


@pytest.mark.parametrize("adopt", ["direct", "deferred"])
def test_deferred_no_device_is_sent_the_model_that_forgot_not_even_to_evaluate(tmp_path: Path, adopt: str) -> None:
    rehearsal, sent, unlearned = serve(tmp_path / "made", adopt)
    kinds = {kind for _, kind, model in sent if model == unlearned}
    assert kinds == (set() if adopt == "deferred" else {"train", "evaluate"})
    predicate = receipt_of(rehearsal)
    assert predicate["method"]["adopted"] == adopt  # type: ignore[index]
    limits = " ".join(predicate["limits"])  # type: ignore[arg-type]
    assert "The server saw the model before the request" in limits
    assert ("sum of that and a round" in limits) == (adopt == "deferred")


def test_deferred_a_round_that_is_not_adopted_sends_nobody_the_model_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = list[object]()

    def usable(*_: object) -> Callable[[object], Verdict]:
        """Refuse the first round of recovery, which is the third of all, as when some devices lie together."""
        rounds.append(object())
        reason = "the model's logits are not finite" if len(rounds) == 3 else ""
        return lambda _arrays: Verdict(reason)

    monkeypatch.setattr(Evaluator, "usable", usable)
    rehearsal, sent, unlearned = serve(tmp_path / "made", "deferred")
    with rehearsal.ledger() as ledger:
        assert [step.model_after == unlearned for step in ledger.steps(phase="recover")][:2] == [True, False]
        assert [event.kind for event in ledger.events()].count("round-not-adopted") == 1
    assert not [kind for _, kind, model in sent if model == unlearned]
    assert receipt_of(rehearsal)["method"]["adopted"] == "deferred"  # type: ignore[index]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Outcome]:
    scratch = tmp_path_factory.mktemp("kills")
    rehearsal = prepare(scratch / "prepared", deferred=True)
    return rehearsal.folder, *points_of(rehearsal.folder, scratch)


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_the_step_is_added_once(
    prepared: tuple[Path, list[str], Outcome], tmp_path: Path, point: str
) -> None:
    folder, points, undisturbed = prepared
    assert undisturbed.status == "done"
    assert killed_at(folder, tmp_path, points.index(point), go_on_here=True) == undisturbed


def test_noise_is_drawn_from_the_devices_own_key_and_the_receipt_says_how_much(tmp_path: Path) -> None:
    noise = {"forget-clip": 0.05, "forget-noise": 0.01, "guard": "adopt"}
    made = []
    for name in ("one", "two"):  # the same federation but for the keys, which provisioning draws
        rehearsal = rehearse(tmp_path / name, {"forgetting": noise})
        rehearsal.run(rehearsal.grid(), rounds=2)
        rehearsal.ask(rehearsal.signed(1))
        rehearsal.run(rehearsal.grid(), rounds=3)
        with rehearsal.ledger() as ledger:
            [forgot], [request] = ledger.steps(phase="forget"), ledger.requests()
        made.append((forgot.model_before, forgot.model_after))
        assert not [figure for figure in forgot.measures if figure.startswith("forget_")]
        receipt = receipt_of(rehearsal)
        assert "forget_loss" not in receipt["measures"]["after"]  # type: ignore[index]
        assert (receipt["method"]["forget_clip"], receipt["method"]["forget_noise"]) == (0.05, 0.01)  # type: ignore[index]
        limits = " ".join(receipt["limits"])  # type: ignore[arg-type]
        assert "clip its step to the norm 0.05 and to add Gaussian noise of 0.01 times that" in limits
        assert "above 1.00" in limits  # so little noise hides nothing, and the receipt says so
        assert request.status == "done"
    assert made[0][0] == made[1][0]
    assert made[0][1] != made[1][1]


def test_with_noise_the_guard_knows_of_the_request_needs_no_fallback(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path / "made", {"forgetting": {"forget-clip": 0.05, "forget-noise": 2.0}})
    rehearsal.run(rehearsal.grid(), rounds=2)
    rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(rehearsal.grid(), rounds=3)
    with rehearsal.ledger() as ledger:
        [request] = ledger.requests()
        assert (request.status, request.method) == ("done", "fedquit")
        assert not [event for event in ledger.events() if event.kind == "fallback"]
