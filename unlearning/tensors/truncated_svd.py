"""A matrix as the product of two thin ones: the singular values that hold most of its energy.

Source: Wu et al., "FedKD: Communication-Efficient Federated Learning via Knowledge Distillation", arXiv 2108.13323,
section 2.4: the fewest singular values whose squares sum to at least a share of all; what is not a matrix, or is
smaller whole, is not decomposed.
"""

import torch
from torch import Tensor

from fedquit.unlearning.setting_checks import check_positive, check_share

Factors = tuple[Tensor, Tensor, Tensor]


def truncate(matrix: Tensor, energy: float) -> Factors | None:
    """Return U [m, r], s [r], V [r, n] of the smallest r, at least 1, that keeps the share `energy` of the squares.

    Args:
        matrix: [m, n], finite.
        energy: in (0, 1].

    Returns:
        The factors; None where `r (m + n + 1)` numbers are no fewer than the matrix has.

    Raises:
        InputError: `energy` is out of range.

    >>> factors = truncate(torch.outer(torch.arange(5.0), torch.ones(6)), energy=0.9)
    >>> [tuple(factor.shape) for factor in factors]
    [(5, 1), (1,), (1, 6)]
    >>> truncate(torch.eye(3), energy=0.9) is None
    True
    """
    check_share("energy", energy)
    check_positive("energy", energy)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = rank_of(values, energy)
    if rank * (sum(matrix.shape) + 1) >= matrix.numel():
        return None
    return left[:, :rank], values[:rank], right[:rank]


def rank_of(values: Tensor, energy: float) -> int:
    """Return the fewest singular values, largest first [k], whose squares sum to the share `energy` of all.

    >>> rank_of(torch.tensor([3.0, 1.0, 0.0]), energy=0.9), rank_of(torch.zeros(3), energy=0.9)
    (1, 1)
    """
    squares = values.double().square().cumsum(0)
    return min(len(values), int((squares < energy * squares[-1]).sum()) + 1)


def expand(left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    """Return the matrix [m, n] that `truncate` was given, nearly.

    >>> matrix = torch.outer(torch.arange(5.0), torch.ones(6))
    >>> torch.allclose(expand(*truncate(matrix, energy=0.9)), matrix, atol=1e-5)
    True
    """
    return (left * values) @ right
