"""A plan: the estimated cost of each method for a request, from an observed run, compared with retraining.

What the messages come to is exact where they are determined. How many rounds of recovery it takes until utility is back
cannot be known before; then there are two sums, for the fewest rounds and for the most.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedquit.client.compression.build_compression import Compression, compression_of
from fedquit.client.training.build_method import method_of
from fedquit.documents import Document
from fedquit.errors import FedquitError, InputError
from fedquit.server.lifecycle.training_history import Keep
from fedquit.server.run.phases import nth
from fedquit.server.run.run_folder import RunFolder, read_settings, read_state
from fedquit.settings import Settings
from fedquit.simulations.costs.plan.estimate import Estimate
from fedquit.simulations.costs.plan.estimated_cost import Cost
from fedquit.simulations.costs.plan.observed_training import Seen, seen_in
from fedquit.simulations.costs.price import Price
from fedquit.simulations.simulate.start_from_run import TRAINING
from fedquit.unlearning.methods.base import all_methods


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many rounds of recovery it will take, and why."""

    at_least: int
    at_most: int
    because: str


def make_plan(path: Path, given: Mapping[str, Any], price: Price, *, method: str = "all") -> Document:
    """Return what requests would cost, from the training of the run in the folder `path`; see docs/costs.md.

    Args:
        path: of a run whose training is finished.
        given: settings of what comes after training that differ from the run's.
        price: of bytes.
        method: a name, or "all" that there are.

    Raises:
        InputError: it is no such run, or what is given is no request.
    """
    plan = Plan(path, {key.replace("_", "-"): value for key, value in given.items()}, price, seen_in(path))
    if "train" not in read_state(path).ended:
        raise InputError(f"{path}: training is not finished; a plan starts from its model")
    if method == "all":
        settings = {name: plan.settings(name) for name in all_methods()}
        if "method-settings" in plan.given:
            raise InputError("method-settings are those of one method: name it with --method")
    else:
        settings = {method: plan.settings(method, named=True)}
        method_of(settings[method])  # of one that is named, a mistake is one
    plain = plan.settings("continue")
    return {
        "run": path.resolve().name,
        "model": price.document(),
        "exact_payload": plan.is_exact(plain),
        "requests": [
            {
                **plan.retraining(plain, number),
                "methods": {name: plan.method(own, number) for name, own in settings.items()},
            }
            for number in range(plain.num_requests)
        ],
    }


@dataclass(frozen=True, slots=True)
class Plan:
    """What a plan rests on: a run, what is asked of it, a price, and what its training showed."""

    path: Path
    given: Mapping[str, Any]
    price: Price
    seen: Seen

    def settings(self, method: str, *, named: bool = False) -> Settings:
        """Return the run's settings with what is given; its own method keeps the settings that it had.

        Args:
            method: which.
            named: whether it was asked for by its name; else a teacher that is given is FedQUIT's alone.

        Raises:
            InputError: what is given is of training, or no request.
        """
        for key in self.given:
            if key in TRAINING:
                raise InputError(f"{key} cannot be given: a plan starts from the training of {self.path}")
        config, changed = RunFolder(self.path).settings().run_config(), dict(self.given)
        if config["method"] != method:
            config |= {"method": method, "teacher": "min", "method-settings": ""}
        if changed.get("granularity", config["granularity"]) != "class":
            config["forget-class"] = ""
        if not named and method != "fedquit":
            changed.pop("teacher", None)
        return Settings.read({**config, **changed}, "plan")

    def is_exact(self, settings: Settings) -> bool:
        """Say whether what travels has the sizes that it had in training.

        Not where a codec makes them depend on what is in a model, nor where recovery aggregates in another way or
        devices clip, as their config is then longer.
        """
        compressed = compression_of(settings) != Compression()
        alike = not (settings.recover_strategy or settings.dp)
        return self.seen.exact and alike and (self.seen.steady or not compressed)

    def retraining(self, settings: Settings, request: int) -> Document:
        """Return who asks, and what it costs to train as many rounds again without what they ask to forget."""
        estimate = Estimate(self.path, settings, request, self.seen)
        rounds = [estimate.round("retrain", number) for number in range(1, settings.rounds + 1)]
        whole = {"rounds": settings.rounds, **sum(rounds, Cost()).document(self.price)}
        return {"request": request + 1, "leavers": list(estimate.outlook.forgotten), "retraining": whole}

    def method(self, settings: Settings, request: int) -> Document:
        """Return what it costs to serve a request by one method, or why that is not known."""
        estimate = Estimate(self.path, settings, request, self.seen)
        try:
            needs, forget = estimate.method.needs(), estimate.forget()
        except FedquitError as error:
            return {"known": False, "why": str(error)}
        except Exception as error:
            if type(estimate.method).__module__.startswith("fedquit."):
                raise
            return {"known": False, "why": f"not estimated: Method.exchanges failed: {error!r}"}
        if forget is None:
            return {"known": False, "why": "not estimated: the method has no Method.exchanges, which is optional"}
        gone = needs.keeps_updates and not (self.path / "history").is_dir()
        model_bytes = sum(array.nbytes for array in estimate.arrays.values())
        return {
            "known": True,
            "can_be_served": not gone,
            "why": "the updates that it reads were not kept in this run, or are purged" if gone else "",
            "forget": forget.document(self.price),
            **self._recovery(estimate, forget, nth("recover", request)),
            "stored": {
                "what": needs.server_keeps,
                "bytes_at_most": Keep.of(needs).most_bytes(settings.rounds, settings.clients, model_bytes),
            },
        }

    def _recovery(self, estimate: Estimate, forget: Cost, phase: str) -> Document:
        """Return each round of recovery that there may be, and what it all comes to with the fewest and the most."""
        count = _rounds(estimate, self.path, phase)
        each = [estimate.round(phase, number) for number in range(1, count.at_most + 1)]
        return {
            "recover": {**asdict(count), "rounds": [cost.document(self.price) for cost in each]},
            "total": {
                "at_least": sum(each[: count.at_least], forget).document(self.price),
                "at_most": sum(each, forget).document(self.price),
            },
        }


def _rounds(estimate: Estimate, path: Path, phase: str) -> Rounds:
    """Return how many rounds of recovery there will be: determined, as before in this run, or between bounds."""
    settings, most = estimate.settings, estimate.settings.recover_rounds
    if estimate.method.traits.restarts:
        first = estimate.method.restart_round(estimate.outlook)
        count = settings.rounds - first + 1
        return Rounds(count, count, f"training from round {first} on")
    if settings.recover == "budget":
        count, spent = 0, 0
        while count < most and (not count or not settings.recover_bytes or spent < settings.recover_bytes):
            count += 1
            cost = estimate.round(phase, count)
            spent += cost.payload_bytes_down + cost.payload_bytes_up
        return Rounds(count, count, "the budget")
    before = _before(path, settings)
    if before:
        return Rounds(min(before), max(before), f"as {len(before)} request(s) of this run by {settings.method} took")
    least = settings.patience if settings.recover == "utility" else 1
    return Rounds(least, most, "not known before: as few as the rule allows, as many as recover-rounds")


def _before(path: Path, settings: Settings) -> list[int]:
    """Return how many rounds recovery took in the requests of this run by the same method and rule."""
    ran, state = read_settings(path), read_state(path)
    rules = ("method", "recover", "tolerance", "patience", "granularity")
    if any(getattr(ran, key) != getattr(settings, key) for key in rules):
        return []
    names = [nth("recover", i) for i in range(ran.num_requests)]
    return [len(state.of(name)) for name in names if name in state.ended]
