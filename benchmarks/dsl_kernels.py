"""The hash grid and compositing in Numba and in Warp, as one writes them there: what kernels from C++ are worth beside easier ones.

Both packages are optional and imported only when their kernels are asked for. Each computes forward and backward in one call, from and to
NumPy arrays, without autograd. This module has no `from __future__ import annotations`: Warp reads a kernel's types as they stand.

Shapes: M samples, L levels, V rows of all tables, two features each; R rays, C channels, five of them in Warp.
"""

import functools
import importlib
import math
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Arrays = tuple[np.ndarray, ...]
WARP_CHANNELS = 5


class GridShape(NamedTuple):
    """A hash grid's levels, [L] int64 each: cells per axis, rows, and the first row of the table that holds all."""

    resolutions: np.ndarray
    sizes: np.ndarray
    firsts: np.ndarray


class DslKernels(NamedTuple):
    """hash_grid(table [V, 2], positions [M, 3], d_features [M, 2 * L], shape): features and the table's gradient.
    composite(densities [M], deltas [M], values [M, C], packed_info [R, 2], d_weights [M], d_sums [R, C]): weights, sums, and the gradients
    of densities and values. threads: what they run on.
    """

    hash_grid: Callable[..., Arrays]
    composite: Callable[..., Arrays]
    threads: str


def kernels_of(library: str, n_threads: int) -> DslKernels:
    """Those of "numba" or "warp-lang". Raises ImportError that names what to install."""
    try:
        module = importlib.import_module({"numba": "numba", "warp-lang": "warp"}[library])
    except ImportError as error:
        raise ImportError(f"asks for pip install {library} ({error})") from error
    return numba_kernels(module, n_threads) if library == "numba" else warp_kernels(module)


@functools.cache
def numba_kernels(numba: Any, n_threads: int) -> DslKernels:
    numba.config.THREADING_LAYER = "workqueue"  # its layer by OpenMP changes torch's number of threads
    n_threads = min(n_threads, numba.config.NUMBA_NUM_THREADS)
    parallel, prange, one = numba.njit(parallel=True, fastmath=True), numba.prange, np.float32(1)

    @numba.njit(fastmath=True)
    def cell_of(position: Any, resolution: int) -> Any:
        scaled = min(max(position, np.float32(0)), one) * np.float32(resolution)
        lower = min(np.int64(scaled), resolution - 1)
        return lower, scaled - np.float32(lower)

    @numba.njit(fastmath=True)
    def cells_at(positions: Any, s: int, resolution: int) -> Any:
        return cell_of(positions[s, 0], resolution), cell_of(positions[s, 1], resolution), cell_of(positions[s, 2], resolution)

    @numba.njit(fastmath=True)
    def corner_of(corner: int, cells: Any, resolution: int, size: int) -> Any:
        """Its row in the level and its weight."""
        (x, u), (y, v), (z, w) = cells
        i, j, k = corner >> 2, (corner >> 1) & 1, corner & 1
        x, y, z, n = x + i, y + j, z + k, resolution + 1
        row = (x * n + y) * n + z if n * n * n <= size else (x ^ (y * 2654435761) ^ (z * 805459861)) & (size - 1)
        return row, (u if i else one - u) * (v if j else one - v) * (w if k else one - w)

    @parallel
    def encode(table: Any, positions: Any, resolutions: Any, sizes: Any, firsts: Any, features: Any) -> None:
        n_samples = len(positions)
        for part in prange(n_threads):
            for level in range(len(sizes)):  # one after the other: its rows stay in the cache
                resolution, size, first = resolutions[level], sizes[level], firsts[level]
                for s in range(n_samples * part // n_threads, n_samples * (part + 1) // n_threads):
                    cells = cells_at(positions, s, resolution)
                    a = b = np.float32(0)
                    for corner in range(8):
                        row, weight = corner_of(corner, cells, resolution, size)
                        a += weight * table[first + row, 0]
                        b += weight * table[first + row, 1]
                    features[s, 2 * level], features[s, 2 * level + 1] = a, b

    @parallel
    def table_grad(positions: Any, d_features: Any, order: Any, resolutions: Any, sizes: Any, firsts: Any, d_table: Any) -> None:
        for turn in prange(len(order)):  # a level is one thread's, so no two add to one row
            level = order[turn]
            resolution, size, first = resolutions[level], sizes[level], firsts[level]
            for s in range(len(positions)):
                cells = cells_at(positions, s, resolution)
                a, b = d_features[s, 2 * level], d_features[s, 2 * level + 1]
                for corner in range(8):
                    row, weight = corner_of(corner, cells, resolution, size)
                    d_table[first + row, 0] += weight * a
                    d_table[first + row, 1] += weight * b

    @parallel
    def composite_forward(densities: Any, deltas: Any, values: Any, packed_info: Any, weights: Any, sums: Any) -> None:
        for ray in prange(len(packed_info)):
            first, count = packed_info[ray]
            transmittance = one
            for s in range(first, first + count):
                weights[s] = transmittance * -math.expm1(-densities[s] * deltas[s])
                transmittance -= weights[s]
                for c in range(values.shape[1]):
                    sums[ray, c] += weights[s] * values[s, c]

    @parallel
    def composite_backward(
        deltas: Any, values: Any, packed_info: Any, weights: Any, d_weights: Any, d_sums: Any, d_densities: Any, d_values: Any
    ) -> None:
        for ray in prange(len(packed_info)):
            first, count = packed_info[ray]
            behind = np.float32(0)
            for s in range(first, first + count):
                gain = d_weights[s]
                for c in range(values.shape[1]):
                    gain += d_sums[ray, c] * values[s, c]
                    d_values[s, c] = weights[s] * d_sums[ray, c]
                d_densities[s] = gain  # kept here until the second walk
                behind += weights[s] * gain
            transmittance = one
            for s in range(first, first + count):
                transmittance -= weights[s]
                behind -= weights[s] * d_densities[s]
                d_densities[s] = (transmittance * d_densities[s] - behind) * deltas[s]

    def hash_grid(table: np.ndarray, positions: np.ndarray, d_features: np.ndarray, shape: GridShape) -> Arrays:
        numba.set_num_threads(n_threads)
        # Each thread takes a piece of the order: every n_threads-th level, since fine ones take longer.
        order = np.concatenate([np.arange(k, len(shape.sizes), n_threads) for k in range(n_threads)])
        features, d_table = np.empty_like(d_features), np.zeros_like(table)
        encode(table, positions, *shape, features)
        table_grad(positions, d_features, order, *shape, d_table)
        return features, d_table

    def composite(densities: np.ndarray, deltas: np.ndarray, values: np.ndarray, packed_info: np.ndarray, *grads: np.ndarray) -> Arrays:
        numba.set_num_threads(n_threads)
        weights, sums = np.empty_like(densities), np.zeros_like(grads[1])
        d_densities, d_values = np.empty_like(densities), np.empty_like(values)
        composite_forward(densities, deltas, values, packed_info, weights, sums)
        composite_backward(deltas, values, packed_info, weights, *grads, d_densities, d_values)
        return weights, sums, d_densities, d_values

    return DslKernels(hash_grid, composite, f"{n_threads} thread(s)")


@functools.cache
def _warp_cache() -> tempfile.TemporaryDirectory:
    """For this process alone, so that compile times are those of a first use."""
    return tempfile.TemporaryDirectory(prefix="warp-kernels-")


@functools.cache
def warp_kernels(wp: Any) -> DslKernels:
    """On a CPU a launch of Warp is a loop in the thread that calls."""
    wp.config.log_level, wp.config.kernel_cache_dir = wp.LOG_ERROR, _warp_cache().name
    wp.init()
    wp.set_module_options({"enable_backward": False, "fast_math": True})
    prime_y, prime_z = wp.uint32(2654435761), wp.uint32(805459861)
    five = wp.types.vector(length=WARP_CHANNELS, dtype=wp.float32)

    @wp.func
    def corner_of(corner: wp.int32, lower: wp.vec3i, at: wp.vec3, resolution: wp.int32, size: wp.int32):
        i, j, k = corner >> 2, (corner >> 1) & 1, corner & 1
        x, y, z = lower[0] + i, lower[1] + j, lower[2] + k
        n = wp.int64(resolution + 1)
        row = (x * (resolution + 1) + y) * (resolution + 1) + z
        if n * n * n > wp.int64(size):
            hashed = wp.uint32(x) ^ (wp.uint32(y) * prime_y) ^ (wp.uint32(z) * prime_z)
            row = wp.int32(hashed & wp.uint32(size - 1))
        weight = wp.where(i == 1, at[0], 1.0 - at[0]) * wp.where(j == 1, at[1], 1.0 - at[1]) * wp.where(k == 1, at[2], 1.0 - at[2])
        return row, weight

    @wp.func
    def cell_of(position: wp.vec3, resolution: wp.int32):
        scaled = position
        lower = wp.vec3i()
        for axis in range(3):
            scaled[axis] = wp.clamp(position[axis], 0.0, 1.0) * float(resolution)
            lower[axis] = wp.min(int(scaled[axis]), resolution - 1)
            scaled[axis] = scaled[axis] - float(lower[axis])
        return lower, scaled

    @wp.kernel
    def encode(
        table: wp.array(dtype=wp.vec2), positions: wp.array(dtype=wp.vec3), resolutions: wp.array(dtype=wp.int32),
        sizes: wp.array(dtype=wp.int32), firsts: wp.array(dtype=wp.int32), features: wp.array2d(dtype=wp.vec2),
    ):  # fmt: skip
        level, s = wp.tid()
        lower, at = cell_of(positions[s], resolutions[level])
        total = wp.vec2()
        for corner in range(8):
            row, weight = corner_of(corner, lower, at, resolutions[level], sizes[level])
            total += weight * table[firsts[level] + row]
        features[s, level] = total

    @wp.kernel
    def table_grad(
        positions: wp.array(dtype=wp.vec3), d_features: wp.array2d(dtype=wp.vec2), resolutions: wp.array(dtype=wp.int32),
        sizes: wp.array(dtype=wp.int32), firsts: wp.array(dtype=wp.int32), d_table: wp.array(dtype=wp.vec2),
    ):  # fmt: skip
        level, s = wp.tid()
        lower, at = cell_of(positions[s], resolutions[level])
        for corner in range(8):
            row, weight = corner_of(corner, lower, at, resolutions[level], sizes[level])
            wp.atomic_add(d_table, firsts[level] + row, weight * d_features[s, level])

    @wp.kernel
    def composite_forward(
        densities: wp.array(dtype=wp.float32), deltas: wp.array(dtype=wp.float32), values: wp.array(dtype=five),
        packed_info: wp.array2d(dtype=wp.int64), weights: wp.array(dtype=wp.float32), sums: wp.array(dtype=five),
    ):  # fmt: skip
        ray = wp.tid()
        first = int(packed_info[ray, 0])
        transmittance = wp.float32(1.0)  # Warp's way to say that a loop changes it
        total = five()
        for s in range(first, first + int(packed_info[ray, 1])):
            weight = transmittance * (1.0 - wp.exp(-densities[s] * deltas[s]))
            transmittance -= weight
            weights[s] = weight
            total += weight * values[s]
        sums[ray] = total

    @wp.kernel
    def composite_backward(
        deltas: wp.array(dtype=wp.float32), values: wp.array(dtype=five), packed_info: wp.array2d(dtype=wp.int64),
        weights: wp.array(dtype=wp.float32), d_weights: wp.array(dtype=wp.float32), d_sums: wp.array(dtype=five),
        d_densities: wp.array(dtype=wp.float32), d_values: wp.array(dtype=five),
    ):  # fmt: skip
        ray = wp.tid()
        first, count = int(packed_info[ray, 0]), int(packed_info[ray, 1])
        behind = wp.float32(0.0)
        for s in range(first, first + count):
            gain = d_weights[s] + wp.dot(d_sums[ray], values[s])
            d_values[s] = weights[s] * d_sums[ray]
            d_densities[s] = gain
            behind += weights[s] * gain
        transmittance = wp.float32(1.0)
        for s in range(first, first + count):
            transmittance -= weights[s]
            behind -= weights[s] * d_densities[s]
            d_densities[s] = (transmittance * d_densities[s] - behind) * deltas[s]

    def given(array: np.ndarray, dtype: Any = None) -> Any:
        """The same memory."""
        return wp.array(array, dtype=dtype or wp.dtype_from_numpy(array.dtype), device="cpu", copy=False)

    def hash_grid(table: np.ndarray, positions: np.ndarray, d_features: np.ndarray, shape: GridShape) -> Arrays:
        n_samples, n_levels = len(positions), len(shape.sizes)
        features, d_table, at = np.empty_like(d_features), np.zeros_like(table), given(positions, wp.vec3)
        levels = [given(numbers.astype(np.int32)) for numbers in shape]
        outside, d_outside = (given(array.reshape(n_samples, n_levels, 2), wp.vec2) for array in (features, d_features))
        wp.launch(encode, (n_levels, n_samples), [given(table, wp.vec2), at, *levels, outside], device="cpu")
        wp.launch(table_grad, (n_levels, n_samples), [at, d_outside, *levels, given(d_table, wp.vec2)], device="cpu")
        return features, d_table

    def composite(densities: np.ndarray, deltas: np.ndarray, values: np.ndarray, packed_info: np.ndarray, *grads: np.ndarray) -> Arrays:
        outputs = np.empty_like(densities), np.empty_like(grads[1]), np.empty_like(densities), np.empty_like(values)
        weights, sums, d_densities, d_values = (given(array, five if array.ndim == 2 else None) for array in outputs)
        lengths, colors, rays, d_weights = given(deltas), given(values, five), given(packed_info), given(grads[0])
        wp.launch(composite_forward, len(packed_info), [given(densities), lengths, colors, rays, weights, sums], device="cpu")
        back = [lengths, colors, rays, weights, d_weights, given(grads[1], five), d_densities, d_values]
        wp.launch(composite_backward, len(packed_info), back, device="cpu")
        return outputs

    return DslKernels(hash_grid, composite, "one thread, as Warp has it on a CPU")
