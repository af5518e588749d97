"""benchmarks/kernels.py and rivals.py: bytes against a count by hand, tables with and without other engines' packages."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import half_table, kernels, rivals
from benchmarks.shell import shell_rays, shell_samples
from engine.fields.hash_grid import HashGrid
from engine.fields.levels import level_resolutions
from engine.rendering.composite import accumulate, weights_from_density
from engine.rendering.march import march, pack

CPU = torch.device("cpu")


def test_bytes_are_what_must_move() -> None:
    n_samples, n_rays = len(shell_samples(CPU)[0].t_starts), 4 * 64 * 64
    by_hand = {
        "occupancy, 128^3": 128**3 * 4 * 3 + 128**3 // 8,
        "Adan, 12 M numbers": 12_000_000 * 4 * 11,
        "dense table": 2 * 4 * 65**3 * (4 + 7),
        "composite": n_samples * (2 * 4 * (1 + 1 + 5 + 1) + 4 * (1 + 5)) + n_rays * 2 * (16 + 20),
        "spherical, degree 3, forward": 65_536 * 4 * (3 + 9),
        "spherical, degree 4": 65_536 * 4 * (3 + 16 + 3 + 16 + 3),
        # rays, the grid's bits and its bounds in; ray index, start, end, first and number out
        "march": n_rays * 28 + 128**3 // 8 + 24 + n_samples * 16 + n_rays * 16,
    }
    assert {name: kernels.CASES[name](CPU).n_bytes for name in by_hand} == by_hand


def test_the_command_prints_shares_and_says_what_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _n: None)  # the number is the whole test process's
    monkeypatch.setattr(kernels, "copy_rate", lambda *_: 10e9)
    for package in ("numba", "warp"):
        monkeypatch.setitem(sys.modules, package, None)
    kernels.main(["--threads", "1", "--rounds", "1", "--only", "occupancy, 128^3;march"])
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if re.match(r"\| (occupancy|march)", line)]
    assert [row[0] for row in rows] == ["occupancy, 128^3", "march", "march / nerfacc"]
    milliseconds, megabytes, share = float(rows[0][1]), float(rows[0][6]), float(rows[0][7].rstrip("%"))
    assert megabytes == 25.4 and share == pytest.approx(100 * 2.54 / milliseconds, rel=0.05, abs=1)
    assert rows[2][1] == "not measured: asks for --device cuda and an NVIDIA GPU"
    assert "| composite / numba | not measured: asks for pip install numba (" in out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernels.main(["--device", "cuda"])
    assert capsys.readouterr().out == "On a GPU: not measured: no CUDA GPU here.\n"


def test_half_tables_stand_beside_float32_pass_by_pass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda _n: None)
    monkeypatch.setattr(half_table, "GRIDS", {"small": (2, 10, 32, 2)})
    half_table.main(["--rounds", "1", "--samples", "4096"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| small")]
    assert [row[1].strip() for row in rows[:3]] == ["features", "gradient in positions", "table's gradient"]
    assert all(float(cell) > 0 for row in rows[:3] for cell in row[2:6]) and rows[3][1].strip() == "the copy, 0.0 million numbers"
    # What cannot be saved: half the reading of a table, and the copy.
    whole, half = (kernels.hash_grid(CPU, 2, 10, 32, is_half=is_half).n_bytes for is_half in (False, True))
    assert half - whole == 2 * 2 * 1024 * (4 + 2 - 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    half_table.main(["--device", "cuda"])
    assert capsys.readouterr().out == "Not measured: no CUDA GPU here.\n"


def times_of(*sides: Callable[[], object]) -> list[list[float]]:
    """Runs each side and lets the second be three times as slow."""
    return [[float(3**which)] for which, side in enumerate(sides) if side() is not None]


@pytest.mark.parametrize("name", rivals.PAIRS)
def test_without_the_package_a_row_names_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nerfacc", "tinycudann"):
        monkeypatch.setitem(sys.modules, package, None)
    row = rivals.rival_row(name, rivals.PAIRS[name], torch.device("cuda"), times_of)
    package = "nerfacc" if "nerfacc" in name else "tinycudann"
    assert row.startswith(f"| {name} | not measured: ") and package in row.split("not measured")[1]


@pytest.mark.parametrize("name", rivals.CPU_PAIRS)
def test_without_numba_or_warp_a_row_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("numba", "warp"):
        monkeypatch.setitem(sys.modules, package, None)
    row = rivals.rival_row(name, rivals.CPU_PAIRS[name], CPU, times_of)
    assert row.startswith(f"| {name} | not measured: asks for pip install {name.split(' / ')[1]} (")
    row = rivals.rival_row(name, rivals.CPU_PAIRS[name], torch.device("cuda"), times_of)
    assert row == f"| {name} | not measured: asks for --device cpu |"


@pytest.mark.parametrize("library", ["numba", "warp-lang"])
def test_numba_and_warp_compute_the_same(library: str) -> None:
    if not importlib.util.find_spec(library.removesuffix("-lang")):
        pytest.skip(f"{library} is not installed")
    before = torch.get_num_threads()
    for make in (lambda: rivals.dsl_hash_pair(library, 8, 15, 512), lambda: rivals.dsl_composite_pair(library)):
        note = make().note
        assert float(note.split("at most ")[1].split()[0]) < 1e-4, note
    assert torch.get_num_threads() == before


def test_a_row_tells_how_far_both_are_apart() -> None:
    arrays = torch.tensor([1.0, 4.0]), torch.tensor([[2.0]])
    pair = rivals._dsl_pair(lambda: arrays, lambda: (np.array([1.0, 4.5]), np.array([[2.0]])), "3 threads")
    row = rivals.rival_row("composite / numba", lambda _device: pair, CPU, times_of)
    assert row == f"| composite / numba | 1.000 | 3.000 | 3.00 | {pair.note} |"
    assert re.fullmatch(r"3 threads, first call \d+\.\d s, at most 1e-01 of the largest apart", pair.note)


class Encoding(nn.Module):
    """tinycudann's, as its README says it: settings in, features out; our grid inside."""

    def __init__(self, n_input_dims: int, encoding_config: dict[str, object], seed: int, dtype: torch.dtype) -> None:
        super().__init__()
        assert n_input_dims == 3 and dtype == torch.float32
        c = encoding_config
        finest = round(c["base_resolution"] * c["per_level_scale"] ** (c["n_levels"] - 1))  # type: ignore[operator]
        resolutions = level_resolutions(c["n_levels"], c["base_resolution"], finest)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        self.grid = HashGrid(resolutions, 2, c["log2_hashmap_size"], generator, smooth=True)  # type: ignore[arg-type]

    def forward(self, positions: Tensor) -> Tensor:
        return self.grid.forward_twin(positions)


class OccGridEstimator(nn.Module):
    """nerfacc's, by our march."""

    binaries: Tensor

    def __init__(self, roi_aabb: list[float], resolution: int, levels: int) -> None:
        super().__init__()
        assert roi_aabb == [-1.0] * 3 + [1.0] * 3 and levels == 1
        self.register_buffer("binaries", torch.zeros(levels, resolution, resolution, resolution, dtype=torch.bool))

    def sampling(self, rays_o: Tensor, rays_d: Tensor, render_step_size: float) -> tuple[Tensor, Tensor, Tensor]:
        occupancy = shell_rays(CPU)[2]
        assert torch.equal(self.binaries, occupancy.cells())
        samples = march(rays_o, rays_d, occupancy, render_step_size)
        return samples.ray_indices, samples.t_starts, samples.t_ends


def render_weight_from_density(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, ray_indices: Tensor, n_rays: int
) -> tuple[Tensor, None, None]:
    return weights_from_density(sigmas, t_ends - t_starts, pack(ray_indices, n_rays))[0], None, None


def accumulate_along_rays(weights: Tensor, values: Tensor, ray_indices: Tensor, n_rays: int) -> Tensor:
    return accumulate(weights, values, ray_indices, n_rays)


@pytest.mark.parametrize("name", rivals.PAIRS)
def test_with_the_packages_both_sides_do_the_same_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = (OccGridEstimator, render_weight_from_density, accumulate_along_rays)
    monkeypatch.setitem(sys.modules, "nerfacc", types.SimpleNamespace(**{item.__name__: item for item in functions}))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tinycudann", types.SimpleNamespace(Encoding=Encoding))  # type: ignore[arg-type]
    pair = rivals.PAIRS[name](CPU)
    if name.startswith("composite"):
        assert float(pair.note.split("at most ")[1].split()[0]) < 1e-4
    else:
        ours, theirs = (int(part.replace(",", "")) for part in re.findall(r"\d[\d,]*\d", pair.note))
        assert ours == theirs > 100_000
    row = rivals.rival_row(name, lambda _device: pair, types.SimpleNamespace(type="cuda"), times_of)  # type: ignore[arg-type]
    assert row == f"| {name} | 1.000 | 3.000 | 3.00 | {pair.note} |"
