"""The rows of the cost log for a round whose replies are summed where they are made: as if messages had travelled."""

from flwr.app import ConfigRecord, MessageType, MetricRecord

from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import Row
from fedquit.strategies.cost_log.flower_objects import KEY, Chunks, Kind, arrays_form, digests_of_array, measure_numbers
from fedquit.strategies.cost_log.message_size import size_of
from fedquit.strategies.grid.summed_replies import PlainRound, SummedReply
from fedquit.strategies.guard.reply_checks import SERIALISED
from fedquit.unlearning.tensors.convert import Arrays, npy_head


def sent_as(arrays: Arrays, key: int = KEY) -> tuple[tuple[str, ...], tuple[Kind, ...], tuple[Chunks, ...]]:
    """Return the names and kinds of arrays as in a message, and the digests of their chunks; `key` is the digests'."""
    heads = [npy_head(array.dtype, array.shape) for array in arrays.values()]
    sized = list(zip(heads, arrays.values(), strict=True))
    kinds = tuple((str(own.dtype), own.shape, SERIALISED, len(head) + own.nbytes) for head, own in sized)
    return tuple(arrays), kinds, tuple(digests_of_array(head, own, key) for head, own in sized)


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
        names, kinds, chunks = sent_as(plain.arrays)
        self._form, self._group = arrays_form(names, kinds), str(plain.config["server-round"])
        self._model = self._form.measured(chunks)

    def request(self, client: int, node: int) -> None:
        """Log the message to a node: the model and its config."""
        config = measure_numbers(ConfigRecord, {**self._plain.config, "seed": self._plain.seeds[node]})
        wire = size_of(("arrays", "config"), (self._model, config), MessageType.TRAIN, self._group, is_reply=False)
        self._costs.record(Row(self._phase, self._round, client, "down", wire.payload, 0, 0), wire)

    def reply(self, client: int, reply: SummedReply, *, seconds: float) -> None:
        """Log a reply, which came after `seconds`; one of a device that failed has no content, and no row."""
        if not reply.digests:
            return
        form = self._form if reply.form is None else arrays_form(*reply.form)
        model, metrics = form.measured(reply.digests), measure_numbers(MetricRecord, reply.metrics)
        wire = size_of(("arrays", "metrics"), (model, metrics), MessageType.TRAIN, self._group, is_reply=True)
        device_seconds = float(reply.metrics["cpu-seconds"])
        row = Row(self._phase, self._round, client, "up", wire.payload, 0, 0, seconds, device_seconds)
        self._costs.record(row, wire)
