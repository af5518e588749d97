"""A hash grid read in half precision beside the same in float32, pass by pass: is half the size faster here?

    python -m benchmarks.half_table [--device cuda] [--threads 1] [--rounds 15]

Samples are those of `kernels.py`. A round runs all passes of both precisions one after the other, so that what else the machine does
meets all. With one thread of a CPU the times are this process's own processor milliseconds. The copy in half precision is made once a step,
however often the field is looked at; it is a row of its own. The table's gradient is in float32 on both sides: its two columns show how
far the machine's own noise goes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in kernels.py

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.kernels import N_HASH_SAMPLES, times_of
from benchmarks.shell import shell_samples
from cuda_ext import ops, ops_hash
from engine.fields.hash_grid import HashGrid
from engine.fields.levels import level_resolutions

GRIDS = {"8 x 2^15": (8, 15, 512, 2), "16 x 2^19": (16, 19, 2048, 2), "8 x 2^19, 4 features": (8, 19, 2048, 4)}
"""Levels, log2 of their rows, finest resolution, features."""


def passes(grid: HashGrid, at: Tensor, mirror: Tensor | None) -> dict[str, Callable[[], object]]:
    levels, table = grid.levels(), grid.table.detach()
    g = torch.randn(len(at), grid.n_features, device=at.device)
    operators = torch.ops.dreamfusion
    return {
        "features": lambda: ops_hash.hash_encode(table, at, levels, mirror),
        "gradient in positions": lambda: ops_hash.hash_pull_back(table, at, g, levels, mirror),
        "table's gradient": lambda: operators.hash_table_grad(at, None, g, *levels),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--samples", type=int, default=N_HASH_SAMPLES)
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    kernels, reason = ops.find_backend(device) if device.type == "cpu" or torch.cuda.is_available() else (None, "no CUDA GPU here")
    if kernels is None:
        print(f"Not measured: {reason}.")
        return
    torch.set_num_threads(given.threads)
    now = time.process_time if device.type == "cpu" and given.threads == 1 else time.perf_counter
    at = (shell_samples(device)[1][: given.samples] * 0.5 + 0.5).contiguous()
    print(f"torch {torch.__version__}, {given.threads} thread(s), {given.rounds} rounds, {len(at)} samples, {reason}")
    print("\n| grid | pass | float32 ms | half ms | ratio of medians | ratio of minima | load |\n" + "| --- " * 7 + "|")
    for name, (n_levels, log2_size, finest, features) in GRIDS.items():
        resolutions, generator = level_resolutions(n_levels, 16, finest), torch.Generator().manual_seed(0)
        grid = HashGrid(resolutions, features, log2_size, generator, is_half=True).to(device)
        whole, half = passes(grid, at, None), passes(grid, at, grid.mirror())
        sides = [run for pair in zip(whole.values(), half.values()) for run in pair]
        *times, copies = times_of(*sides, grid.mirror, rounds=given.rounds, now=now, device=device)
        load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        for label, ours, theirs in zip(whole, times[::2], times[1::2]):
            medians, minima = statistics.median(ours) / statistics.median(theirs), min(ours) / min(theirs)
            columns = f"{statistics.median(ours):.2f} | {statistics.median(theirs):.2f} | {medians:.2f} | {minima:.2f}"
            print(f"| {name} | {label} | {columns} | {load} |", flush=True)
        print(f"| {name} | the copy, {grid.table.numel() / 1e6:.1f} million numbers | | {statistics.median(copies):.2f} | | | {load} |")


if __name__ == "__main__":
    main()
