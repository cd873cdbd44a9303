"""A federation in memory: plain federated averaging, and a session in which any method serves its request.

No network, no processes and no files, so that hundreds of small runs take minutes. What is trained, forgotten and
measured are the functions of the product; only the loop around them is plain.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from fedquit.client.data.build_data_and_model import dataset_of, initial_model, split
from fedquit.client.data.evaluation_sets import indices_of, sets_of
from fedquit.client.training.evaluate_model import outputs_of
from fedquit.client.training.sgd import deterministic, fit
from fedquit.settings import Settings
from fedquit.unlearning.evaluation.measures import accuracy, logit_confidence, losses
from fedquit.unlearning.evaluation.verdict import Evidence
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import ClientReply, Session, weighted_mean
from fedquit.unlearning.tensors.arithmetic import difference, parameter_names
from fedquit.unlearning.tensors.convert import StateDict

TARGET = 0
"""The client to forget."""


@dataclass
class Kept:
    """A training: the model at the start of each round, and every update. See `session.History`."""

    models: dict[int, StateDict] = field(default_factory=dict)
    updates: dict[tuple[int, int], StateDict] = field(default_factory=dict)

    def rounds(self) -> Sequence[int]:
        """Return the rounds that were kept: all of them."""
        return sorted(self.models)

    def model(self, number: int) -> StateDict:
        """Return the model at the start of a round."""
        return self.models[number]

    def update(self, number: int, client: int) -> StateDict | None:
        """Return what a client sent in a round minus what it got."""
        return self.updates.get((number, client))

    def participants(self, number: int) -> Collection[int]:
        """Return who took part in a round."""
        return tuple(client for kept, client in self.updates if kept == number)


class Federation:
    """Clients with their samples, and what is done with them."""

    def __init__(self, settings: Settings) -> None:
        self.settings, data = settings, dataset_of(settings)
        self.samples = [data.train.subset(indices_of([part])) for part in split(settings.key())]
        self.sets = sets_of(settings)
        self.clients = tuple(range(settings.clients))
        self.remaining = tuple(client for client in self.clients if client != TARGET)
        self.names = parameter_names(self.model())

    def model(self, seed: int = 0) -> nn.Module:
        """Return an untrained model."""
        return initial_model(self.settings, seed)

    def loaded(self, state: StateDict) -> nn.Module:
        """Return a model with these weights."""
        model = self.model()
        model.load_state_dict(dict(state))
        return model

    def local(self, state: StateDict, client: int, seed: int, config: Mapping[str, float] | None = None) -> StateDict:
        """Return a client's model after its local epochs."""
        model, given, said = self.loaded(state), self.settings, config or {}
        with deterministic(seed):
            fit(
                model,
                self.samples[client],
                lr=said.get("lr", given.lr),
                epochs=int(said.get("epochs", given.local_epochs)),
                batch_size=given.batch_size,
                momentum=given.momentum,
                weight_decay=given.weight_decay,
                seed=seed,
            )
        return copied(model)

    def train(
        self,
        state: StateDict,
        clients: Sequence[int],
        rounds: range,
        seed: int,
        *,
        keep: Kept | None = None,
        corrected: Method | None = None,
        before: StateDict | None = None,
    ) -> StateDict:
        """Return the model after rounds of federated averaging.

        Args:
            state: to start from.
            clients: who trains.
            rounds: their numbers.
            seed: of every client's shuffle in every round.
            keep: where the rounds are kept.
            corrected: the method whose recovery this is.
            before: the model that its request met.
        """
        began = state
        for number in rounds:
            replies = []
            for client in clients:
                new = self.local(state, client, derive_seed(seed, "train", number, client))
                if keep is not None:
                    keep.models[number], keep.updates[number, client] = state, difference(new, state, set(state))
                if corrected is not None and before is not None:
                    new = corrected.corrected(new, state, before=before, unlearned=began, parameters=self.names)
                replies.append(ClientReply(client, new, len(self.samples[client]), {}))
            state = weighted_mean(replies)
        return state

    def evidence(self, state: StateDict) -> Evidence:
        """Return what the verdict goes by."""
        outputs = outputs_of(self.loaded(state), self.sets)
        forget = outputs.log_p["forget"], outputs.labels["forget"]
        values = {
            "forget_accuracy": accuracy(*outputs.pair("forget")),
            "forget_loss": float(losses(*forget).mean()),
            "test_accuracy": accuracy(*outputs.pair("test")),
        }
        return Evidence(values=values, scores=logit_confidence(*forget).double())


def copied(model: nn.Module) -> StateDict:
    """Return a copy of a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@dataclass
class MemorySession:
    """One request, served in memory; `models` counts what travelled, in models."""

    federation: Federation
    method: Method
    current: StateDict
    initial: StateDict
    history: Kept
    seed: int
    models: int = 0
    calls: int = 0
    forgotten: tuple[int, ...] = (TARGET,)

    @property
    def remaining(self) -> tuple[int, ...]:
        """The clients that have nothing to forget."""
        return self.federation.remaining

    @property
    def num_examples(self) -> Mapping[int, int]:
        """Samples of each client."""
        return {client: len(samples) for client, samples in enumerate(self.federation.samples)}

    @property
    def proxy(self) -> Samples:
        """The server's held-out samples."""
        return self.federation.sets.holdout

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.federation.sets.test.inputs.shape[1:])

    def fresh(self, seed: int) -> nn.Module:
        """Return an untrained model."""
        return self.federation.model(seed)

    def run(
        self,
        exercise: str,
        clients: Sequence[int],
        state: StateDict,
        *,
        step: str = "forget",
        extra: StateDict | None = None,
        **config: float,
    ) -> Iterator[ClientReply]:
        """Have clients carry out an exercise, one after the other."""
        self.calls += 1
        for client in clients:
            seed, samples = derive_seed(self.seed, "exercise", self.calls, client), self.federation.samples[client]
            if exercise == "train":
                new = self.federation.local(state, client, seed, config)
            else:
                model = self.federation.loaded(state)
                self.method.on_device(model, samples, seed=seed, step=step, config=config, extra=extra)
                new = copied(model)
            self.models += 2 + (extra is not None)
            yield ClientReply(client, new, len(samples), {})

    def serve(self) -> StateDict:
        """Return what the method makes of the current model."""
        return self.method.serve(cast("Session", self))
