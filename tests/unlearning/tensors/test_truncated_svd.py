"""A truncated matrix keeps the energy it was told to, with no factor more than needed."""

import pytest
import torch

from fedquit.errors import InputError
from fedquit.unlearning.tensors.truncated_svd import expand, rank_of, truncate


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.95, 0.99])
def test_the_fewest_factors_are_kept_that_hold_the_energy(energy: float) -> None:
    generator = torch.Generator().manual_seed(3)
    turned = [torch.linalg.qr(torch.randn(size, 20, generator=generator))[0] for size in (40, 60)]
    matrix = turned[0] * torch.logspace(0, -2, 20) @ turned[1].T
    factors = truncate(matrix, energy)
    assert factors is not None
    rank = len(factors[1])
    held = [float(expand(*(u[..., :r], s[:r], v[:r])).square().sum() / matrix.square().sum())
            for u, s, v in [factors] for r in (rank, rank - 1)]  # fmt: skip
    assert held[0] >= energy - 1e-5
    assert held[1] < energy


def test_a_matrix_whose_factors_are_no_smaller_stays_whole() -> None:
    assert truncate(torch.eye(8), 0.9) is None
    assert truncate(torch.ones(1, 9), 0.9) is None
    assert truncate(torch.ones(2, 3), 0.9) is None  # 6 numbers either way
    assert truncate(torch.ones(3, 3), 0.9) is not None


def test_all_energy_is_all_of_the_matrix() -> None:
    matrix = torch.outer(torch.arange(1.0, 6.0), torch.ones(9))
    factors = truncate(matrix, 1.0)
    assert factors is not None
    torch.testing.assert_close(expand(*factors), matrix)


def test_nothing_but_zeros_has_one_factor() -> None:
    assert rank_of(torch.zeros(4), 0.95) == 1


@pytest.mark.parametrize("energy", [0.0, -0.1, 1.1, float("nan")])
def test_an_energy_out_of_range_is_refused(energy: float) -> None:
    with pytest.raises(InputError, match="energy"):
        truncate(torch.ones(3, 3), energy)
