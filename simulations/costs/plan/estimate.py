"""What a request will cost, before anything is sent: by what its method says it asks, and by what training showed.

The payload of a message is determined, and estimated to the byte: a request of a method is built as
`strategies/rounds/exercise.py` builds it, and one of an ordinary round is that of the same round of training. Bytes on
the wire can differ by a few, as numbers in it take more or fewer. Seconds are those of training, in proportion to the
passes over the samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedquit.client.compression.build_compression import compression_of
from fedquit.client.data.build_data_and_model import empty_model, split
from fedquit.client.data.forget_sets import to_forget, to_keep
from fedquit.client.training.build_method import method_of
from fedquit.client.training.build_objective import objective_of
from fedquit.server.lifecycle.grid_session import Case, exercise_config
from fedquit.server.lifecycle.training_history import History, Keep
from fedquit.server.run.phases import nth
from fedquit.server.run.run_folder import RunFolder, read_state
from fedquit.server.run.simulated_case import simulated_case
from fedquit.settings import Settings
from fedquit.simulations.costs.plan.estimated_cost import Cost
from fedquit.simulations.costs.plan.observed_training import Seen, Size
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.rounds.exercise import weigh
from fedquit.strategies.rounds.train import num_sampled
from fedquit.unlearning.exchanges import Exchange
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.arithmetic import parameter_names


@dataclass(frozen=True, slots=True)
class AtServer:
    """What the server knows of a request: an `Outlook`."""

    case: Case
    history: History

    @property
    def forgotten(self) -> tuple[int, ...]:
        """See `Outlook`."""
        return self.case.forgotten

    @property
    def remaining(self) -> tuple[int, ...]:
        """See `Outlook`."""
        return self.case.remaining


@dataclass(frozen=True)
class Estimate:
    """A request of a run that has not been carried out.

    Args:
        path: folder of the run whose training it starts from.
        settings: of that run, except what is asked.
        request: which of the requests, from 0.
        seen: what training showed.
    """

    path: Path
    settings: Settings
    request: int
    seen: Seen

    @cached_property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The model that training ended with."""
        return RunFolder(self.path).load_model(read_state(self.path).models["original"])

    @cached_property
    def method(self) -> Method:
        """The method that the settings name, checked against what is asked."""
        return method_of(self.settings)

    @cached_property
    def outlook(self) -> AtServer:
        """Forgotten and remaining clients, and the stored training history."""
        log = {r.number: r.participants for r in read_state(self.path).of("train")}
        history = History(self.path, Keep(), self.settings.clients, lambda number: log.get(number, ()))
        case = simulated_case(self.settings, self.request, nth("forget", self.request), self.settings.rounds)
        return AtServer(case, history)

    def forget(self) -> Cost | None:
        """Return what it costs until recovery begins; None: the method has no estimate."""
        exchanges = self.method.exchanges(self.outlook)
        return None if exchanges is None else sum(map(self._exchange, exchanges), Cost())

    def round(self, phase: str, number: int) -> Cost:
        """Return what round `number`, from 1, of a phase without what is forgotten costs."""
        key = self.settings.key()
        parts = zip(split(key), to_keep(key, self.request + 1), strict=True)
        left = {client: len(kept) / len(whole) for client, (whole, kept) in enumerate(parts) if len(kept)}
        asked = num_sampled(len(left), self.settings.fraction)
        work = sum(self.seen.seconds_of(client) * share for client, share in left.items()) * asked / len(left)
        request_size = self.seen.request_size(number)
        keeps = objective_of(self.settings).needs().keeps != "nothing" or compression_of(self.settings).keeps
        more = len(phase) - len("train") if keeps else 0
        return self._cost(asked, Size(request_size.payload + more, request_size.wire + more), work)

    def _exchange(self, exchange: Exchange) -> Cost:
        if not exchange.clients:
            return Cost()
        names = parameter_names(empty_model(self.settings.key())) if exchange.extra == "parameters" else self.arrays
        extra = None if exchange.extra == "nothing" else {name: self.arrays[name] + 1 for name in names}
        config = exercise_config(
            self.outlook.case,
            exchange.exercise,
            exchange.step,
            dict.fromkeys(exchange.config, 0.5),
            lr=self.settings.lr,
            exchanges=0,
            client=exchange.clients[0],
        )
        become_server_task(run_id=1)
        request_size = weigh(
            exchange.exercise,
            self.arrays,
            config,
            extra=extra,
            number=self.settings.rounds,
            compression=compression_of(self.settings),
        )
        return self._cost(len(exchange.clients), Size(request_size.payload, request_size.total()), self._work(exchange))

    def _work(self, exchange: Exchange) -> float | None:
        """Return the devices' processor time for an exchange; None: the method does not say."""
        ordinary = self.settings.local_epochs
        passes = ordinary if exchange.passes is None and exchange.exercise == "train" else exchange.passes
        if passes is None:
            return None
        key, whole = self.settings.key(), split(self.settings.key())
        gone, kept = to_forget(key, self.request), to_keep(key, self.request + 1)
        shares = [len(gone[c]) or len(kept[c]) for c in exchange.clients]
        times = [self.seen.seconds_of(c) * n / len(whole[c]) for c, n in zip(exchange.clients, shares, strict=True)]
        return sum(times) * passes / ordinary

    def _cost(self, asked: int, request_size: Size, work: float | None) -> Cost:
        """Return the cost of one request of this size to `asked` clients, for `work` processor seconds each."""
        seen, pair = self.seen, request_size.wire + self.seen.reply.wire
        share = seen.round_seconds / seen.round_device_seconds if seen.round_device_seconds else 0.0
        return Cost(
            exchanges=1,
            messages=2 * asked,
            payload_bytes_down=asked * request_size.payload,
            payload_bytes_up=asked * seen.reply.payload,
            wire_bytes=asked * pair,
            busiest_bytes=pair,
            device_seconds=work,
            seconds=None if work is None else work * share,
        )
