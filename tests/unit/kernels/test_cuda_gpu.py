"""On a real NVIDIA GPU: every kernel against its twin, on side streams, in a CUDA graph, from the disk in a second process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cuda_ext import ops
from cuda_ext.cuda import find_cuda_kernels
from cuda_ext.ops_march import lattice_of
from engine.rendering.march import _march_twin, march
from engine.rendering.occupancy import OccupancyGrid
from engine.scene.cameras import camera_rays, orbit_cameras
from tests.unit.kernels.cases import CASES, generator_of

pytestmark = [
    pytest.mark.needs_cuda,
    pytest.mark.skipif(torch.version.cuda is None or not torch.cuda.is_available(), reason="torch sees no NVIDIA GPU"),
]
GPU = torch.device("cuda:0")


def test_there_are_kernels_for_this_gpu() -> None:
    """Everything below would compare twins with twins without them."""
    kernels, reason = find_cuda_kernels(0)
    assert kernels is not None, reason
    assert ops.serves(torch.zeros(1, device=GPU))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_operator_is_its_twin(name: str, dtype: torch.dtype) -> None:
    found, wanted = (CASES[name](GPU, dtype, kernel=kernel) for kernel in (True, False))
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-7}
    for found_part, wanted_part in zip(found, wanted, strict=True):
        torch.testing.assert_close(found_part, wanted_part, **tolerance)


def test_march_is_its_twin() -> None:
    occupancy = OccupancyGrid(64).to(GPU)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.5).abs().lt(0.1).float(), 0, generator_of(1))
    cameras = orbit_cameras(*(torch.tensor(value) for value in ([20.0, 170.0], [10.0, -60.0], [2.9, 3.0], [40.0, 45.0])))
    rays_o, rays_d = (rays.to(GPU) for rays in camera_rays(cameras, 64, 64))
    found = march(rays_o, rays_d, occupancy, 0.03)
    wanted = _march_twin(rays_o, rays_d, torch.full((rays_o.shape[0],), 0.5, device=GPU), occupancy, lattice_of(0.03, 0.0, 64))
    keys = [set(zip(s.ray_indices.tolist(), (s.t_starts / 0.03).round(decimals=2).tolist())) for s in (found, wanted)]
    # A place on a cell's face may round to either side.
    assert len(keys[1]) > 10_000 and len(keys[0] ^ keys[1]) <= len(keys[1]) // 1000


@pytest.mark.parametrize("cascades", [1, 3])
@pytest.mark.parametrize("angle", [0.0, 0.05])
def test_march_in_cascades_with_growing_steps_is_its_twin(cascades: int, angle: float) -> None:
    occupancy = OccupancyGrid(64, cascades).to(GPU)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.5).abs().lt(0.1).float(), 0, generator_of(1))
    cameras = orbit_cameras(*(torch.tensor(value) for value in ([20.0, 170.0], [10.0, -60.0], [2.9, 3.0], [40.0, 45.0])))
    rays_o, rays_d = (rays.to(GPU).double() for rays in camera_rays(cameras, 64, 64))
    found = march(rays_o, rays_d, occupancy, 0.01, cone_angle=angle)
    shifts = torch.full((rays_o.shape[0],), 0.5, device=GPU, dtype=torch.float64)
    wanted = _march_twin(rays_o, rays_d, shifts, occupancy, lattice_of(0.01, angle, 64))
    assert len(found.t_starts) > 5_000 and torch.equal(found.packed_info, wanted.packed_info)
    torch.testing.assert_close(found.t_ends, wanted.t_ends, rtol=0, atol=1e-12)


def test_kernels_wait_for_their_own_stream() -> None:
    """A launch on the default stream would read the values before the side stream has filled them."""
    n = 1 << 20
    packed_info = torch.stack([torch.arange(n), torch.ones(n, dtype=torch.int64)], dim=-1).to(GPU)
    values, densities, deltas = torch.zeros(n, 1, device=GPU), torch.full((n,), 2.0, device=GPU), torch.full((n,), 0.5, device=GPU)
    find_cuda_kernels(0)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        values.fill_(1.0)
        _, sums = ops.composite(densities, deltas, values, packed_info)
    side.synchronize()
    torch.testing.assert_close(sums, torch.full_like(sums, 0.6321206))


def test_graph_replays_forward_and_backward() -> None:
    table = (torch.randn(27, 7, generator=generator_of(6)) * 0.3).to(GPU).requires_grad_()
    positions = (torch.rand(5000, 3, generator=generator_of(7)) * 1.8 - 0.9).to(GPU)

    def step() -> torch.Tensor:
        densities, albedo, normals = ops.dense_field(table, 3, positions, "softplus", 2.0, 4.0, 0.5, 1e-5)
        (grad,) = torch.autograd.grad(densities.sum() + albedo.square().sum() + normals[:, 0].sum(), table)
        return grad

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # the first run loads the kernels, which a recording does not allow
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step()
    with torch.no_grad():
        table.mul_(0.5)
        positions.mul_(-1.0)
    graph.replay()
    torch.testing.assert_close(recorded, step(), rtol=1e-4, atol=1e-4)


def test_graph_replays_a_march_of_fixed_size_with_what_rays_meet_then() -> None:
    """Marching waits for nobody; a recorded one follows new rays and a new occupancy."""
    occupancy = OccupancyGrid(64).to(GPU)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.5).abs().lt(0.1).float(), 0, generator_of(1))
    cameras = orbit_cameras(*(torch.tensor([value]) for value in (20.0, 10.0, 2.9, 40.0)))
    rays_o, rays_d = (rays.to(GPU) for rays in camera_rays(cameras, 64, 64))

    def step() -> tuple[torch.Tensor, ...]:
        samples = march(rays_o, rays_d, occupancy, 0.03, max_samples=60_000)
        densities = torch.ones_like(samples.t_starts)
        _, sums = ops.composite(densities, samples.t_ends - samples.t_starts, densities[:, None], samples.packed_info)
        return samples.t_starts, samples.packed_info, sums

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    rays_o.neg_(), rays_d.neg_()
    graph.replay()
    for found, wanted in zip(recorded, step(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_second_gpu_has_its_own_kernels() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    with torch.cuda.device(0):
        second = CASES["composite"](torch.device("cuda:1"), torch.float32, kernel=True)
    for found, wanted in zip(second, CASES["composite"](GPU, torch.float32, kernel=True), strict=True):
        torch.testing.assert_close(found.cpu(), wanted.cpu())


def test_second_process_compiles_nothing(tmp_path: Path) -> None:
    import os

    code = "from cuda_ext.cuda import find_cuda_kernels; print(find_cuda_kernels(0)[1])"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    ]
    assert runs[0].strip().endswith("compiled now") and runs[1].strip().endswith("from the cache")
