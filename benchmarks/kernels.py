"""Each kernel against its twin in torch, on this CPU or GPU: medians of interleaved rounds, and their ratio.

    python -m benchmarks.kernels [--device cuda] [--threads 2] [--rounds 9] [--only "march;composite"] [--compiled]

The twins are what runs without a library: gathers by embedding_bag, table gradients by scatter_add_ feature by feature, a march
trimmed to the occupied box. Samples are those of four 64-pixel views of a shell, in ray order. A round times both sides one after the
other, so that what else the machine does meets both. With one thread the times are this process's own processor milliseconds, which
mean something on a busy machine too; with more, the wall's. Hash grids: features forward, the table's gradient backward.
--compiled shows the twin under torch.compile beside them, where a C++ compiler is there; it takes a minute a case to compile.
The bytes are those that no way of computing the same can save: what is given is read once, what is asked for written once. Their share of
a copy's speed, measured here, is how much of the memory's bandwidth a kernel reaches, autograd and allocations included.
On an NVIDIA GPU a round is REPEATS calls in a row, and a second table has other engines' kernels beside ours, see `rivals.py`; on a CPU
it has hash grids and compositing in Numba and Warp, after `pip install numba warp-lang`, which nothing else here asks for.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in engine/__main__.py; spinning threads of torch would hold the second core

import argparse
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import trimesh
from torch import Tensor

from benchmarks.floor import copy_rate, wait
from benchmarks.rivals import print_rivals
from benchmarks.shell import shell_rays, shell_samples
from cuda_ext import ops
from cuda_ext.ops_adan import adan_step
from cuda_ext.ops_march import lattice_of, march
from cuda_ext.ops_occupancy import occupancy_update
from cuda_ext.ops_raster import raster_fragments, raster_nearest
from cuda_ext.ops_table import dense_table
from engine.fields.field import RadianceField, make_field, table_twin
from engine.fields.field_config import FieldConfig
from engine.fields.frequency import waves
from engine.fields.grid_variation import total_variation
from engine.fields.hash_grid import HashGrid
from engine.fields.levels import level_resolutions
from engine.fields.spherical_harmonics import harmonics
from engine.meshing.raster import NEAR, _fragments_twin, _nearest_twin, project
from engine.rendering.composite import accumulate, weights_from_density
from engine.rendering.march import _march_twin
from engine.rendering.occupancy import _update_twin
from engine.scene.cameras import orbit_cameras
from engine.training.adan import _twin_step
from engine.training.run_state import SMOOTH_PLACES

N_HASH_SAMPLES = 65_536
# So that a GPU is not measured waiting for each launch.
REPEATS = 20
BARS = {"hash 8 x 2^15": 12.0, "hash 16 x 2^19": 4.0, "composite": 10.0, "march": 2.0}
"""What was asked for, two threads on a quiet CPU, from a study whose twins were four times slower than these."""


class Sides(NamedTuple):
    """A kernel, its twin, and the least bytes that either must read and write."""

    kernel: Callable[[], object]
    twin: Callable[[], object]
    n_bytes: int


def size_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def hash_grid(device: torch.device, n_levels: int, log2_size: int, finest: int, *, is_half: bool = False) -> Sides:
    """is_half: read in half precision; making the copy that is read is part of both sides."""
    resolutions, generator = level_resolutions(n_levels, 16, finest), torch.Generator().manual_seed(0)
    grid = HashGrid(resolutions, 2, log2_size, generator, is_half=is_half).to(device)
    at = shell_samples(device)[1][:N_HASH_SAMPLES] * 0.5 + 0.5
    cotangent = torch.randn(len(at), grid.n_features, device=device)

    def both_ways(forward: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(at), grid.table, cotangent)

    # Twice the positions, features out and their gradient in; of the table what is read (no row twice), and its gradient, zeros included.
    read = sum(min(size, 8 * len(at)) for size in grid.sizes) * grid.features * (2 if is_half else grid.table.element_size())
    if (mirror := grid.mirror()) is not None:
        read += size_of(grid.table, mirror)
    return Sides(both_ways(grid), both_ways(grid.forward_twin), 2 * size_of(at, cotangent) + read + size_of(grid.table))


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


def grid_variation(device: torch.device, n_levels: int, log2_size: int, finest: int) -> Sides:
    """At as many places as a step of training takes."""
    grid = HashGrid(level_resolutions(n_levels, 16, finest), 2, log2_size, torch.Generator().manual_seed(0)).to(device)
    positions = shell_samples(device)[1]
    chosen = torch.randint(len(positions), (SMOOTH_PLACES,), generator=torch.Generator().manual_seed(1)).to(device)
    at = positions[chosen] * 0.5 + 0.5

    def both_ways() -> object:
        return torch.autograd.grad(total_variation(grid, at), grid.table)

    # Four rows a level and place (a corner and its three neighbors), on both ways, and the whole table's gradient.
    rows = sum(min(size, 4 * len(at)) for size in grid.sizes) * grid.features * grid.table.element_size()
    return Sides(both_ways, without_kernels(both_ways), 2 * (size_of(at) + rows) + size_of(grid.table))


def composite(device: torch.device) -> Sides:
    samples, _ = shell_samples(device)
    n, n_rays, deltas = len(samples.t_starts), len(samples.packed_info), samples.t_ends - samples.t_starts
    densities, values = (torch.rand(n, device=device) * 20).requires_grad_(), torch.rand(n, 5, device=device).requires_grad_()
    cotangents = torch.randn(n, device=device), torch.randn(n_rays, 5, device=device)

    def twin() -> tuple[Tensor, Tensor]:
        weights, _ = weights_from_density(densities, deltas, samples.packed_info)
        return weights, accumulate(weights, values, samples.ray_indices, n_rays)

    def both_ways(forward: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(), (densities, values), cotangents)

    # Inputs are read on both ways; weights and sums written and their gradients read; gradients of densities and values written.
    n_bytes = 2 * size_of(densities, deltas, values, samples.packed_info, *cotangents) + size_of(densities, values)
    return Sides(both_ways(lambda: ops.composite(densities, deltas, values, samples.packed_info)), both_ways(twin), n_bytes)


def marching(device: torch.device, cascades: int = 1, angle: float = 0.0) -> Sides:
    rays_o, rays_d, occupancy, step_size = shell_rays(device, cascades)
    shifts = torch.full((len(rays_o),), 0.5, device=device)
    given, resolution = (rays_o, rays_d, shifts, occupancy.bounds, occupancy.bits), occupancy.resolution
    return Sides(
        lambda: march(*given, resolution, step_size, angle),
        lambda: _march_twin(rays_o, rays_d, shifts, occupancy, lattice_of(step_size, angle, resolution)),
        size_of(*given, *march(*given, resolution, step_size, angle)),
    )


def table_layout(device: torch.device) -> Sides:
    volume, cotangent = torch.randn(4, 65, 65, 65, device=device).requires_grad_(), torch.randn(65**3, 7, device=device)
    return Sides(
        lambda: torch.autograd.grad(dense_table(volume, 10.0, with_gradient=True), volume, cotangent),
        lambda: torch.autograd.grad(table_twin(volume, 10.0, with_gradient=True), volume, cotangent),
        2 * size_of(volume, cotangent),
    )


def dense_field(device: torch.device) -> Sides:
    """The draft's field at the samples of a step, from its levels to density, color and normal, and back to the levels."""
    field = make_field(FieldConfig(), torch.Generator().manual_seed(0)).to(device)
    positions, levels = shell_samples(device)[1][:N_HASH_SAMPLES], list(field.encoding.parameters())

    def look() -> object:
        return torch.autograd.grad(_seen(field, positions), levels)

    # Levels and their gradient; twice the positions; density, colour and normal written, read once more on the way back.
    n_bytes = 2 * (size_of(*levels) + size_of(positions) + 7 * 4 * len(positions))
    return Sides(look, without_kernels(look), n_bytes)


def _seen(field: RadianceField, positions: Tensor) -> Tensor:
    """One number that depends on all that a lit step asks of a field."""
    found = field.evaluate(positions, with_normals=True)
    assert found.normals is not None
    return found.densities.sum() + found.albedo.sum() + found.normals.sum()


def frequency(device: torch.device, n_bands: int, *, both_ways: bool) -> Sides:
    """Waves of positions and the gradient in them; or forward alone, as a learned background has it."""
    x = shell_samples(device)[1][:N_HASH_SAMPLES].clone().requires_grad_(both_ways)
    cotangent = torch.randn(N_HASH_SAMPLES, 3 + 6 * n_bands, device=device)

    def run() -> object:
        features = waves(x, (1.0,) * n_bands)
        return torch.autograd.grad(features, x, cotangent) if both_ways else features

    # Positions in, waves out; on the way back waves, their gradient and the positions' gradient.
    return Sides(run, without_kernels(run), size_of(x, cotangent) + both_ways * (2 * size_of(cotangent) + size_of(x)))


def frequency_field(device: torch.device) -> Sides:
    """A whole field of six bands and a network of 64: density, color and normals, and back to the network."""
    config = FieldConfig(encoding="frequency", n_levels=6, hidden_width=64)
    field = make_field(config, torch.Generator().manual_seed(0)).to(device)
    positions, weights = shell_samples(device)[1][:N_HASH_SAMPLES], list(field.decoder.parameters())

    def look() -> object:
        return torch.autograd.grad(_seen(field, positions), weights, allow_unused=True)

    # What enters and leaves; the network's layers are torch's on both sides.
    return Sides(look, without_kernels(look), 2 * (size_of(positions) + 7 * 4 * len(positions)))


def spherical(device: torch.device, degree: int, *, both_ways: bool) -> Sides:
    """Spherical harmonics of directions and the gradient in them; or forward alone, as a learned background has it."""
    x = torch.nn.functional.normalize(shell_samples(device)[1][:N_HASH_SAMPLES], dim=-1).requires_grad_(both_ways)
    cotangent = torch.randn(N_HASH_SAMPLES, degree**2, device=device)

    def run() -> object:
        features = harmonics(x, degree)
        return torch.autograd.grad(features, x, cotangent) if both_ways else features

    # Directions in, features out; on the way back directions, the features' gradient and the directions' gradient.
    return Sides(run, without_kernels(run), size_of(x, cotangent) + both_ways * (size_of(cotangent) + 2 * size_of(x)))


def occupancy_look(device: torch.device) -> Sides:
    before, found = torch.rand(2, 1, 128, 128, 128, device=device)
    given = before, found, 0.85, torch.tensor(0.97, device=device)
    n_bytes = size_of(before, found, *occupancy_update(*given))
    return Sides(lambda: occupancy_update(*given), lambda: _update_twin(*given), n_bytes)


def raster_view(device: torch.device) -> Sides:
    """The nearest triangles of a ball of 82 000, at 512 x 512, as the mesh stage looks at one in each view."""
    ball = trimesh.creation.icosphere(subdivisions=6, radius=0.8)
    cameras = orbit_cameras(*(torch.tensor([number]) for number in (20.0, 15.0, 3.0, 40.0)))
    pixels, depths = (torch.from_numpy(part[0][ball.faces]).to(device) for part in project(ball.vertices, cameras, 512, 512))
    flat = pixels.cpu().numpy(), depths.cpu().numpy()
    found = raster_nearest(pixels, depths, 512, 512, orthographic=False, near=NEAR)
    return Sides(
        lambda: raster_nearest(pixels, depths, 512, 512, orthographic=False, near=NEAR),
        lambda: _nearest_twin(*flat, 512, 512, False),
        size_of(pixels, depths, *found),
    )


def raster_texture(device: torch.device) -> Sides:
    """Every point of a UV map of 10 082 triangles at which a texture of 1024 x 1024 is asked, four a texel."""
    n, size = 71, 2048
    points = torch.stack(torch.meshgrid(*[torch.linspace(20, size - 20, n + 1, dtype=torch.float64)] * 2, indexing="ij"), dim=-1)
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    corners = torch.cat([torch.stack(three, dim=2).reshape(-1, 3, 2) for three in ((a, b, c), (a, c, d))]).to(device)
    flat = corners.cpu().numpy()
    n_bytes = size_of(corners, *raster_fragments(corners, size, size))
    return Sides(lambda: raster_fragments(corners, size, size), lambda: _fragments_twin(flat, size, size), n_bytes)


def adan(device: torch.device) -> Sides:
    """A step on the full hash grid's 12 million numbers."""
    grad, tensors = torch.randn(12_000_000, device=device), [torch.rand(12_000_000, device=device) for _ in range(5)]
    p, *moments = tensors
    group = {"betas": (0.98, 0.92, 0.99), "lr": 1e-3, "eps": 1e-8, "weight_decay": 0.0}
    state = (moments[0], moments[1], moments[2], moments[3])
    return Sides(
        lambda: adan_step(p, grad, state, (0.98, 0.92, 0.99), 5, 1e-3, 1e-8, 0.0),
        lambda: _twin_step(p, grad, state, group, 5),
        size_of(grad) + 2 * size_of(*tensors),
    )


CASES: dict[str, Callable[[torch.device], Sides]] = {
    "hash 8 x 2^15": lambda device: hash_grid(device, 8, 15, 512),
    "hash 16 x 2^19": lambda device: hash_grid(device, 16, 19, 2048),
    "hash 8 x 2^15, half table": lambda device: hash_grid(device, 8, 15, 512, is_half=True),
    "hash 16 x 2^19, half table": lambda device: hash_grid(device, 16, 19, 2048, is_half=True),
    "grid variation, 8 x 2^15": lambda device: grid_variation(device, 8, 15, 512),
    "grid variation, 16 x 2^19": lambda device: grid_variation(device, 16, 19, 2048),
    "composite": composite,
    "march": marching,
    "march, 2 cascades": lambda device: marching(device, 2),
    "march, 2 cascades, cone of 1/256": lambda device: marching(device, 2, 1 / 256),
    "dense table": table_layout,
    "dense field": dense_field,
    "frequency, 6 bands": lambda device: frequency(device, 6, both_ways=True),
    "frequency, 12 bands": lambda device: frequency(device, 12, both_ways=True),
    "frequency, 4 bands, forward": lambda device: frequency(device, 4, both_ways=False),
    "frequency field": frequency_field,
    "spherical, degree 4": lambda device: spherical(device, 4, both_ways=True),
    "spherical, degree 8": lambda device: spherical(device, 8, both_ways=True),
    "spherical, degree 3, forward": lambda device: spherical(device, 3, both_ways=False),
    "occupancy, 128^3": occupancy_look,
    "Adan, 12 M numbers": adan,
    "raster, 82 000 triangles at 512^2": raster_view,
    "raster, a UV map at 2048^2": raster_texture,
}


def milliseconds(run: Callable[[], object], now: Callable[[], float], device: torch.device) -> float:
    """Of one call; on a GPU a mean over several that wait for nobody."""
    repeats = REPEATS if device.type == "cuda" else 1
    wait(device)
    start = now()
    for _ in range(repeats):
        run()
    wait(device)
    return 1e3 * (now() - start) / repeats


def compiled(twin: Callable[[], object], now: Callable[[], float], rounds: int, device: torch.device) -> str:
    """Best milliseconds of the twin under torch.compile, or a dash and why not."""
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        return "- (no C++ compiler)"
    torch._dynamo.reset()
    run = torch.compile(twin)
    try:
        run()  # compiles
        return f"{min(milliseconds(run, now, device) for _ in range(rounds)):.2f}"
    except (RuntimeError, AssertionError) as error:  # torch's own names for what it cannot compile
        return f"- ({type(error).__name__})"


def times_of(*sides: Callable[[], object], rounds: int, now: Callable[[], float], device: torch.device) -> list[list[float]]:
    """Milliseconds of each side, one after the other in each round, after a round that warms up."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 1):
        for side, run in zip(times, sides):
            side.append(milliseconds(run, now, device))
    return [side[1:] for side in times]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=";".join(CASES), help="cases, with ; between")
    parser.add_argument("--compiled", action="store_true", help="show the twin under torch.compile too")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("On a GPU: not measured: no CUDA GPU here.")
        return
    kernels, reason = ops.find_backend(device)
    if kernels is None:
        parser.exit(1, f"There are no kernels to time: {reason}.\n")
    torch.set_num_threads(given.threads)
    now = time.process_time if device.type == "cpu" and given.threads == 1 else time.perf_counter
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {given.threads} thread(s)"
    rate = copy_rate(device, 1 << 30 if device.type == "cuda" else 1 << 27, now)
    print(f"torch {torch.__version__}, {where}, {given.rounds} rounds, {reason}, a copy at {rate / 1e9:.1f} GB/s")
    print_table(given.only.split(";"), device, given.rounds, now, rate, is_compiled=given.compiled)
    print_rivals(device, lambda *sides: times_of(*sides, rounds=given.rounds, now=now, device=device))


def print_table(names: list[str], device: torch.device, rounds: int, now: Callable[[], float], rate: float, *, is_compiled: bool) -> None:
    print(
        "\n| case | kernel ms | twin ms | ratio of medians | ratio of minima | bar | MB | share of a copy | load | compiled twin ms |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in names:
        sides = CASES[name](device)
        ours, theirs = times_of(sides.kernel, sides.twin, rounds=rounds, now=now, device=device)
        medians, minima = (statistics.median(ours), statistics.median(theirs)), (min(ours), min(theirs))
        beside = compiled(sides.twin, now, rounds, device) if is_compiled else "not asked for"
        bar = f">= {BARS[name]:g}" if name in BARS and device.type == "cpu" else ""
        share = sides.n_bytes / rate / (1e-3 * medians[0])
        load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        print(
            f"| {name} | {medians[0]:.2f} | {medians[1]:.2f} | {medians[1] / medians[0]:.1f} | {minima[1] / minima[0]:.1f} | {bar} "
            f"| {sides.n_bytes / 1e6:.1f} | {share:.0%} | {load} | {beside} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
