"""Strategies in whole runs: killed anywhere, with two workers, with bad devices; and what is refused before it runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord

from fedquit.errors import FedquitError, InputError
from fedquit.server.run.loop import Loop
from fedquit.server.run.phase_rules import rules_of
from fedquit.server.run.run_folder import RunFolder, read_state
from fedquit.server.run.run_state import State
from fedquit.settings import Settings
from fedquit.simulations.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rules import PRIVACY, RULES

Event = Mapping[str, Any]
SMALL: dict[str, Any] = {
    "model": "mlp",
    "clients": 7,
    "samples": 140,
    "batch-size": 10,
    "scheme": "iid",
    "holdout": 40,
    "rounds": 2,
    "recover": "budget",
    "recover-rounds": 2,
    "reference": "none",
}
STRATEGIES: dict[str, str] = {
    "fedprox": "proximal-mu=0.1",
    "fedavgm": "server-momentum=0.9",
    "fedadam": "eta=0.01",
    "fedyogi": "eta=0.01",
    "fedadagrad": "eta=0.01",
    "qfedavg": "q=0.5",
    "fedmedian": "",
    "fedtrimmedavg": "",
    "krum": "num-malicious-nodes=1",
    "multikrum": "num-malicious-nodes=1,num-nodes-to-select=2",
    "bulyan": "num-malicious-nodes=0",
}
CHOICES: dict[str, dict[str, Any]] = {
    name: {"strategy": name, "strategy-settings": settings} for name, settings in STRATEGIES.items()
} | {
    kind: {"dp": kind, "dp-settings": f"noise-multiplier=0.1,{'initial-' * kind.endswith('adaptive')}clipping-norm=0.3"}
    for kind in PRIVACY
}
every_choice = pytest.mark.parametrize("name", CHOICES)


class Stop(Exception):  # noqa: N818
    """The run is killed here."""


def carry_out(
    path: Path,
    listener: Callable[[Event], None] = lambda _event: None,
    engine: Callable[..., Any] = InProcessGrid,
    **changed: Any,
) -> State:
    """Carry out a small run in `path`, or resume it."""
    settings = Settings.read({**SMALL, **{key.replace("_", "-"): value for key, value in changed.items()}})
    begun = (path / "settings.json").exists()
    folder = RunFolder.open(path) if begun else RunFolder.create(path, settings)
    try:
        with engine(settings.clients, settings.run_config(), workers=1) as grid:
            return Loop(MeteredGrid(grid, patience=600), folder.settings(), folder, listener).run()
    finally:
        folder.release()


def models(path: Path, state: State, stage: str) -> Mapping[str, Any]:
    return RunFolder(path).load_model(state.models[stage])


def largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """The same run with fedavg."""
    path = tmp_path_factory.mktemp("plain") / "run"
    return path, carry_out(path)


@every_choice
def test_killed_anywhere_it_ends_with_the_same_model_without_who_left(
    tmp_path: Path, name: str, plain: tuple[Path, State]
) -> None:
    asked: set[tuple[str, int]] = set()
    phase = ["join"]

    class Spied(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            sent = list(messages)
            asked.update((phase[0], message.metadata.dst_node_id - FIRST_NODE_ID) for message in sent)
            yield from super().send_and_receive(sent, timeout=timeout)

    def listen(event: Event) -> None:
        phase[0] = event["phase"] if event["event"] == "phase" else phase[0]

    whole = carry_out(tmp_path / "whole", listen, Spied, **CHOICES[name])
    assert {client for where, client in asked if where == "train"} == set(range(7))
    assert {client for where, client in asked if where == "recover"} == set(range(1, 7))
    sent = [[(r.bytes_down, r.bytes_up) for r in state.rounds] for state in (whole, plain[1])]
    if name == "fedprox" or name.startswith("client"):
        assert all(0 < one[0] - other[0] < 7 * 60 for one, other in zip(*sent, strict=True) if one != other)
    else:
        assert sent[0] == sent[1], "the same messages cost the same"
    assert whole.models["original"] != plain[1].models["original"] or name == "bulyan"

    killed: set[tuple[int, str]] = set()

    def once() -> State:
        """Go on until a round whose state is not saved yet, or its second reply, at which it was not killed before."""
        done = [0, 0]  # rounds of the run, replies of the round

        def kill(event: Event) -> None:
            done[0] = event["rounds"] if event["event"] in ("start", "resume") else done[0]
            done[1] += event["event"] == "reply"
            where = (done[0], event["event"])
            here = event["event"] == "round" or (done[1] == 2 and name in ("fedadam", "server-adaptive"))
            if here and where not in killed:
                killed.add(where)
                raise Stop
            if event["event"] == "round":
                done[:] = [done[0] + 1, 0]

        return carry_out(tmp_path / "killed", kill, **CHOICES[name])

    ended: State | None = None
    while ended is None:
        try:
            ended = once()
        except Stop:
            continue
    assert len(killed) >= 5
    assert ended.models == whole.models
    assert len(list((tmp_path / "killed" / "checkpoints").iterdir())) == len(whole.named_models()), "no leftovers"


def test_two_workers_change_nothing(tmp_path: Path) -> None:
    short: dict[str, Any] = {"rounds": 2, "recover-rounds": 1}
    with InProcessGrid(SMALL["clients"], {}, workers=2) as pool:

        def same_pool(clients: int, config: Mapping[str, Any], workers: int) -> Any:
            pool.run_config = dict(config)
            return nullcontext(pool)

        for name, chosen in CHOICES.items():
            one = carry_out(tmp_path / f"{name}-1", **chosen, **short)
            two = carry_out(tmp_path / f"{name}-2", engine=same_pool, **chosen, **short)
            assert one.models == two.models, name


class Sabotaged(InProcessGrid):
    """Two devices answer every training round with something that must not be used."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for reply in super().send_and_receive(messages, timeout=timeout):
            client = reply.metadata.src_node_id - FIRST_NODE_ID
            trains = reply.has_content() and reply.metadata.message_type == "train"
            yield self.spoilt(reply, client) if trains and client in (3, 5) else reply

    def spoilt(self, reply: Message, client: int) -> Message:
        arrays = reply.content.array_records["arrays"]
        if client == 3:
            bad = {name: Array(np.full_like(array.numpy(), np.nan)) for name, array in arrays.items()}
            reply.content["arrays"] = ArrayRecord(bad)
        else:
            reply.content["metrics"] = MetricRecord({**reply.content.metric_records["metrics"], "num-examples": 10**12})
        return reply


class Absent(Sabotaged):
    """The same two devices are not there."""

    def spoilt(self, reply: Message, client: int) -> Message:
        gone = Message(Error(2, "gone"), reply_to=reply)
        gone.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
        return gone


@every_choice
def test_nan_and_sabotage_are_named_and_do_no_more_than_absence(tmp_path: Path, name: str) -> None:
    refused: list[Event] = []

    def listen(event: Event) -> None:
        if event["event"] == "refused":
            refused.append(event)

    chosen = {
        **CHOICES[name],
        "rounds": 1,
        "recover-rounds": 1,
        "forget": "3",
        "method": "continue",
    }
    chosen["recover-strategy"] = "" if "dp" in chosen else "fedavg"
    spoilt = carry_out(tmp_path / "a", listen, Sabotaged, **chosen)
    assert {(event["phase"], event["client"]) for event in refused} == {("train", 3), ("train", 5), ("recover", 5)}
    assert {event["client"]: event["reason"][:20] for event in refused}[5].startswith("num-examples is 1000")
    assert any("NaN" in event["reason"] for event in refused)
    absent = carry_out(tmp_path / "b", engine=Absent, **chosen)
    assert spoilt.models == absent.models


def test_too_few_good_replies_stop_the_run_and_it_can_be_resumed(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {
        "strategy": "krum",
        "strategy-settings": "num-malicious-nodes=2",
        "forget": "0",
        "clients": 8,
    }
    with pytest.raises(
        FedquitError, match=r"train round 1: 7 good replies are needed, 6 came \(client 3: .*client 5: "
    ):
        carry_out(tmp_path / "a", engine=Sabotaged, **chosen)
    assert carry_out(tmp_path / "a", **chosen).models == carry_out(tmp_path / "b", **chosen).models


def test_optimizer_state_lasts_for_a_phase_and_is_reset_for_the_next(tmp_path: Path) -> None:
    moments: list[tuple[str, bool]] = []
    path = tmp_path / "run"

    def listen(event: Event) -> None:
        if event["event"] in ("round", "phase"):
            state = read_state(path)
            moments.append((f"{event['event']} {event['phase']}", state.moments is not None))

    momentum: dict[str, Any] = {"strategy": "fedavgm", "strategy-settings": "server-momentum=0.9"}
    state = carry_out(path, listen, **momentum, recover_rounds=1)
    assert moments == [
        ("phase train", False),
        ("round train", False),
        ("round train", True),
        ("phase forget", False),
        ("round forget", False),
        ("phase recover", False),
        ("round recover", False),
    ]
    mean = carry_out(tmp_path / "mean", **momentum, recover_rounds=1, recover_strategy="fedavg")
    assert mean.models["unlearned"] == state.models["unlearned"]
    apart = largest_difference(models(path, state, "recovered"), models(tmp_path / "mean", mean, "recovered"))
    assert apart < 1e-6, "the first step of recovery has no momentum of what was forgotten"


def test_a_round_continues_with_the_state_of_the_one_before(tmp_path: Path, plain: tuple[Path, State]) -> None:
    momentum = carry_out(tmp_path / "m", strategy="fedavgm", strategy_settings="server-momentum=0.9")
    once = carry_out(tmp_path / "one", rounds=1)
    start, first = (models(tmp_path / "one", once, stage) for stage in ("initial", "original"))
    second = models(*plain, "original")
    expected = {name: second[name] + 0.9 * (first[name] - start[name]) for name in start}
    assert largest_difference(models(tmp_path / "m", momentum, "original"), expected) < 1e-5
    assert largest_difference(second, expected) > 1e-3


def test_recovery_may_be_robust_after_training_that_is_not(tmp_path: Path, plain: tuple[Path, State]) -> None:
    median = carry_out(tmp_path / "median", recover_strategy="fedmedian", budget=4)
    for stage in ("original", "unlearned"):
        assert median.models[stage] == plain[1].models[stage]
    assert median.models["recovered"] != plain[1].models["recovered"]
    assert median.of("later")


def test_after_a_method_that_starts_again_what_follows_is_training(tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"method": "retrain"}
    one, other = (carry_out(tmp_path / n, **chosen, recover_strategy=n) for n in ("fedmedian", "fedavg"))
    assert one.models == other.models


def test_fedprox_is_the_objective_fedprox_bit_for_bit(tmp_path: Path) -> None:
    strategy = carry_out(tmp_path / "a", **CHOICES["fedprox"])
    objective = carry_out(tmp_path / "b", objective="fedprox", objective_settings="mu=0.1")
    assert strategy.models == objective.models


def test_clipping_at_client_or_server_gives_the_same_model_up_to_rounding(tmp_path: Path) -> None:
    for norm in ("fixed", "adaptive"):
        names = [f"{who}-{norm}" for who in ("server", "client")]
        ends = [carry_out(tmp_path / name, **CHOICES[name]) for name in names]
        ours = [models(tmp_path / name, end, "original") for name, end in zip(names, ends, strict=True)]
        assert largest_difference(*ours) < 1e-5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"strategy": "krum", "strategy-settings": "num-malicious-nodes=2"},
            r"'krum' needs 7 .* 'recover' 6 of 6 clients",
        ),
        ({"strategy": "bulyan", "strategy-settings": "num-malicious-nodes=2"}, r"'bulyan' needs 11 .*'train' 7 of 7"),
        ({"strategy": "fedmedian", "fraction": 0.3}, r"'fedmedian' needs 3 replies a round .* 'train' 2 of 7 clients"),
        ({"recover-strategy": "fedtrimmedavg", "forget": "0,1,2"}, r"'fedtrimmedavg' needs 5 .* 'recover' 4 of 4"),
        ({"recover-strategy-settings": "beta=0.1"}, "there is no recover-strategy"),
        ({"dp-settings": "noise-multiplier=1"}, "there is no dp"),
        (
            {**CHOICES["server-fixed"], "strategy": "fedmedian"},
            "its noise fits a mean, and strategy 'fedmedian' makes none",
        ),
        ({**CHOICES["server-fixed"], "recover-strategy": "fedadam"}, "strategy 'fedadam' makes none"),
        ({**CHOICES["client-fixed"], "objective": "fedgkd"}, r"objective 'fedgkd' sends more: take dp = server-fixed"),
        ({"dp": "server-adaptive", "dp-settings": "noise-multiplier=1"}, r"dp = server-adaptive, 7 clients a round"),
        ({**CHOICES["fedprox"], "objective": "moon"}, r"leave out objective = moon"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason_before_anything_runs(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rules_of(Settings.read({**SMALL, **changed}))


def test_every_strategy_of_flowers_that_averages_models_is_here() -> None:
    from flwr.serverapp import strategy

    averaging = {
        name
        for name in strategy.__all__
        if not name.startswith(("FedXgb", "Diff")) and name not in ("Strategy", "Result")
    }
    assert {name.lower() for name in averaging} == set(RULES)
    assert len([name for name in strategy.__all__ if name.startswith("Diff")]) == len(PRIVACY)


def test_noise_is_not_added_to_running_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "from torch import nn",
        "def model(**_):",
        "    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))",
    )
    (tmp_path / "normalised_model.py").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = {**SMALL, **CHOICES["server-fixed"], "model": "normalised_model:model"}
    with pytest.raises(InputError, match=r"dp: noise on running statistics, such as '1.num_batches_tracked'"):
        rules_of(Settings.read(chosen))
