"""The kernel that lays a dense grid out for reading, against its twin in torch."""

from __future__ import annotations

import pytest
import torch

from cuda_ext.cpu import find_kernels
from cuda_ext.ops_table import dense_table
from engine.fields.field import table_twin

pytestmark = pytest.mark.skipif(find_kernels()[0] is None, reason=f"no compiled kernels: {find_kernels()[1]}")


def random_volume(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(4, n, n, n, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("with_gradient", [False, True])
@pytest.mark.parametrize("n", [2, 3, 33])
def test_it_is_its_twin_forward_and_backward(n: int, with_gradient: bool) -> None:
    results = []
    for function in (dense_table, table_twin):
        volume = random_volume(n).requires_grad_()
        table = function(volume, 10.0, with_gradient=with_gradient)
        (table * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        results.append((table.detach(), volume.grad))
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_the_gradient_of_a_slope_is_the_slope() -> None:
    at = torch.linspace(-1, 1, 5, dtype=torch.float64)
    volume = torch.zeros(4, 5, 5, 5, dtype=torch.float64)
    volume[0] = 2 * at[:, None, None] - 3 * at[None, :, None] + 0.5 * at[None, None, :]
    gradient = dense_table(volume, 2.0, with_gradient=True)[:, 4:]
    torch.testing.assert_close(gradient, torch.tensor([4.0, -6.0, 1.0], dtype=torch.float64).expand(125, 3))


@pytest.mark.parametrize("with_gradient", [False, True])
def test_gradients_in_double(with_gradient: bool) -> None:
    volume = random_volume(3, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: dense_table(v, 3.0, with_gradient=with_gradient), (volume,))


def test_opcheck_and_other_shapes() -> None:
    torch.library.opcheck(
        torch.ops.dreamfusion.dense_table,
        (random_volume(3).requires_grad_(), 2.0, True),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    with pytest.raises(ValueError, match=r"\[4, N, N, N\]"):
        dense_table(torch.zeros(4, 3, 3, 2), 1.0, with_gradient=False)
