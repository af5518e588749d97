"""Marching against brute force, occupancy against what it must never do."""

from __future__ import annotations

import pytest
import torch

from engine.rendering.march import intersect_box, march, pack
from engine.rendering.occupancy import OccupancyGrid
from engine.scene.cameras import camera_rays, orbit_cameras


def ball(radius: float, density: float = 50.0, center: tuple[float, float, float] = (0.0, 0.0, 0.0)):
    return lambda x: density * ((x - torch.tensor(center)).norm(dim=-1) < radius).float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_rays(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(seed)
    rays_o = torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=-1) * 2.5
    rays_d = torch.nn.functional.normalize(torch.randn(n, 3, generator=g) * 0.6 - rays_o, dim=-1)
    return rays_o, rays_d


def grid_with(density_at, resolution: int = 16) -> OccupancyGrid:
    grid = OccupancyGrid(resolution)
    grid.update(density_at, 0, generator(9))
    return grid


def test_march_finds_what_brute_force_finds() -> None:
    grid = grid_with(ball(0.4, center=(0.3, -0.2, 0.1)))
    rays_o, rays_d = random_rays(200)
    step = 0.07
    found = march(rays_o, rays_d, grid, step)
    expected = []
    for ray in range(200):
        t = (torch.arange(100) + 0.5) * step
        inside = grid.occupied(rays_o[ray] + t[:, None] * rays_d[ray])
        expected += [(ray, value) for value in t[inside].tolist()]
    t_mids = 0.5 * (found.t_starts + found.t_ends)
    assert found.ray_indices.tolist() == [ray for ray, _ in expected]
    torch.testing.assert_close(t_mids, torch.tensor([t for _, t in expected]), atol=1e-5, rtol=0)


def test_samples_are_packed_in_ray_order_front_to_back() -> None:
    found = march(*random_rays(300, 1), grid_with(ball(0.5)), 0.05, generator=generator())
    counts = found.packed_info[:, 1]
    assert counts.sum() == len(found.ray_indices) > 1000 and (counts == 0).any()
    torch.testing.assert_close(torch.repeat_interleave(torch.arange(300), counts), found.ray_indices)
    torch.testing.assert_close(found.packed_info[:, 0], counts.cumsum(0) - counts)
    same_ray = found.ray_indices[1:] == found.ray_indices[:-1]
    assert (found.t_starts[1:][same_ray] >= found.t_ends[:-1][same_ray] - 1e-5).all()
    torch.testing.assert_close(found.t_ends - found.t_starts, torch.full_like(found.t_ends, 0.05), atol=1e-5, rtol=0)


def test_every_distance_is_equally_likely_under_jitter() -> None:
    rays_o = torch.tensor([[0.0, -3.0, 0.0]]).repeat(4000, 1)
    rays_d = torch.tensor([[0.0, 1.0, 0.0]]).repeat(4000, 1)
    found = march(rays_o, rays_d, OccupancyGrid(8), 0.25, generator=generator())
    t_mids = 0.5 * (found.t_starts + found.t_ends)
    assert 2.0 <= t_mids.min() and t_mids.max() <= 4.0
    histogram = torch.histc(t_mids, bins=16, min=2.0, max=4.0)
    assert (histogram / histogram.mean() - 1).abs().max() < 0.1
    assert abs(len(t_mids) * 0.25 / 4000 - 2.0) < 0.01  # the mean length of a ray in the box


def test_more_occupancy_moves_no_sample() -> None:
    small, large = grid_with(ball(0.3)), grid_with(ball(0.7))
    rays = random_rays(100, 2)
    few, many = (march(*rays, grid, 0.06, generator=generator(5)) for grid in (small, large))

    def keys(samples) -> set[tuple[int, float]]:
        return {(r, round(t, 4)) for r, t in zip(samples.ray_indices.tolist(), samples.t_starts.tolist())}

    assert keys(few) < keys(many)


def test_rays_that_miss_and_rays_along_an_axis() -> None:
    rays_o = torch.tensor([[0.0, -3.0, 5.0], [0.0, -3.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    rays_d = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    t_near, t_far = intersect_box(rays_o, rays_d, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert (t_far <= t_near).tolist() == [True, False, False, True]
    torch.testing.assert_close(t_near[1:3], torch.tensor([2.0, 0.0]))
    torch.testing.assert_close(t_far[1:3], torch.tensor([4.0, 1.0]))
    assert march(rays_o, rays_d, OccupancyGrid(8), 0.1).packed_info[:, 1].tolist() == [0, 20, 10, 0]
    # 2.2..4.2 holds the seven points 2.25, 2.55, ... 4.05, one more than the quotient of the lengths
    assert march(torch.tensor([[0.0, -3.2, 0.0]]), rays_d[1:2], OccupancyGrid(8), 0.3).packed_info.tolist() == [[0, 7]]
    nothing = march(rays_o[:1], rays_d[:1], OccupancyGrid(8), 0.1)
    assert nothing.ray_indices.shape == (0,) and nothing.packed_info.tolist() == [[0, 0]]


def test_wrong_rays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must both be \[R, 3\]"):
        march(torch.zeros(4, 3), torch.zeros(3, 3), OccupancyGrid(8), 0.1)
    with pytest.raises(ValueError, match="step_size must be > 0, got 0"):
        march(torch.zeros(4, 3), torch.zeros(4, 3), OccupancyGrid(8), 0)


@pytest.mark.parametrize("step", [0, 8])
def test_occupancy_never_drops_occupied_space(step: int) -> None:
    """A ball a few cells wide: whatever the jitter, each point inside it stays marked, at first sight and ever after."""
    density_at = ball(0.3, center=(0.21, -0.37, 0.05))
    inside = torch.rand(20000, 3, generator=generator(3)) * 2 - 1
    inside = inside[density_at(inside) > 0]
    grid = OccupancyGrid(20)
    draws = generator(4)
    for k in range(0, 6):
        grid.update(density_at, step * k, draws)
        assert grid.occupied(inside).all()
    assert grid.cells()[0].float().mean() < 0.15


def test_occupancy_forgets_what_is_gone_and_fits_its_box() -> None:
    grid = grid_with(ball(0.6), 16)
    wide = grid.bounds.clone()
    draws = generator(1)
    for step in range(1, 60):
        grid.update(ball(0.2), step, draws)
    assert grid.cells()[0].sum() < 0.2 * 16**3
    assert (grid.bounds.abs() < wide.abs()).all()
    where = grid.cells()[0].nonzero()
    torch.testing.assert_close(grid.bounds[0], where.amin(0) * (2 / 16) - 1)
    torch.testing.assert_close(grid.bounds[1], (where.amax(0) + 1) * (2 / 16) - 1)


def test_occupancy_of_nothing_keeps_everything() -> None:
    """An empty field must stay visible to the optimizer, or it could never come back."""
    assert grid_with(lambda x: torch.zeros(len(x))).cells().all()


def test_occupancy_outside_the_box_is_empty() -> None:
    assert OccupancyGrid(8).occupied(torch.tensor([[0.0, 0.0, 1.01], [0.0, 0.0, 0.99]])).tolist() == [False, True]


def test_occupancy_comes_back_from_its_state_dict() -> None:
    grid = grid_with(ball(0.5), 12)
    other = OccupancyGrid(12)
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other.cells(), grid.cells()) and torch.equal(other.bounds, grid.bounds)
    assert torch.equal(other.densities, grid.densities)


def test_pruned_and_full_marching_see_the_same_ball() -> None:
    cameras = orbit_cameras(torch.tensor([30.0]), torch.tensor([20.0]), torch.tensor([2.9]), torch.tensor([40.0]))
    rays_o, rays_d = camera_rays(cameras, 24, 24)
    density_at = ball(0.4)
    totals = []
    for grid in (grid_with(density_at), OccupancyGrid(16)):
        found = march(rays_o, rays_d, grid, 0.03)
        t_mids = 0.5 * (found.t_starts + found.t_ends)
        hit = density_at(rays_o[found.ray_indices] + t_mids[:, None] * rays_d[found.ray_indices]) > 0
        totals.append(pack(found.ray_indices[hit], len(rays_o))[:, 1])
    assert torch.equal(*totals) and totals[0].sum() > 1000
