"""The kernels of spherical harmonics against the twin in torch: features, their gradient, and that gradient's own."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import ops
from cuda_ext.cpu import find_kernels
from cuda_ext.ops_spherical import MOST_DEGREES, spherical_encode
from engine.fields.mlp import DirectionNetwork
from engine.fields.spherical_harmonics import harmonics_twin
from tests.unit.kernels.cases import generator_of, spherical_case

pytestmark = pytest.mark.skipif(find_kernels()[0] is None, reason=f"no compiled kernels: {find_kernels()[1]}")
CPU = torch.device("cpu")
DEGREES = pytest.mark.parametrize("degree", range(1, MOST_DEGREES + 1))


def directions(n: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 3, generator=generator_of(seed), dtype=torch.float64), dim=-1).to(dtype)


@DEGREES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_kernel_is_its_twin_to_second_order(degree: int, dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    found, wanted = (spherical_case(degree)(CPU, dtype, kernel=kernel) for kernel in (True, False))
    for found_part, wanted_part in zip(found, wanted, strict=True):
        torch.testing.assert_close(found_part, wanted_part, rtol=tolerance, atol=tolerance * float(wanted_part.abs().max()))
    assert len(found) == 3 and found[0].shape == (3001, degree**2)
    assert degree == 1 or all(part.abs().max() > 0 for part in found)


def test_single_precision_is_exact_to_a_few_units_in_the_last_place() -> None:
    x = directions(20_000, 1)
    x[:6] = torch.cat([torch.eye(3), -torch.eye(3)])
    error = (spherical_encode(x, MOST_DEGREES).double() - harmonics_twin(x.double(), MOST_DEGREES)).abs()
    assert error.max() < 2e-6


def test_what_is_no_number_stays_none() -> None:
    features = spherical_encode(torch.tensor([[0.6, float("nan"), 0.8], [0.6, 0.0, 0.8]]), 3)
    assert features[0, [1, 3, 4, 5, 7, 8]].isnan().all() and features[1].isfinite().all()


def test_both_orders_of_gradients_in_double() -> None:
    x = torch.cat([directions(3, 2, torch.float64), 1.1 * directions(2, 3, torch.float64)]).requires_grad_()
    encode = lambda x: spherical_encode(x, MOST_DEGREES)  # noqa: E731
    assert torch.autograd.gradcheck(encode, (x,))
    assert torch.autograd.gradgradcheck(encode, (x,))


def test_there_is_no_third_order_no_ninth_degree_and_no_flat_direction() -> None:
    x = directions(4, 4).requires_grad_()
    (first,) = torch.autograd.grad(spherical_encode(x, 3).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no third derivative"):
        second.square().sum().backward()
    for encode in (spherical_encode, harmonics_twin):
        for degree in (0, 9):
            with pytest.raises(ValueError, match=rf"must lie in 1\.\.8, got {degree}"):
                encode(x, degree)
        with pytest.raises(ValueError, match=r"must be \[M, 3\], got \[4, 2\]"):
            encode(x[:, :2], 3)
    for count, width in ((4, 8), (4, 81), (3, 9)):
        with pytest.raises(ValueError, match=r"1\.\.8, got 9|must be \[4, degree\^2\], got \["):
            torch.ops.dreamfusion.spherical_pull(x.detach(), torch.zeros(count, width))


def test_no_directions() -> None:
    x = torch.zeros(0, 3).requires_grad_()
    out = spherical_encode(x, 4)
    out.sum().backward()
    assert out.shape == (0, 16) and x.grad is not None and x.grad.shape == (0, 3)


def test_rows_that_lie_apart_and_no_whole_block() -> None:
    """Neither directions nor gradients lie side by side, and 37 is no multiple of a block."""
    apart = directions(3 * 37, 5).view(37, 9)[:, ::3].detach()
    g = torch.randn(16, 37, generator=generator_of(6)).t()
    results = []
    for encode in (spherical_encode, harmonics_twin):
        x = apart.detach().requires_grad_()
        out = encode(x, 4)
        results.append((out, *torch.autograd.grad(out, x, g)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_learned_background_learns_the_same_by_kernel_and_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, results = directions(200, 8), []
    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr(ops, "serves", lambda _tensor: False)
        background = DirectionNetwork(generator_of(7), 3)
        color = background(seen)
        (color * torch.randn(color.shape, generator=generator_of(9))).sum().backward()
        results.append((color.detach(), *(p.grad for p in background.parameters())))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert found is not None and found.std() > 0
