"""A plan: what each method would cost to serve a request, from what a run has shown, beside retraining.

What the messages come to is exact where they are determined. How many rounds of recovery it takes until utility is back
cannot be known before; then there are two sums, for the fewest rounds and for the most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedquit.client.method import method_of
from fedquit.client.settings import Settings
from fedquit.errors import FedquitError, InputError
from fedquit.server.folder import RunFolder, read_settings, read_state
from fedquit.server.history import Keep
from fedquit.server.phases import nth
from fedquit.simulations.costs.cost import Cost
from fedquit.simulations.costs.foretold import Foretold
from fedquit.simulations.costs.price import Price
from fedquit.simulations.costs.seen import Seen, seen_in
from fedquit.simulations.start import AFTER_TRAINING
from fedquit.unlearning.methods import all_methods

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rounds:
    """How many rounds of recovery it will take, and why."""

    at_least: int
    at_most: int
    because: str


def make_plan(path: Path, given: Mapping[str, Any], price: Price, *, method: str = "all") -> Document:
    """Return what the requests that `given` names would cost, from the training of the run in the folder `path`.

    Args:
        path: of a run whose training is finished.
        given: settings of what comes after training that differ from the run's.
        price: of bytes.
        method: a name, or "all" that there are.

    Raises:
        InputError: it is no such run, or what is given is no request.
    """
    seen = seen_in(path)
    if "train" not in read_state(path).ended:
        raise InputError(f"{path}: training is not finished; a plan starts from its model")
    given = {key.replace("_", "-"): value for key, value in given.items()}
    settings = _settings(path, given)
    if method != "all":
        method_of(_with(settings, method, path, given))  # a mistake in one that is named is one
    elif "method-settings" in given:
        raise InputError("method-settings are those of one method: name it with --method")
    names = list(all_methods()) if method == "all" else [method]
    return {
        "run": path.resolve().name,
        "model": price.told(),
        "exact_payload": seen.exact,
        "seconds_as_in": f"training of {path.resolve().name}",
        "requests": [_request(path, settings, i, names, given, seen, price) for i in range(settings.num_requests)],
    }


def _settings(path: Path, given: Mapping[str, Any]) -> Settings:
    config = RunFolder(path).settings().run_config()
    for key in given:
        if key not in AFTER_TRAINING:
            raise InputError(f"{key}: a plan starts from the training of {path}; it can be told what comes after alone")
    if given.get("granularity", config["granularity"]) != "class":
        config["forget-class"] = ""
    plain = {"method": "continue", "teacher": "min", "method-settings": ""}
    return Settings.read({**config, **given, **plain}, "plan")


def _request(
    path: Path, settings: Settings, request: int, names: Sequence[str], given: Mapping[str, Any], seen: Seen,
    price: Price,
) -> Document:  # fmt: skip
    plain = Foretold(path, settings, request, seen)
    rounds = [plain.round("retrain", number) for number in range(1, settings.rounds + 1)]
    own = {key: value for key, value in given.items() if key != "teacher"}
    methods = {
        name: _method(
            path,
            _with(settings, name, path, given if name == "fedquit" or len(names) == 1 else own),
            request,
            seen,
            price,
        )
        for name in names
    }
    return {
        "request": request + 1,
        "leavers": list(plain.outlook.leavers),
        "retraining": {"rounds": settings.rounds, **sum(rounds, Cost()).told(price)},
        "methods": methods,
    }


def _with(settings: Settings, name: str, path: Path, given: Mapping[str, Any]) -> Settings:
    """Return the settings with this method; its own settings are what is given, or the run's if it is the run's."""
    ran, keys = read_settings(path), ("teacher", "method-settings")
    own = {key: ran.run_config()[key] for key in keys} if ran.method == name else {}
    told = {key: given[key] for key in keys if key in given}
    return Settings.read({**settings.run_config(), "method": name, **own, **told}, "plan")


def _method(path: Path, settings: Settings, request: int, seen: Seen, price: Price) -> Document:
    """Return what serving a request by one method costs, or why it cannot be served or foretold."""
    foretold = Foretold(path, settings, request, seen)
    try:
        needs, forget = foretold.method.needs(), foretold.forget()
    except FedquitError as error:
        return {"known": False, "why": str(error)}
    if forget is None:
        return {"known": False, "why": "the method does not say what it asks (Method.exchanges)"}
    if needs.keeps_updates and not (path / "history").is_dir():
        why = "the updates that it reads were not kept in this run, or are purged"
    else:
        why = ""
    phase = nth("recover", request)
    rounds = _rounds(foretold, path, phase)
    each = [foretold.round(phase, number) for number in range(1, rounds.at_most + 1)]
    model_bytes = sum(array.nbytes for array in foretold.arrays.values())
    return {
        "known": True,
        "can_be_served": not why,
        "why": why,
        "forget": forget.told(price),
        "recover": {
            "at_least": rounds.at_least,
            "at_most": rounds.at_most,
            "because": rounds.because,
            "rounds": [cost.told(price) for cost in each],
        },
        "total": {
            bound: sum(each[:count], forget).told(price)
            for bound, count in (("at_least", rounds.at_least), ("at_most", rounds.at_most))
        },
        "stored": {
            "what": needs.server_keeps,
            "bytes_at_most": Keep.of(needs).most_bytes(settings.rounds, settings.clients, model_bytes),
        },
    }


def _rounds(foretold: Foretold, path: Path, phase: str) -> Rounds:
    """Return how many rounds of recovery there will be: determined, as before in this run, or between bounds."""
    settings, most = foretold.settings, foretold.settings.recover_rounds
    if foretold.method.traits.restarts:
        first = foretold.method.restart_round(foretold.outlook)
        count = settings.rounds - first + 1
        return Rounds(count, count, f"training from round {first} on")
    if settings.recover == "budget":
        count, spent = 0, 0
        while count < most and (not count or not settings.recover_bytes or spent < settings.recover_bytes):
            count += 1
            cost = foretold.round(phase, count)
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
