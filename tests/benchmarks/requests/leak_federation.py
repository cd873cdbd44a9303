"""A federation in memory in which single requests cost milliseconds: trained once, then asked again and again."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from fedquit.client.data.build_data_and_model import dataset_of, empty_model, initial_model, split
from fedquit.client.data.evaluation_sets import held_out_and_test
from fedquit.client.training.sgd import deterministic, fit
from fedquit.settings import Settings
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.session import ClientReply, History
from fedquit.unlearning.tensors.arithmetic import StateMean, difference, moved, parameter_names, update_of
from fedquit.unlearning.tensors.convert import StateDict

Step = dict[str, Tensor]


@dataclass
class Kept:
    """What the server kept of training: every round."""

    models: dict[int, StateDict] = field(default_factory=dict)
    updates: dict[tuple[int, int], StateDict] = field(default_factory=dict)
    clients: int = 0

    def rounds(self) -> Sequence[int]:
        return sorted(self.models)

    def model(self, number: int) -> StateDict:
        return self.models[number]

    def update(self, number: int, client: int) -> StateDict | None:
        return self.updates.get((number, client))

    def participants(self, number: int) -> Collection[int]:
        return range(self.clients) if number in self.models else ()


class Federation:
    """Trained for the rounds that the settings say.

    Attributes:
        current: the global model; `previous`: that of the round before.
        pool: all training samples, from which requests are drawn.
    """

    def __init__(
        self, settings: Settings, change: Callable[[list[Samples]], list[Samples]] = lambda samples: samples
    ) -> None:
        self.settings, self.history = settings, Kept(clients=settings.clients)
        self._others: dict[int, Step] = {}
        self._on_unseen: dict[int, Step] = {}
        train = dataset_of(settings).train
        self.samples = change([train.subset(torch.from_numpy(part)) for part in split(settings.key())])
        self.pool = Samples(
            torch.cat([each.inputs for each in self.samples]), torch.cat([each.labels for each in self.samples])
        )
        self.unseen = held_out_and_test(settings.key())[0]
        self.initial: StateDict = initial_model(settings, settings.seed).state_dict()
        self.current = self.previous = self.initial
        self.names = parameter_names(empty_model(settings.key()))
        for number in range(1, settings.rounds + 1):
            self.history.models[number] = self.previous = self.current
            mean = StateMean()
            for client, samples in enumerate(self.samples):
                new = self.trained(self.current, samples, derive_seed(settings.seed, "train", number, client))
                self.history.updates[number, client] = update_of(new, self.current)
                mean.add(new, len(samples))
            self.current = mean.result()

    def model(self, state: StateDict) -> nn.Module:
        model = copy.deepcopy(empty_model(self.settings.key()))
        model.load_state_dict(dict(state))
        return model

    def trained(self, state: StateDict, samples: Samples, seed: int, **how: float) -> StateDict:
        """Return the model after an ordinary round on some samples."""
        model, settings = self.model(state), self.settings
        with deterministic(seed):
            fit(
                model,
                samples,
                lr=how.get("lr", settings.lr),
                epochs=int(how.get("epochs", settings.local_epochs)),
                batch_size=settings.batch_size,
                seed=seed,
            )
        return {name: value.detach() for name, value in model.state_dict().items()}

    @cached_property
    def usual(self) -> Step:
        """The step of the last round, which every device has seen."""
        return difference(self.current, self.previous, self.names)

    @cached_property
    def next_steps(self) -> list[Step]:
        """What each client would do in the next round, from the current model."""
        return [
            difference(self.trained(self.current, samples, derive_seed(7, "next", client)), self.current, self.names)
            for client, samples in enumerate(self.samples)
        ]

    def others(self, asker: int) -> Step:
        """Return the mean step of all clients besides one, from the current model."""
        if asker not in self._others:
            self._others[asker] = self._mean_without(asker)
        return self._others[asker]

    def on_unseen(self, seed: int) -> Step:
        """Return the step of an ordinary round on samples that nobody has."""
        if seed not in self._on_unseen:
            self._on_unseen[seed] = difference(self.trained(self.current, self.unseen, seed), self.current, self.names)
        return self._on_unseen[seed]

    def _mean_without(self, asker: int) -> Step:
        sizes = [len(samples) if client != asker else 0 for client, samples in enumerate(self.samples)]
        pairs = list(zip(sizes, self.next_steps, strict=True))
        return {
            name: torch.stack([size / sum(sizes) * step[name] for size, step in pairs]).sum(dim=0)
            for name in self.next_steps[0]
        }

    def round(self, state: StateDict, without: int, number: int) -> StateDict:
        """Return the model after a round of all clients besides one."""
        mean = StateMean()
        for client, samples in enumerate(self.samples):
            if client != without:
                seed = derive_seed(self.settings.seed, "recover", number, client)
                mean.add(self.trained(state, samples, seed), len(samples))
        return mean.result()

    def ask(self, method: Method, asker: int, forgotten: Samples, seed: int) -> tuple[Step, Step]:
        """Return what the asking device changed of what it was sent, and what came of the request at the server.

        The first is empty where the device is not asked.
        """
        session = MemorySession(method, self, asker, forgotten, seed)
        with deterministic(seed):
            made = method.serve(session)
        reply = session.replies[0] if session.replies else {}
        return reply, difference(made, self.current, self.names)

    def plus(self, step: Mapping[str, Tensor]) -> StateDict:
        return moved(self.current, step)


@dataclass
class MemorySession:
    """One request of `asker` about some samples; keeps the steps that it replied with."""

    method: Method
    federation: Federation
    asker: int
    samples: Samples
    seed: int
    replies: list[Step] = field(default_factory=list)
    calls: int = 0
    initial: StateDict = field(init=False)
    current: StateDict = field(init=False)
    history: History = field(init=False)
    proxy: Samples | None = None

    def __post_init__(self) -> None:
        self.initial, self.current = self.federation.initial, self.federation.current
        self.history = self.federation.history

    @property
    def forgotten(self) -> tuple[int, ...]:
        return (self.asker,)

    @property
    def remaining(self) -> tuple[int, ...]:
        return tuple(client for client in range(len(self.federation.samples)) if client != self.asker)

    @property
    def num_examples(self) -> Mapping[int, int]:
        return {client: len(self._of(client)) for client in range(len(self.federation.samples))}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.samples.inputs.shape[1:])

    def fresh(self, seed: int) -> nn.Module:
        return initial_model(self.federation.settings, seed)

    def _of(self, client: int) -> Samples:
        return self.samples if client == self.asker else self.federation.samples[client]

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
        self.calls += 1
        for client in clients:
            seed, samples = derive_seed(self.seed, "ask", self.calls, client), self._of(client)
            if exercise == "train":
                new = self.federation.trained(state, samples, seed, **config)
            else:
                model = self.federation.model(state)
                self.method.on_device(model, samples, seed=seed, step=step, config=config, extra=extra)
                new = {name: value.detach() for name, value in model.state_dict().items()}
            if client == self.asker:
                self.replies.append(difference(new, state, self.federation.names))
            yield ClientReply(client, new, len(samples), {"loss": 0.0})
