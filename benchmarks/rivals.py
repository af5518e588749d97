"""Our kernels beside those of tiny-cuda-nn and nerfacc, where these packages and an NVIDIA GPU are there.

Both sides get the same rays, samples and gradients. What cannot be compared number by number is said with the row: tiny-cuda-nn's table
has its own order and its own random numbers, nerfacc's march its own lattice.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.shell import shell_rays, shell_samples
from cuda_ext import ops
from engine.errors import UserError
from engine.fields.field_config import FieldConfig
from engine.fields.hash_grid import HashGrid
from engine.fields.tcnn_grid import TcnnGrid
from engine.rendering.march import march

N_SAMPLES = 65_536


class Pair(NamedTuple):
    """Ours and theirs; note: how far the work of both is the same."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    note: str


def hash_pair(device: torch.device, n_levels: int, log2_size: int, finest: int) -> Pair:
    """Features forward, the table's gradient backward, in single precision, smoothed. Raises UserError without tinycudann."""
    config = FieldConfig(
        encoding="hash", n_levels=n_levels, base_resolution=16, finest_resolution=finest, features=2, log2_table_size=log2_size,
        interpolation="smoothstep",
    )  # fmt: skip
    theirs, ours = (kind.from_config(config, torch.Generator().manual_seed(0)).to(device) for kind in (TcnnGrid, HashGrid))
    positions = shell_samples(device)[1][:N_SAMPLES] * 0.5 + 0.5
    cotangent = torch.randn(len(positions), ours.n_features, device=device)

    def both_ways(grid: Any) -> Callable[[], object]:
        parameters = list(grid.parameters())
        return lambda: torch.autograd.grad(grid(positions), parameters, cotangent)

    counts = [sum(parameter.numel() for parameter in grid.parameters()) for grid in (ours, theirs)]
    return Pair(both_ways(ours), both_ways(theirs), f"{counts[0]:,} numbers in the table, theirs {counts[1]:,}")


def composite_pair(device: torch.device) -> Pair:
    """Weights and sums of five channels forward, gradients of densities and values backward. Raises ImportError without nerfacc."""
    nerfacc = importlib.import_module("nerfacc")
    samples, _ = shell_samples(device)
    n_rays = len(samples.packed_info)
    deltas = samples.t_ends - samples.t_starts
    densities = (torch.rand(len(deltas), device=device) * 20).requires_grad_()
    values = torch.rand(len(deltas), 5, device=device).requires_grad_()
    cotangents = torch.randn(len(deltas), device=device), torch.randn(n_rays, 5, device=device)

    def theirs() -> tuple[Tensor, Tensor]:
        weights, _, _ = nerfacc.render_weight_from_density(
            samples.t_starts, samples.t_ends, densities, ray_indices=samples.ray_indices, n_rays=n_rays
        )
        return weights, nerfacc.accumulate_along_rays(weights, values=values, ray_indices=samples.ray_indices, n_rays=n_rays)

    def both_ways(forward: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(forward(), (densities, values), cotangents)

    pair = both_ways(lambda: ops.composite(densities, deltas, values, samples.packed_info)), both_ways(theirs)
    apart = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*(run() for run in pair)))
    return Pair(*pair, f"{len(deltas):,} samples, gradients at most {apart:.0e} of the largest apart")


def march_pair(device: torch.device) -> Pair:
    """Samples in occupied cells. Raises ImportError without nerfacc."""
    nerfacc = importlib.import_module("nerfacc")
    rays_o, rays_d, occupancy, step_size = shell_rays(device)
    grid = nerfacc.OccGridEstimator([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], resolution=occupancy.resolution, levels=1).to(device)
    grid.binaries = occupancy.occupied_cells[None].clone()

    def theirs() -> Any:
        return grid.sampling(rays_o, rays_d, render_step_size=step_size)

    def ours() -> Any:
        return march(rays_o, rays_d, occupancy, step_size)

    return Pair(ours, theirs, f"{len(ours().t_starts):,} samples, theirs {len(theirs()[0]):,}")


PAIRS: dict[str, Callable[[torch.device], Pair]] = {
    "hash 8 x 2^15 / tiny-cuda-nn": lambda device: hash_pair(device, 8, 15, 512),
    "hash 16 x 2^19 / tiny-cuda-nn": lambda device: hash_pair(device, 16, 19, 2048),
    "composite / nerfacc": composite_pair,
    "march / nerfacc": march_pair,
}


def print_rivals(device: torch.device, times_of: Callable[..., list[list[float]]]) -> None:
    """The second table. times_of: milliseconds of each of some callables, round by round.

    Without a GPU or a package a row says so.
    """
    print("\n| ours / theirs | ours ms | theirs ms | theirs / ours | |\n| --- | --- | --- | --- | --- |")
    for name, make in PAIRS.items():
        print(rival_row(name, make, device, times_of), flush=True)


def rival_row(name: str, make: Callable[[torch.device], Pair], device: torch.device, times_of: Callable[..., list[list[float]]]) -> str:
    if device.type != "cuda":
        return f"| {name} | not measured: asks for --device cuda and an NVIDIA GPU |"
    try:
        pair = make(device)
        ours, theirs = (statistics.median(times) for times in times_of(pair.ours, pair.theirs))
    except (UserError, ImportError, OSError, RuntimeError) as error:  # not there, or built for another GPU
        return f"| {name} | not measured: {str(error).splitlines()[0][:160]} |"
    return f"| {name} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.2f} | {pair.note} |"
