"""The same rounds in plain PyTorch: worker processes, clients dealt by size, no Flower, no messages."""

import multiprocessing
import random
from collections.abc import Sequence
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch.nn import functional as F

from fedquit.client.data.build_data_and_model import dataset_of, initial_model, split
from fedquit.settings import Settings
from fedquit.strategies.rounds.train import num_sampled
from fedquit.unlearning.samples import shuffled_batches
from fedquit.unlearning.seeds import derive_seed
from fedquit.unlearning.tensors.convert import Arrays

POLL_SECONDS = 0.002


def bare_worker(pipe: Connection, settings: Settings) -> None:
    """Answer each (round, model, clients) that comes through `pipe` with the models that these clients make of it."""
    torch.set_num_threads(1)
    data, parts = dataset_of(settings).train, split(settings.key())
    model = initial_model(settings, settings.seed)
    while (task := pipe.recv()) is not None:
        number, arrays, clients = task
        for client in clients:
            share = data.subset(torch.from_numpy(parts[client]))
            model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
            generator = torch.Generator().manual_seed(derive_seed(settings.seed, "train", number, client))
            optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
            model.train()
            for index in shuffled_batches(len(share), settings.batch_size, generator):
                inputs, labels = share.batch(index)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(F.cross_entropy(model(inputs), labels))
                optimizer.step()
            pipe.send((len(share), {name: tensor.numpy() for name, tensor in model.state_dict().items()}))


class BareProcesses:
    """Plain PyTorch worker processes, clients dealt to them largest first."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings = settings
        self._sizes = [len(part) for part in split(settings.key())]
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            self.processes.append(context.Process(target=bare_worker, args=(theirs, settings), daemon=True))
            self.processes[-1].start()
            self.pipes.append(ours)

    def round(self, number: int, arrays: Arrays) -> Arrays:
        """Return the average of what every client of the round makes of `arrays`."""
        hands = self._dealt(self._sampled(number))
        for pipe, hand in zip(self.pipes, hands, strict=True):
            pipe.send((number, dict(arrays), hand))
        total, sums = 0, {name: np.zeros(array.shape, dtype=np.float64) for name, array in arrays.items()}
        left = {id(pipe): len(hand) for pipe, hand in zip(self.pipes, hands, strict=True)}
        while any(left.values()):
            for pipe in self.pipes:
                if left[id(pipe)] and pipe.poll(POLL_SECONDS):
                    count, trained = pipe.recv()
                    left[id(pipe)] -= 1
                    total += count
                    for name, array in trained.items():
                        sums[name] += array * float(count)
        return {name: (values / total).astype(arrays[name].dtype) for name, values in sums.items()}

    def _sampled(self, number: int) -> list[int]:
        """Return the clients of a round: those that the strategy samples."""
        everyone = list(range(len(self._sizes)))
        seed = derive_seed(self._settings.seed, "sample", number)
        return random.Random(seed).sample(everyone, num_sampled(len(everyone), self._settings.fraction))

    def _dealt(self, clients: Sequence[int]) -> list[list[int]]:
        hands: list[list[int]] = [[] for _ in self.pipes]
        for client in sorted(clients, key=lambda client: (-self._sizes[client], client)):
            min(hands, key=lambda hand: sum(self._sizes[c] for c in hand)).append(client)
        return hands

    def close(self) -> None:
        """End the workers."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join()
