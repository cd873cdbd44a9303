"""Two thin factors in place of a matrix, as FedKD sends updates (arXiv 2108.13323, section 2.4)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedquit.client.compression.codecs.codec import SELECTS, Codec, Slot, Take, Traits
from fedquit.client.training.sgd import deterministic
from fedquit.errors import InputError
from fedquit.unlearning.setting_checks import check_positive, check_share
from fedquit.unlearning.tensors.truncated_svd import truncate


@dataclass(frozen=True, slots=True)
class SVD(Codec):
    """`sqrt(s) U` [r, m] and `sqrt(s) V` [r, n], with the fewest singular values that hold `energy`.

    A kernel [out, in, ...] is a matrix of `out` rows. An array whose factors would be no smaller travels whole. The
    singular values are in both factors, a row for each: so a codec after this one gives each its own step.

    Attributes:
        energy: the share of the squares that is kept; FedKD goes from 0.95 to 0.98 in the course of a run.

    >>> import numpy as np
    >>> compressed = SVD().encode("w", np.ones((4, 3, 2), np.float32))
    >>> {name: array.shape for name, array in compressed.items()}
    {'w/rank': (), 'w/left': (1, 4), 'w/right': (1, 6)}
    """

    name: ClassVar[str] = "svd"
    traits: ClassVar[Traits] = Traits("two thin factors in place of a matrix", SELECTS, "arXiv 2108.13323")

    energy: float = 0.95

    def __post_init__(self) -> None:
        check_share("energy", self.energy)
        check_positive("energy", self.energy)

    def encode(self, name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """See `Codec`."""
        exact = np.float32 if array.dtype == np.float16 else array.dtype  # LAPACK has no halves
        with deterministic(0):
            factors = truncate(torch.from_numpy(array.reshape(len(array), -1).astype(exact)), self.energy)
        if factors is None:
            return {f"{name}/rank": np.array(0, np.int32), name: array}
        left, values, right = factors
        root = values.sqrt()
        return {
            f"{name}/rank": np.array(len(values), np.int32),
            f"{name}/left": (left * root).T.numpy().astype(array.dtype, order="C"),
            f"{name}/right": (root[:, None] * right).numpy().astype(array.dtype, order="C"),
        }

    def decode(self, name: str, slot: Slot, take: Take) -> NDArray[Any]:
        """See `Codec`. The sum is in double precision on one thread, so that both sides get the same bits."""
        shape = slot.shape or ()
        rows, columns = shape[0], slot.size // shape[0]
        rank = int(take(f"{name}/rank", Slot("int32", ())))
        if rank == 0:
            return take(name, slot)
        if not 1 <= rank * (rows + columns) < slot.size:
            raise InputError(f"'{name}/rank' is {rank}: no rank of factors that are smaller than {rows} x {columns}")
        left = take(f"{name}/left", Slot(slot.dtype, (rank, rows)))
        right = take(f"{name}/right", Slot(slot.dtype, (rank, columns)))
        with deterministic(0):
            product = torch.from_numpy(left.T.astype(np.float64)) @ torch.from_numpy(right.astype(np.float64))
        with np.errstate(over="ignore"):
            return product.numpy().astype(slot.dtype).reshape(shape)
