"""The rows of the cost log for a round whose replies are summed where they are made: as if messages had travelled."""

from flwr.app import ConfigRecord, MessageType, MetricRecord

from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import Row
from fedquit.strategies.cost_log.flower_objects import form_of, measure, measure_numbers
from fedquit.strategies.cost_log.message_size import size_of
from fedquit.strategies.grid.array_record import record_of
from fedquit.strategies.grid.summed_replies import PlainRound, SummedReply


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
        record = record_of(plain.arrays)
        self._model, self._group = measure(record), str(plain.config["server-round"])
        self._form = form_of(record)

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
