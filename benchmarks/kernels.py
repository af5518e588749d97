"""Each kernel against its twin in torch, on this CPU: medians of interleaved rounds, and their ratio.

    python -m benchmarks.kernels [--threads 2] [--rounds 9] [--only "march;composite"] [--compiled]

The twins are what runs without a library: gathers by embedding_bag, table gradients by scatter_add_ feature by feature, a march
trimmed to the occupied box. Samples are those of four 64-pixel views of a shell, in ray order. A round times both sides one after the
other, so that what else the machine does meets both. With one thread the times are this process's own processor milliseconds, which
mean something on a busy machine too; with more, the wall's. Hash grids: features forward, the table's gradient backward.
--compiled shows the twin under torch.compile beside them, where a C++ compiler is there; it takes a minute a case to compile.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in engine/__main__.py; spinning threads of torch would hold the second core

import argparse
import math
import platform
import shutil
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ext import ops
from cuda_ext.cpu import find_kernels
from cuda_ext.ops_adan import adan_step
from cuda_ext.ops_occupancy import occupancy_mark
from cuda_ext.ops_table import dense_table
from engine.fields.field import make_field, table_twin
from engine.fields.field_config import FieldConfig
from engine.fields.frequency import waves
from engine.fields.grid_variation import total_variation
from engine.fields.hash_grid import HashGrid
from engine.fields.levels import level_resolutions
from engine.rendering.composite import accumulate, weights_from_density
from engine.rendering.march import PackedSamples, _march_twin, march
from engine.rendering.occupancy import OccupancyGrid, _mark_twin
from engine.scene.cameras import camera_rays, orbit_cameras
from engine.training.adan import _twin_step
from engine.training.run_state import SMOOTH_PLACES

Sides = tuple[Callable[[], object], Callable[[], object]]
N_HASH_SAMPLES = 65_536
BARS = {"hash 8 x 2^15": 12.0, "hash 16 x 2^19": 4.0, "composite": 10.0, "march": 2.0}
"""What was asked for, two threads on a quiet machine, from a study whose twins were four times slower than these."""


def shell_rays(step_size: float = 2 * math.sqrt(3) / 512) -> tuple[Tensor, Tensor, OccupancyGrid, float]:
    """Rays of four views of 64 px, and a 128^3 grid in which a thin ball's shell is occupied."""
    occupancy = OccupancyGrid(128)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.6).abs().lt(0.02).float(), 0, torch.Generator().manual_seed(0))
    angles = torch.tensor([0.0, 90.0, 180.0, 270.0])
    cameras = orbit_cameras(angles, torch.full((4,), 20.0), torch.full((4,), 2.9), torch.full((4,), 40.0))
    return *camera_rays(cameras, 64, 64), occupancy, step_size


def shell_samples() -> tuple[PackedSamples, Tensor]:
    """Samples and their positions [M, 3]."""
    rays_o, rays_d, occupancy, step_size = shell_rays()
    samples = march(rays_o, rays_d, occupancy, step_size)
    t_mids = (samples.t_starts + samples.t_ends) / 2
    return samples, rays_o[samples.ray_indices] + t_mids[:, None] * rays_d[samples.ray_indices]


def hash_grid(n_levels: int, log2_size: int, finest: int) -> Sides:
    grid = HashGrid(level_resolutions(n_levels, 16, finest), 2, log2_size, torch.Generator().manual_seed(0))
    at = shell_samples()[1][:N_HASH_SAMPLES] * 0.5 + 0.5
    cotangent = torch.randn(len(at), grid.n_features)

    def both_ways(forward: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(at), grid.table, cotangent)

    return both_ways(grid), both_ways(grid.forward_twin)


def without_kernels(run: Callable[[], object]) -> Callable[[], object]:
    """The same, by the twins."""
    kernel = ops.serves

    def twins() -> object:
        ops.serves = lambda _tensor: False  # type: ignore[assignment]
        try:
            return run()
        finally:
            ops.serves = kernel

    return twins


def grid_variation(n_levels: int, log2_size: int, finest: int) -> Sides:
    """At as many places as a step of training takes."""
    grid, positions = HashGrid(level_resolutions(n_levels, 16, finest), 2, log2_size, torch.Generator().manual_seed(0)), shell_samples()[1]
    chosen = torch.randint(len(positions), (SMOOTH_PLACES,), generator=torch.Generator().manual_seed(1))
    at = positions[chosen] * 0.5 + 0.5

    def both_ways() -> object:
        return torch.autograd.grad(total_variation(grid, at), grid.table)

    return both_ways, without_kernels(both_ways)


def composite() -> Sides:
    samples, _ = shell_samples()
    n, n_rays, deltas = len(samples.t_starts), len(samples.packed_info), samples.t_ends - samples.t_starts
    densities, values = (torch.rand(n) * 20).requires_grad_(), torch.rand(n, 5).requires_grad_()
    cotangents = torch.randn(n), torch.randn(n_rays, 5)

    def twin() -> tuple[Tensor, Tensor]:
        weights, _ = weights_from_density(densities, deltas, samples.packed_info)
        return weights, accumulate(weights, values, samples.ray_indices, n_rays)

    def both_ways(forward: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(), (densities, values), cotangents)

    return both_ways(lambda: ops.composite(densities, deltas, values, samples.packed_info)), both_ways(twin)


def marching() -> Sides:
    rays_o, rays_d, occupancy, step_size = shell_rays()
    shifts = torch.full((len(rays_o),), 0.5)
    return (
        lambda: ops.march(rays_o, rays_d, shifts, occupancy.bounds, occupancy.occupied_cells, step_size),
        lambda: _march_twin(rays_o, rays_d, shifts, occupancy, step_size),
    )


def table_layout() -> Sides:
    volume, cotangent = torch.randn(4, 65, 65, 65).requires_grad_(), torch.randn(65**3, 7)
    return (
        lambda: torch.autograd.grad(dense_table(volume, 10.0, with_gradient=True), volume, cotangent),
        lambda: torch.autograd.grad(table_twin(volume, 10.0, with_gradient=True), volume, cotangent),
    )


def dense_field() -> Sides:
    """The draft's field at the samples of a step, from its levels to density, color and normal, and back to the levels."""
    field, positions = make_field(FieldConfig(), torch.Generator().manual_seed(0)), shell_samples()[1][:N_HASH_SAMPLES]

    def look() -> object:
        found = field.evaluate(positions, with_normals=True)
        assert found.normals is not None
        total = found.densities.sum() + found.albedo.sum() + found.normals.sum()
        return torch.autograd.grad(total, list(field.encoding.parameters()))

    return look, without_kernels(look)


def frequency(n_bands: int, *, both_ways: bool) -> Sides:
    """Waves of positions and the gradient in them; or forward alone, as a learned background has it."""
    x, cotangent = shell_samples()[1][:N_HASH_SAMPLES].clone().requires_grad_(both_ways), torch.randn(N_HASH_SAMPLES, 3 + 6 * n_bands)

    def run() -> object:
        features = waves(x, (1.0,) * n_bands)
        return torch.autograd.grad(features, x, cotangent) if both_ways else features

    return run, without_kernels(run)


def frequency_field() -> Sides:
    """A whole field of six bands and a network of 64: density, color and normals, and back to the network."""
    config = FieldConfig(encoding="frequency", n_levels=6, hidden_width=64)
    field, positions = make_field(config, torch.Generator().manual_seed(0)), shell_samples()[1][:N_HASH_SAMPLES]

    def look() -> object:
        found = field.evaluate(positions, with_normals=True)
        assert found.normals is not None
        total = found.densities.sum() + found.albedo.sum() + found.normals.sum()
        return torch.autograd.grad(total, list(field.decoder.parameters()), allow_unused=True)

    return look, without_kernels(look)


def occupancy_marks() -> Sides:
    densities, threshold = torch.rand(128, 128, 128), torch.tensor(0.97)
    return lambda: occupancy_mark(densities, threshold), lambda: _mark_twin(densities, threshold)


def adan() -> Sides:
    """A step on the full hash grid's 12 million numbers."""
    grad, tensors = torch.randn(12_000_000), [torch.rand(12_000_000) for _ in range(5)]
    p, *moments = tensors
    group = {"betas": (0.98, 0.92, 0.99), "lr": 1e-3, "eps": 1e-8, "weight_decay": 0.0}
    state = (moments[0], moments[1], moments[2], moments[3])
    return (
        lambda: adan_step(p, grad, state, (0.98, 0.92, 0.99), 5, 1e-3, 1e-8, 0.0),
        lambda: _twin_step(p, grad, state, group, 5),
    )


CASES: dict[str, Callable[[], Sides]] = {
    "hash 8 x 2^15": lambda: hash_grid(8, 15, 512),
    "hash 16 x 2^19": lambda: hash_grid(16, 19, 2048),
    "grid variation, 8 x 2^15": lambda: grid_variation(8, 15, 512),
    "grid variation, 16 x 2^19": lambda: grid_variation(16, 19, 2048),
    "composite": composite,
    "march": marching,
    "dense table": table_layout,
    "dense field": dense_field,
    "frequency, 6 bands": lambda: frequency(6, both_ways=True),
    "frequency, 12 bands": lambda: frequency(12, both_ways=True),
    "frequency, 4 bands, forward": lambda: frequency(4, both_ways=False),
    "frequency field": frequency_field,
    "occupancy, 128^3": occupancy_marks,
    "Adan, 12 M numbers": adan,
}


def milliseconds(run: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    run()
    return 1e3 * (now() - start)


def compiled(twin: Callable[[], object], now: Callable[[], float], rounds: int) -> str:
    """Best milliseconds of the twin under torch.compile, or a dash and why not."""
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        return "- (no C++ compiler)"
    torch._dynamo.reset()
    run = torch.compile(twin)
    try:
        run()  # compiles
        return f"{min(milliseconds(run, now) for _ in range(rounds)):.2f}"
    except (RuntimeError, AssertionError) as error:  # torch's own names for what it cannot compile
        return f"- ({type(error).__name__})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=";".join(CASES), help="cases, with ; between")
    parser.add_argument("--compiled", action="store_true", help="show the twin under torch.compile too")
    arguments = parser.parse_args()
    kernels, reason = find_kernels()
    if kernels is None:
        parser.exit(1, f"There are no kernels to time: {reason}.\n")
    torch.set_num_threads(arguments.threads)
    now = time.process_time if arguments.threads == 1 else time.perf_counter
    print(f"torch {torch.__version__}, {platform.machine()}, {arguments.threads} thread(s), {arguments.rounds} rounds, {reason}")
    print(
        "\n| case | kernel ms | twin ms | ratio of medians | ratio of minima | bar | load | compiled twin ms |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in arguments.only.split(";"):
        sides = CASES[name]()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(arguments.rounds + 1):  # the first warms up
            for side, run in zip(times, sides):
                side.append(milliseconds(run, now))
        ours, theirs = (side[1:] for side in times)
        medians, minima = (statistics.median(ours), statistics.median(theirs)), (min(ours), min(theirs))
        beside = compiled(sides[1], now, arguments.rounds) if arguments.compiled else "not asked for"
        bar = f">= {BARS[name]:g}" if name in BARS else ""
        print(
            f"| {name} | {medians[0]:.2f} | {medians[1]:.2f} | {medians[1] / medians[0]:.1f} | {minima[1] / minima[0]:.1f} | {bar} "
            f"| {os.getloadavg()[0]:.1f} | {beside} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
