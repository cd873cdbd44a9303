"""The records of a message by kind."""

from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

R = TypeVar("R", ArrayRecord, MetricRecord, ConfigRecord)


def records_of(message: Message, kind: type[R]) -> list[R]:
    """Return a message's records of one kind; Flower's own views of them take longer to make than all checks.

    >>> from flwr.app import RecordDict
    >>> from fedquit.strategies.flower_internals import become_server_task
    >>> _ = become_server_task(run_id=1)
    >>> records_of(Message(RecordDict({"metrics": MetricRecord({"loss": 0.5})}), 1, "train"), MetricRecord)
    [{'loss': 0.5}]
    """
    return [record for record in message.content.values() if isinstance(record, kind)]
