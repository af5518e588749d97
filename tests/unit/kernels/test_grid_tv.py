"""The kernel of a grid's total variation against its twin in torch, and both against what is written down."""

from __future__ import annotations

import pytest
import torch

from cuda_ext import ops
from cuda_ext.cpu import find_kernels
from cuda_ext.ops_grid_tv import grid_tv
from cuda_ext.ops_hash import Levels
from engine.fields.dense_grid import DenseGrid
from engine.fields.grid_variation import squares_twin, total_variation
from engine.fields.hash_grid import HashGrid
from tests.unit.kernels.cases import CASES, generator_of

needs_kernels = pytest.mark.skipif(find_kernels()[0] is None, reason=f"no compiled kernels: {find_kernels()[1]}")
NAMES = [name for name in CASES if name.startswith("grid_tv")]
# Points with rows of their own, shared rows, half open, closed.
SMALL = Levels((2, 3, 5, 6), (27, 32, 32, 32), (1.0, 1.0, 0.5, 0.0), False)


def places(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, generator=generator_of(seed))


@needs_kernels
@pytest.mark.parametrize("name", NAMES)
def test_kernel_is_its_twin_forward_and_backward(name: str) -> None:
    found, wanted = (CASES[name](torch.device("cpu"), torch.float32, kernel=kernel) for kernel in (True, False))
    for found_part, wanted_part in zip(found, wanted, strict=True):
        torch.testing.assert_close(found_part, wanted_part, rtol=1e-4, atol=1e-5 * float(wanted_part.abs().max()))
    assert len(found) == 2 and found[1].abs().max() > 0


@needs_kernels
@pytest.mark.parametrize("turned", [False, True])
def test_gradient_in_double(turned: bool) -> None:
    shape = (sum(SMALL.sizes), 2)
    table = torch.randn(shape[::-1] if turned else shape, generator=generator_of(1), dtype=torch.float64).requires_grad_()
    positions = places(5, 2).double()
    assert torch.autograd.gradcheck(lambda t: grid_tv(t.t() if turned else t, positions, SMALL), (table,))


@needs_kernels
def test_one_thread_and_four_give_the_same_bits() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(CASES[NAMES[0]](torch.device("cpu"), torch.float32, kernel=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, four) for one, four in zip(*results, strict=True))


@needs_kernels
def test_a_table_of_another_size_or_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"table must be \[123, "):
        grid_tv(torch.zeros(122, 2), places(1), SMALL)
    with pytest.raises(ValueError, match="one type"):
        grid_tv(torch.zeros(123, 2), places(1).double(), SMALL)


@pytest.mark.parametrize("kernel", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize("kind", ["hash", "dense"])
def test_of_a_ramp_it_is_its_steps_squared(kind: str, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two levels of which the second is a quarter open; one number rises by 1, 2, 3 a point along x, y, z, the other is even."""
    resolutions = (3, 5)
    ramps = []
    for n in resolutions:
        x, y, z = torch.meshgrid(*[torch.arange(n + 1.0)] * 3, indexing="ij")
        ramps.append(torch.stack([x + 2 * y + 3 * z, torch.full_like(x, 7.0)]))
    grid: HashGrid | DenseGrid
    if kind == "hash":
        grid = HashGrid(resolutions, 2, 10, generator_of(3))
        grid.table.data = torch.cat([ramp.flatten(1).t() for ramp in ramps])
    else:
        grid = DenseGrid(resolutions, 2, generator_of(3))
        for level, ramp in zip(grid.levels, ramps):
            level.data = ramp
    grid.max_level = 0.625  # 1.25 of two levels
    if not kernel:
        monkeypatch.setattr(ops, "serves", lambda _tensor: False)
    found = total_variation(grid, places(50, 4))
    assert found.item() == pytest.approx((1 + 4 + 9) * (1 + 0.25**2) / 2 / 2)
    found.backward()
    assert sum(float(p.grad.abs().sum()) for p in grid.parameters() if p.grad is not None) > 0


def test_shared_rows_have_no_difference_to_themselves() -> None:
    """A hash may give both ends of an edge one row: nothing to smooth there, and nothing that cancels badly."""
    levels = Levels((40,), (1,), (1.0,), False)
    assert squares_twin(torch.ones(1, 2), places(9), levels).abs().max() == 0
    if ops.serves(torch.zeros(1)):
        assert grid_tv(torch.ones(1, 2), places(9), levels).abs().max() == 0
