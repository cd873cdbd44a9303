"""Metrics of personalised models, where no model is global; and their mean over devices, in the report's form.

Every device measures on the same held-out samples, on the same D_t and on D_f, and D_r is its own samples. Numbers have
names with dots where the report has a document in a document: `attacks.confidence.member_rate`.
"""

import re
from collections.abc import Iterator, Mapping
from math import fsum
from typing import Any

import torch
from torch import nn

from fedquit.client.data.evaluation_sets import Sets, all_to_forget, held_out_and_test, sets_of
from fedquit.client.training.evaluate_model import measure, outputs_of
from fedquit.client.training.sgd import evaluate
from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.settings import Settings
from fedquit.unlearning.evaluation.measures import worst_group

Measures = dict[str, float]

ROUND = ("holdout_accuracy", "forget_accuracy")
STAGE = (*ROUND, "retain_accuracy", "test_accuracy", "own_classes_accuracy", "forget_loss", "retain_loss", "test_loss")
SHARES = re.compile(
    r"(holdout|forget|retain|test|own_classes)_accuracy|per_class_accuracy\.\d+|forget_accuracy_by_request\.\d+"
    r"|per_client_accuracy\.(forget|retain)\.\d+|attacks\.[a-z_]+\.(member_rate|nonmember_rate|accuracy)"
)
LOSSES = re.compile(r"(forget|retain|test)_loss")
LISTS = ("per_class_accuracy", "forget_accuracy_by_request")
DERIVED = ("worst_class_accuracy", "worst_client", "worst_client_accuracy")


def round_measures(model: nn.Module, settings: Settings) -> Measures:
    """Return what is measured after every round."""
    key = settings.key()
    parts = held_out_and_test(key)[0], all_to_forget(key)[0]
    return {name: evaluate(model, part)[1] for name, part in zip(ROUND, parts, strict=True)}


def stage_measures(model: nn.Module, settings: Settings, client: int) -> Measures:
    """Return what is measured at the end of a phase."""
    sets = sets_of(settings, client)
    document = measure(outputs_of(model, sets), sets)
    found = dict(_flat({name: value for name, value in document.items() if name not in DERIVED}))
    found["holdout_accuracy"] = evaluate(model, sets.holdout)[1]
    found["own_classes_accuracy"] = _own_classes(document["per_class_accuracy"], sets)
    return found


def checked_measures(said: Mapping[str, float], client: int, *, stage: bool) -> Measures:
    """Return the metrics that a device reports of its personalised model, checked.

    Raises:
        InputError: something is missing, is not to be said, or is out of range.
    """
    missing = [name for name in (STAGE if stage else ROUND) if name not in said]
    if missing:
        raise InputError(f"no {missing[0]}")
    for name, value in said.items():
        most = 1.0 if SHARES.fullmatch(name) else float("inf") if LOSSES.fullmatch(name) else -1.0
        if not 0 <= value <= most:
            raise InputError(f"'{name}' is {value!r}: no such measure")
        if name.startswith("per_client_accuracy.retain.") and name.rpartition(".")[2] != str(client):
            raise InputError(f"'{name}' is of another client's samples")
    return dict(said)


def mean_of(said: Mapping[int, Measures]) -> Measures:
    """Return the mean over devices of each number, over those that have it.

    >>> mean_of({0: {"a": 1.0}, 1: {"a": 0.0, "b": 3.0}})
    {'a': 0.5, 'b': 3.0}
    """
    names = dict.fromkeys(name for measures in said.values() for name in measures)
    found = {name: [measures[name] for measures in said.values() if name in measures] for name in names}
    return {name: fsum(values) / len(values) for name, values in found.items()}


def mean_document(said: Mapping[int, Measures]) -> Document:
    """Return the mean over devices of the metrics at the end of a phase, in the form of `measure`."""
    document: Document = {}
    for name, value in mean_of(said).items():
        *path, last = name.split(".")
        place = document
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    for name in LISTS:
        by_number = {int(number): share for number, share in document.get(name, {}).items()}
        document[name] = [by_number.get(number) for number in range(max(by_number, default=-1) + 1)]
    own = {int(client): share for client, share in document["per_client_accuracy"]["retain"].items()}
    worst, lowest = worst_group(dict(sorted(own.items())))
    by_class = [share for share in document["per_class_accuracy"] if share is not None]
    return {**document, **dict(zip(DERIVED, (min(by_class), worst, lowest), strict=True))}


def _flat(document: Document, before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in document.items():
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", value


def _own_classes(by_class: list[float | None], sets: Sets) -> float:
    """Return the accuracy on D_t with its classes in the proportions of the device's own samples."""
    counts: list[Any] = torch.bincount(sets.retain.labels, minlength=len(by_class)).tolist()
    pairs = [(share, count) for share, count in zip(by_class, counts, strict=True) if share is not None and count]
    weight = sum(count for _, count in pairs)
    return fsum(share * count for share, count in pairs) / weight if weight else 0.0
