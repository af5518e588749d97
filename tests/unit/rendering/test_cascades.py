"""Grids inside grids, and steps that grow with the distance: against brute force, kernels and twins alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cuda_ext import ops
from cuda_ext.cpu import find_kernels
from cuda_ext.ops_march import Lattice, lattice_of
from cuda_ext.ops_occupancy import occupancy_update
from engine.rendering.march import PackedSamples, _distance_at, _march_twin, _place_of, march
from engine.rendering.morton import unpack_cells
from engine.rendering.occupancy import OccupancyGrid
from engine.scene.cameras import camera_rays, orbit_cameras

HAS_KERNELS = find_kernels()[0] is not None
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="no library")


@pytest.fixture(params=[pytest.param(True, marks=needs_kernels), False], ids=["kernels", "twins"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(ops, "serves", lambda _tensor: False)
    return bool(request.param)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture_rays() -> tuple[Tensor, Tensor]:
    cameras = orbit_cameras(*(torch.tensor(value) for value in ([20.0, 170.0], [10.0, -60.0], [2.9, 3.0], [40.0, 45.0])))
    return camera_rays(cameras, 16, 16)


def thin_shell(radius: float = 0.4) -> Any:
    return lambda x: (x.norm(dim=-1) - radius).abs().lt(0.03).float() * 9


def grid(cascades: int, resolution: int = 16, density_at: Any = None) -> OccupancyGrid:
    occupancy = OccupancyGrid(resolution, cascades)
    occupancy.update(density_at or thin_shell(), 0, generator(1))
    return occupancy


def test_the_coarsest_cascade_draws_as_one_alone_does() -> None:
    """The same points first, so that one cascade of several is what it was."""
    alone, several = grid(1), grid(2)
    assert bool((several.densities[0] >= alone.densities[0]).all())
    assert torch.equal(several.densities[0, 0], alone.densities[0, 0])  # a face that no finer cascade reaches


def test_a_coarse_cell_is_never_less_than_the_finer_ones_in_it(kernels: bool) -> None:
    occupancy, draws = grid(3), generator(2)
    for step in range(3):
        occupancy.update(thin_shell(0.15 + 0.1 * step), step + 1, draws)
        cells, middle = occupancy.cells(), slice(4, 12)
        for coarse, fine in zip(range(2), range(1, 3)):
            in_each = torch.nn.functional.max_pool3d(cells[fine][None].float(), 2)[0].bool()
            assert bool((cells[coarse][middle, middle, middle] | ~in_each).all()) and in_each.any()


def test_finer_cells_leave_more_space_empty() -> None:
    points = torch.rand(20_000, 3, generator=generator(3)) - 0.5  # in the middle
    shares = [float(grid(cascades).occupied(points).float().mean()) for cascades in (1, 2)]
    assert shares[1] < 0.75 * shares[0]


def test_no_matter_is_ever_dropped(kernels: bool) -> None:
    """A ball that reaches through three cascades: whatever the jitter, each point inside it stays marked."""

    def density_at(x: Tensor) -> Tensor:
        return 50.0 * ((x - torch.tensor([0.3, -0.2, 0.1])).norm(dim=-1) < 0.5).float()

    inside = torch.rand(20_000, 3, generator=generator(3)) * 2 - 1
    inside = inside[density_at(inside) > 0]
    occupancy, draws = OccupancyGrid(20, 3), generator(4)
    for step in range(5):
        occupancy.update(density_at, step, draws)
        assert bool(occupancy.occupied(inside).all())
    assert occupancy.cells()[0].float().mean() < 0.3


def test_kernel_and_twin_update_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for on in (HAS_KERNELS, False):
        if not on:
            monkeypatch.setattr(ops, "serves", lambda _tensor: False)
        occupancy, draws = OccupancyGrid(12, 2), generator(5)
        for step in range(4):
            occupancy.update(thin_shell(), step, draws)
        results.append(occupancy.state_dict())
    for name, wanted in results[1].items():
        assert torch.equal(results[0][name], wanted), name


@pytest.mark.parametrize("step", [0.05, 0.11, 0.2])
def test_march_looks_into_the_finest_cascade_that_a_step_does_not_overstep(step: float, kernels: bool) -> None:
    occupancy = grid(3)  # cells of 0.125, 0.0625 and 0.03125
    rays_o, rays_d = picture_rays()
    found = march(rays_o, rays_d, occupancy, step)
    cells, wanted = occupancy.cells(), 0
    t_mids = (torch.arange(round(5 / step)) + 0.5) * step
    for at in rays_o[:, None] + t_mids[:, None] * rays_d[:, None]:
        reach = at.abs().amax(dim=-1)
        for cascade in (2, 1, 0):
            if cascade and step >= 0.125 / 2**cascade:
                continue
            here = reach < 2.0**-cascade
            place = ((at[here] * 2**cascade + 1) * 8).long().clamp(0, 15)
            wanted += int(cells[cascade][place.unbind(-1)].sum())
            reach = torch.where(here, 9.0, reach)  # each point is looked up once
    # A place on a cell's face may round to either side.
    assert wanted > 500 and abs(len(found.t_starts) - wanted) <= 3


@needs_kernels
@pytest.mark.parametrize("cascades", [1, 3])
@pytest.mark.parametrize("angle", [0.0, 0.02, 0.1])
def test_march_is_its_twin_in_double(cascades: int, angle: float) -> None:
    """No sample may differ: in double precision none of these lies on a face by rounding."""
    occupancy = grid(cascades)
    rays_o, rays_d = (rays.double() for rays in picture_rays())
    shifts = torch.rand(len(rays_o), generator=generator(6))  # as march draws them
    found = march(rays_o, rays_d, occupancy, 0.04, cone_angle=angle, generator=generator(6))
    wanted = _march_twin(rays_o, rays_d, shifts.double(), occupancy, lattice_of(0.04, angle, 16))
    assert torch.equal(found.packed_info, wanted.packed_info) and torch.equal(found.ray_indices, wanted.ray_indices)
    assert found.t_starts.dtype == torch.float64 and len(found.t_starts) > 400
    torch.testing.assert_close(found.t_starts, wanted.t_starts, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.t_ends, wanted.t_ends, rtol=0, atol=1e-12)


def coned(angle: float, **more: Any) -> PackedSamples:
    return march(*picture_rays(), OccupancyGrid(16), 0.03, cone_angle=angle, generator=generator(7), **more)


def test_steps_grow_with_the_distance_and_tile(kernels: bool) -> None:
    found = coned(0.02)
    lengths, t_mids = found.t_ends - found.t_starts, 0.5 * (found.t_starts + found.t_ends)
    torch.testing.assert_close(lengths, (0.02 * t_mids).clamp(min=0.03), rtol=1e-2, atol=0)
    same_ray = found.ray_indices[1:] == found.ray_indices[:-1]
    assert torch.equal(found.t_starts[1:][same_ray], found.t_ends[:-1][same_ray])  # to the bit: the grid is full
    assert 0.3 < len(t_mids) / len(coned(0.0).t_starts) < 0.7  # as far as 3, steps of 0.06 for 0.03


def test_a_step_is_at_most_two_cells(kernels: bool) -> None:
    found = coned(0.15)
    torch.testing.assert_close((found.t_ends - found.t_starts).max(), torch.tensor(0.25), rtol=1e-4, atol=0)


def test_without_a_step_that_grows_the_lattice_is_the_plain_one_to_the_bit(kernels: bool) -> None:
    plain = coned(0.0)
    for angle in (1e-9, 0.005):  # none, and one that would start to grow six units away
        for found, wanted in zip(coned(angle)[:4], plain):
            torch.testing.assert_close(found, wanted)
    assert lattice_of(0.03, 1e-9, 16) == lattice_of(0.03, 0.0, 16) and lattice_of(0.3, 0.1, 16) == lattice_of(0.3, 0.0, 16)
    assert all(torch.equal(found, wanted) for found, wanted in zip(coned(1e-9)[:4], plain))


def test_more_occupancy_moves_no_sample_of_a_cone(kernels: bool) -> None:
    few, many = (march(*picture_rays(), occupancy, 0.03, cone_angle=0.03) for occupancy in (grid(2), OccupancyGrid(16, 2)))

    def keys(samples: PackedSamples) -> set[tuple[int, float]]:
        return set(zip(samples.ray_indices.tolist(), samples.t_starts.tolist()))

    assert 0 < len(few.t_starts) < len(many.t_starts) and keys(few) < keys(many)


def test_a_fixed_number_of_a_cones_samples(kernels: bool) -> None:
    exact = coned(0.03)
    n = len(exact.t_starts)
    roomy, tight = coned(0.03, max_samples=n + 100), coned(0.03, max_samples=n // 3)
    for found, wanted in zip(roomy[:3], exact):
        assert torch.equal(found[:n], wanted)
    assert torch.equal(roomy.t_starts[n:], roomy.t_ends[n:]) and roomy.left_out == 0
    assert torch.equal(tight.packed_info[:, 1], exact.packed_info[:, 1] * (n // 3) // n)
    first, count = tight.packed_info[300].tolist()
    begin = int(exact.packed_info[300, 0])
    assert count and torch.equal(tight.t_ends[first : first + count], exact.t_ends[begin : begin + count])


def test_distances_and_places_are_each_others_inverse() -> None:
    lattice = lattice_of(0.03, 0.05, 16)
    u = torch.linspace(0, 120, 500, dtype=torch.float64)
    t = _distance_at(u, lattice)
    torch.testing.assert_close(_place_of(t, lattice), u)
    assert float(t.diff().min()) > 0
    growth = (t[1:] - t[:-1]) / (u[1:] - u[:-1])  # dt / du is what a step shall be
    wanted = (0.05 * 0.5 * (t[1:] + t[:-1])).clamp(0.03, 0.25)
    torch.testing.assert_close(growth, wanted, rtol=2e-3, atol=0)
    assert lattice == Lattice(0.03, 0.05, 0.25, math.log(0.25 / 0.03) / 0.05)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="cone_angle must be >= 0, got -1"):
        coned(-1)
    with pytest.raises(ValueError, match=r"cascades must be 1\.\.4, and 1 unless 4 divides the resolution, got 2 of 18"):
        OccupancyGrid(18, 2)
    with pytest.raises(ValueError, match=r"cascades must be 1\.\.4"):
        OccupancyGrid(16, 5)
    with pytest.raises(ValueError, match=r"resolution must be in 2\.\.256, got 257"):
        OccupancyGrid(257)


@pytest.mark.parametrize("cascades", [1, 2])
def test_a_state_of_bytes_of_before_still_loads(cascades: int) -> None:
    """A cell was a byte, and there was one cascade."""
    before = grid(1)
    state = {"densities": before.densities[0], "occupied_cells": before.cells()[0], "bounds": before.bounds}
    occupancy = OccupancyGrid(16, cascades)
    assert occupancy.fits(state) == (cascades == 1) and not OccupancyGrid(12).fits(state)
    if cascades == 1:
        occupancy.load_state_dict(state)
        assert set(state) == {"densities", "occupied_cells", "bounds"}  # the caller's own is left alone
        for name, wanted in before.state_dict().items():
            assert torch.equal(occupancy.state_dict()[name], wanted), name


@needs_kernels
def test_bits_that_do_not_fit_are_refused() -> None:
    from cuda_ext.ops_march import march as march_op

    rays_o, rays_d = picture_rays()
    occupancy = OccupancyGrid(16)
    for bits, resolution in ((occupancy.bits, 20), (occupancy.bits[0], 16), (occupancy.bits.char(), 16)):
        with pytest.raises(ValueError, match=r"bits must be \[1\.\.4, \d+\] uint8 for"):
            march_op(rays_o, rays_d, torch.zeros(len(rays_o)), occupancy.bounds, bits, resolution, 0.1)


@needs_kernels
@pytest.mark.parametrize("cascades", [1, 2])
def test_a_look_reads_nothing_back(cascades: int) -> None:
    """So that nobody waits for the device."""
    occupancy, read = OccupancyGrid(16, cascades), []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if str(function).split(".")[1] in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero"):
                read.append(str(function))
            return function(*args, **(kwargs or {}))

    with Reads():
        occupancy.update(thin_shell(), 1, generator(1))
    assert not read and not occupancy.cells().all()


@needs_kernels
def test_threads_do_not_change_a_look() -> None:
    """Their parts begin anywhere in a row of bytes."""
    before, found = torch.rand(2, 2, 37, 37, 37, generator=generator(8)) ** 4
    results, threads = [], torch.get_num_threads()
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            results.append(occupancy_update(before, found, 0.85, torch.tensor(0.9)))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*results):
        assert torch.equal(one, three)
    assert 0.1 < unpack_cells(results[0][1], 37).float().mean() < 0.9
