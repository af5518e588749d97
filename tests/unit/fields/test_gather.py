"""Gathers, grids and levels against naive references and finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch

from engine.fields.dense_grid import DenseGrid
from engine.fields.gather import gather_dot, gather_sum, scatter_sum
from engine.fields.hash_grid import HashGrid
from engine.fields.levels import level_openness, level_resolutions
from engine.fields.trilinear import central_differences, resample


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=generator(seed), dtype=torch.float64)


def naive_trilinear(volume: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """volume [n, n, n, D], x [3] in [0, 1], written out corner by corner."""
    n = volume.shape[0]
    lower = [min(int(c * (n - 1)), n - 2) for c in x.tolist()]
    out = torch.zeros(volume.shape[3], dtype=volume.dtype)
    for corner in itertools.product((0, 1), repeat=3):
        weight = torch.ones((), dtype=volume.dtype)
        for axis in range(3):
            fraction = x[axis] * (n - 1) - lower[axis]
            weight = weight * (fraction if corner[axis] else 1 - fraction)
        out = out + weight * volume[tuple(lo + c for lo, c in zip(lower, corner))]
    return out


def test_gather_and_scatter_match_loops() -> None:
    table, weights = rand(11, 3), rand(4, 7, seed=1)
    rows = torch.randint(0, 11, (4, 7), generator=generator(2))
    values = rand(7, 3, seed=3)
    out, back, dot = torch.zeros(7, 3).double(), torch.zeros(11, 3).double(), torch.zeros(4, 7).double()
    for k, m in itertools.product(range(4), range(7)):
        out[m] += weights[k, m] * table[rows[k, m]]
        back[rows[k, m]] += weights[k, m] * values[m]
        dot[k, m] = table[rows[k, m]] @ values[m]
    torch.testing.assert_close(gather_sum(table, rows, weights), out)
    torch.testing.assert_close(scatter_sum(values, rows, weights, 11), back)
    torch.testing.assert_close(gather_dot(table, rows, values), dot)


def test_gather_and_scatter_gradients_to_second_order() -> None:
    table, weights, values = rand(6, 2).requires_grad_(), rand(3, 4, seed=1).requires_grad_(), rand(4, 2, seed=2).requires_grad_()
    rows = torch.tensor([[0, 1, 2, 2], [5, 5, 1, 2], [0, 3, 3, 1]])  # with repeats
    assert torch.autograd.gradcheck(lambda t, w: gather_sum(t, rows, w), (table, weights))
    assert torch.autograd.gradgradcheck(lambda t, w: gather_sum(t, rows, w), (table, weights))
    assert torch.autograd.gradcheck(lambda v, w: scatter_sum(v, rows, w, 6), (values, weights))
    assert torch.autograd.gradgradcheck(lambda v, w: scatter_sum(v, rows, w, 6), (values, weights))


def test_gather_of_no_samples_and_wrong_shapes() -> None:
    assert gather_sum(torch.zeros(5, 2), torch.zeros(8, 0, dtype=torch.int64), torch.zeros(8, 0)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"rows \[K, M\] int64"):
        gather_sum(torch.zeros(5, 2), torch.zeros(8, 3, dtype=torch.int32), torch.zeros(8, 3))


def test_dense_grid_is_the_sum_of_its_levels() -> None:
    """Nested resolutions: resampling a coarse level to a finer one loses nothing."""
    grid = DenseGrid((2, 4, 8), 3, generator()).double()
    for k, level in enumerate(grid.levels):
        level.data = rand(*level.shape, seed=k)
    x = torch.cat([rand(20, 3, seed=9), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 1.0, 0.25]]).double()])
    expected = torch.stack([sum(naive_trilinear(level.permute(1, 2, 3, 0), row) for level in grid.levels) for row in x])
    torch.testing.assert_close(grid(x), expected, atol=1e-12, rtol=0)


def test_dense_grid_gradients_match_finite_differences() -> None:
    grid = DenseGrid((2, 3), 2, generator()).double()
    x = (rand(5, 3, seed=1) * 0.2 + 0.1).requires_grad_()  # inside one cell, where the function is smooth
    coarse, fine = (rand(*level.shape, seed=k).requires_grad_() for k, level in enumerate(grid.levels))

    def features(a: torch.Tensor, b: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(grid, {"levels.0": a, "levels.1": b}, (at,))

    assert torch.autograd.gradcheck(features, (coarse, fine, x))


def naive_hash_grid(grid: HashGrid, x: torch.Tensor) -> torch.Tensor:
    """Instant NGP, section 3, one corner at a time; 32-bit arithmetic as in the paper's kernel."""
    out, offset = [], 0
    for n, size in zip(grid.resolutions, grid.sizes):
        features = torch.zeros(grid.features, dtype=grid.table.dtype)
        lower = [min(int(c * n), n - 1) for c in x.tolist()]
        for corner in itertools.product((0, 1), repeat=3):
            point = [lo + c for lo, c in zip(lower, corner)]
            weight = torch.ones((), dtype=x.dtype)
            for axis in range(3):
                fraction = x[axis] * n - lower[axis]
                weight = weight * (fraction if corner[axis] else 1 - fraction)
            if (n + 1) ** 3 <= size:
                row = (point[0] * (n + 1) + point[1]) * (n + 1) + point[2]
            else:
                row = 0
                for coordinate, prime in zip(point, (1, 2654435761, 805459861)):
                    row ^= coordinate * prime % 2**32
                row %= size
            features = features + weight * grid.table[offset + row]
        out.append(features)
        offset += size
    return torch.cat(out)


def test_hash_grid_forward_and_backward_match_the_naive_reference() -> None:
    grid = HashGrid((3, 6, 24), 2, 8, generator()).double()
    grid.table.data = rand(*grid.table.shape, seed=1)
    assert grid.sizes == (64, 256, 256)  # one dense level, two hashed
    x = rand(40, 3, seed=2)
    cotangent = torch.linspace(-1, 1, 40 * 6, dtype=torch.float64).reshape(40, 6)
    ours, naive = grid(x), torch.stack([naive_hash_grid(grid, row) for row in x])
    torch.testing.assert_close(ours, naive, atol=1e-12, rtol=0)
    (d_ours,), (d_naive,) = (torch.autograd.grad((out * cotangent).sum(), grid.table) for out in (ours, naive))
    torch.testing.assert_close(d_ours, d_naive, atol=1e-12, rtol=0)


def test_hash_grid_position_gradient_is_differentiable_in_the_table() -> None:
    grid = HashGrid((2, 5), 2, 8, generator()).double()
    x = (rand(4, 3, seed=3) * 0.15 + 0.02).requires_grad_()
    table = rand(*grid.table.shape, seed=4).requires_grad_()

    def features(t: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(grid, {"table": t}, (at,))

    # fast mode: random projections instead of every entry
    assert torch.autograd.gradcheck(features, (table, x), fast_mode=True)
    assert torch.autograd.gradgradcheck(features, (table, x), fast_mode=True)


@pytest.mark.parametrize("make", [lambda: DenseGrid((2, 4, 8, 16), 2, generator()), lambda: HashGrid((2, 4, 8, 16), 2, 10, generator())])
def test_levels_open_from_coarse_to_fine_and_closed_ones_get_no_gradient(make) -> None:
    grid = make()
    x = rand(50, 3).float()

    def moved_levels() -> list[bool]:
        grid.zero_grad()
        grid(x).sum().backward()
        if isinstance(grid, DenseGrid):
            return [bool(p.grad is not None and p.grad.abs().sum() > 0) for p in grid.levels]
        return [bool(part.abs().sum() > 0) for part in grid.table.grad.split(grid.sizes)]

    for max_level, opened in ((0.0, 1), (0.25, 1), (0.5, 2), (0.6, 3), (0.75, 3), (1.0, 4)):
        grid.max_level = max_level
        assert moved_levels() == [level < opened for level in range(4)], max_level


def test_opening_a_level_makes_no_jump() -> None:
    grid = DenseGrid((2, 4, 8), 2, generator())
    for level in grid.levels:
        level.data.normal_(generator=generator(5))
    x = rand(50, 3).float()
    values = []
    for fraction in torch.linspace(0.3, 1.0, 200).tolist():
        grid.max_level = fraction
        values.append(grid(x).detach())
    steps = torch.stack([(b - a).abs().max() for a, b in zip(values, values[1:])])
    assert steps.max() < 0.1 < (values[-1] - values[0]).abs().max()


def test_level_sizes_and_openness() -> None:
    assert level_resolutions(4, 8, 64) == (8, 16, 32, 64)
    assert level_resolutions(1, 8, 64) == (64,)
    # stable-dreamfusion's sixteen levels, for those who compare
    assert level_resolutions(16, 16, 2048)[-1] == 2048 and level_resolutions(16, 16, 2048)[5] in (80, 81)
    assert level_openness(4, 0.625) == (1.0, 1.0, 0.5, 0.0)


def test_resampling_keeps_linear_functions_and_differences_find_their_slope() -> None:
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    volume = 2 * x - 3 * y + 0.5 * z
    finer = resample(volume[None], 12)[0]
    axis = torch.linspace(-1, 1, 12, dtype=torch.float64)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    torch.testing.assert_close(finer, 2 * x - 3 * y + 0.5 * z)
    slope = torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64)[:, None, None, None].expand(3, 12, 12, 12)
    torch.testing.assert_close(central_differences(finer), slope)
