"""Results as DataFrames; pandas is asked for only when one is wanted."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedquit.extras import extras_named

if TYPE_CHECKING:
    from pandas import DataFrame


@extras_named()
def data_frame(rows: Sequence[Mapping[str, Any]], index: str) -> "DataFrame":
    """Return rows as a DataFrame, in their order; what a row lacks is missing in it.

    Args:
        rows: each a value for each column.
        index: the column that names a row.

    Raises:
        InputError: pandas is not installed.

    >>> data_frame([{"stage": "original", "accuracy": 0.5}], "stage").loc["original", "accuracy"].item()
    0.5
    """
    from pandas import DataFrame

    columns = list(dict.fromkeys(name for row in rows for name in row)) or [index]
    return DataFrame(list(rows), columns=columns).set_index(index)


def single_numbers(document: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a document that stand alone: not texts, nor what is made up of several.

    >>> single_numbers({"accuracy": 0.5, "model": "00", "per_class_accuracy": [0.5], "devices": None})
    {'accuracy': 0.5}
    """
    return {name: value for name, value in document.items() if isinstance(value, int | float)}
