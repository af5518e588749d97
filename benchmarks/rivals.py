"""Our kernels beside those of tiny-cuda-nn and nerfacc, where these packages and an NVIDIA GPU are there; on a CPU, beside the same in
Numba and Warp (`dsl_kernels.py`).

Both sides get the same rays, samples and gradients. What cannot be compared number by number is said with the row: tiny-cuda-nn's table
has its own order and its own random numbers, nerfacc's march its own lattice. Numba and Warp fill NumPy arrays, without autograd.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.dsl_kernels import GridShape, kernels_of
from benchmarks.shell import shell_rays, shell_samples
from cuda_ext import ops
from engine.errors import UserError
from engine.fields.field_config import FieldConfig
from engine.fields.hash_grid import HashGrid
from engine.fields.levels import level_resolutions
from engine.fields.tcnn_grid import TcnnGrid
from engine.rendering.march import march

N_SAMPLES = 65_536


class Pair(NamedTuple):
    """Ours and theirs; note: how far the work of both is the same."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    note: str


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference, as a share of the largest number of its tensor."""
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(ours, theirs, strict=True))


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
    return Pair(*pair, f"{len(deltas):,} samples, gradients at most {apart(*(run() for run in pair)):.0e} of the largest apart")


def march_pair(device: torch.device) -> Pair:
    """Samples in occupied cells. Raises ImportError without nerfacc."""
    nerfacc = importlib.import_module("nerfacc")
    rays_o, rays_d, occupancy, step_size = shell_rays(device)
    grid = nerfacc.OccGridEstimator([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], resolution=occupancy.resolution, levels=1).to(device)
    grid.binaries = occupancy.cells()

    def theirs() -> Any:
        return grid.sampling(rays_o, rays_d, render_step_size=step_size)

    def ours() -> Any:
        return march(rays_o, rays_d, occupancy, step_size)

    return Pair(ours, theirs, f"{len(ours().t_starts):,} samples, theirs {len(theirs()[0]):,}")


def dsl_hash_pair(library: str, n_levels: int, log2_size: int, finest: int) -> Pair:
    """Features forward, the table's gradient backward, by straight lines. Raises ImportError without the library."""
    theirs = kernels_of(library, torch.get_num_threads())
    grid = HashGrid(level_resolutions(n_levels, 16, finest), 2, log2_size, torch.Generator().manual_seed(0))
    positions = shell_samples(torch.device("cpu"))[1][:N_SAMPLES] * 0.5 + 0.5
    cotangent = torch.randn(len(positions), grid.n_features)
    sizes = np.array(grid.sizes)
    shape = GridShape(np.array(grid.resolutions), sizes, sizes.cumsum() - sizes)
    arrays = grid.table.detach().numpy(), positions.numpy(), cotangent.numpy()

    def ours() -> tuple[Tensor, ...]:
        features = grid(positions)
        return features.detach(), *torch.autograd.grad(features, grid.table, cotangent)

    return _dsl_pair(ours, lambda: theirs.hash_grid(*arrays, shape), theirs.threads)


def dsl_composite_pair(library: str) -> Pair:
    """Weights and sums of five channels forward, gradients of densities and values backward. Raises ImportError without the library."""
    theirs = kernels_of(library, torch.get_num_threads())
    samples, _ = shell_samples(torch.device("cpu"))
    deltas, rays = samples.t_ends - samples.t_starts, samples.packed_info
    densities, values = torch.rand(len(deltas)) * 20, torch.rand(len(deltas), 5)
    cotangents = torch.randn(len(deltas)), torch.randn(len(rays), 5)
    arrays = [tensor.numpy() for tensor in (densities, deltas, values, rays, *cotangents)]
    leaves = densities.clone().requires_grad_(), values.clone().requires_grad_()

    def ours() -> tuple[Tensor, ...]:
        found = ops.composite(leaves[0], deltas, leaves[1], rays)
        return *(tensor.detach() for tensor in found), *torch.autograd.grad(found, leaves, cotangents)

    return _dsl_pair(ours, lambda: theirs.composite(*arrays), theirs.threads)


def _dsl_pair(ours: Callable[[], tuple[Tensor, ...]], theirs: Callable[[], tuple[np.ndarray, ...]], threads: str) -> Pair:
    """Calls theirs once, which compiles it, and compares."""
    start = time.perf_counter()
    found = [torch.from_numpy(array) for array in theirs()]
    took = time.perf_counter() - start
    return Pair(ours, theirs, f"{threads}, first call {took:.1f} s, at most {apart(ours(), found):.0e} of the largest apart")


PAIRS: dict[str, Callable[[torch.device], Pair]] = {
    "hash 8 x 2^15 / tiny-cuda-nn": lambda device: hash_pair(device, 8, 15, 512),
    "hash 16 x 2^19 / tiny-cuda-nn": lambda device: hash_pair(device, 16, 19, 2048),
    "composite / nerfacc": composite_pair,
    "march / nerfacc": march_pair,
}
DSL_CASES: dict[str, Callable[[str], Pair]] = {
    "hash 8 x 2^15": lambda library: dsl_hash_pair(library, 8, 15, 512),
    "hash 16 x 2^19": lambda library: dsl_hash_pair(library, 16, 19, 2048),
    "composite": dsl_composite_pair,
}
CPU_PAIRS: dict[str, Callable[[torch.device], Pair]] = {
    f"{case} / {library}": lambda _device, make=make, library=library: make(library)  # type: ignore[misc]
    for case, make in DSL_CASES.items()
    for library in ("numba", "warp-lang")
}


def print_rivals(device: torch.device, times_of: Callable[..., list[list[float]]]) -> None:
    """The second table. times_of: milliseconds of each of some callables, round by round.

    Without the device or a package a row says so.
    """
    print("\n| ours / theirs | ours ms | theirs ms | theirs / ours | |\n| --- | --- | --- | --- | --- |")
    for name, make in (PAIRS | CPU_PAIRS).items():
        print(rival_row(name, make, device, times_of), flush=True)


def rival_row(name: str, make: Callable[[torch.device], Pair], device: torch.device, times_of: Callable[..., list[list[float]]]) -> str:
    asked = "cpu" if name in CPU_PAIRS else "cuda"
    if device.type != asked:
        return f"| {name} | not measured: asks for --device {asked}{' and an NVIDIA GPU' if asked == 'cuda' else ''} |"
    try:
        pair = make(device)
        ours, theirs = (statistics.median(times) for times in times_of(pair.ours, pair.theirs))
    except (UserError, ImportError, OSError, RuntimeError) as error:  # not there, or built for another GPU
        return f"| {name} | not measured: {str(error).splitlines()[0][:160]} |"
    return f"| {name} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.2f} | {pair.note} |"
