"""The rows of the cost log for a round whose replies are summed where they are made: as if messages had travelled."""

from flwr.app import ConfigRecord, MessageType, MetricRecord

from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import Row
from fedquit.strategies.cost_log.flower_objects import arrays_form, digests_of_array, measure_numbers
from fedquit.strategies.cost_log.message_size import size_of
from fedquit.strategies.grid.summed_replies import PlainRound, SummedReply
from fedquit.strategies.guard.reply_checks import SERIALISED
from fedquit.unlearning.tensors.convert import npy_head


class SummedLog:
    """Logs the messages of one round.

    Args:
        costs: where rows go.
        phase: of the round.
        server_round: its number in the log.
        plain: the round.
    """

    def __init__(self, costs: Costs, phase: str, server_round: int, plain: PlainRound) -> None:
        self._costs, self._phase, self._round, self._plain = costs, phase, server_round, plain
        heads = {name: npy_head(array.dtype, array.shape) for name, array in plain.arrays.items()}
        kinds = [
            (str(array.dtype), array.shape, SERIALISED, len(heads[name]) + array.nbytes)
            for name, array in plain.arrays.items()
        ]
        self._form, self._group = arrays_form(tuple(heads), tuple(kinds)), str(plain.config["server-round"])
        self._model = self._form.measured([digests_of_array(heads[n], array) for n, array in plain.arrays.items()])

    def request(self, client: int, node: int) -> None:
        """Log the message to a node: the model and its config."""
        config = measure_numbers(ConfigRecord, {**self._plain.config, "seed": self._plain.seeds[node]})
        wire = size_of(("arrays", "config"), (self._model, config), MessageType.TRAIN, self._group, is_reply=False)
        self._costs.record(Row(self._phase, self._round, client, "down", wire.payload, 0, 0), wire)

    def reply(self, client: int, reply: SummedReply, *, seconds: float) -> None:
        """Log a reply, which came after `seconds`; one of a device that failed has no content, and no row."""
        if not reply.digests:
            return
        model, metrics = self._form.measured(reply.digests), measure_numbers(MetricRecord, reply.metrics)
        wire = size_of(("arrays", "metrics"), (model, metrics), MessageType.TRAIN, self._group, is_reply=True)
        device_seconds = float(reply.metrics["cpu-seconds"])
        row = Row(self._phase, self._round, client, "up", wire.payload, 0, 0, seconds, device_seconds)
        self._costs.record(row, wire)
