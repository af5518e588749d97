"""Grids inside grids and steps that grow, in whole jobs: with kernels and without, cut and resumed, and from checkpoints of before."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from cuda_ext import ops
from engine.rendering import march as marching
from engine.rendering.morton import unpack_cells
from engine.training.checkpoint import load_checkpoint
from tests.unit.jobs.test_continue import LEVEL

# Steps of 0.054; cells of 0.125 and 0.0625, so both grids are looked into.
WORDS = ["--render.occupancy-cascades", "2", "--render.cone-angle", "0.03", "--render.n-samples", "64"]


def last_checkpoint(folder):
    return sorted((folder / "checkpoints").iterdir())[-1]


@pytest.mark.parametrize("has_kernels", [True, False], ids=["kernels", "twins"])
def test_a_job_with_two_cascades_and_a_cone_angle(has_kernels, generate, monkeypatch):
    marched, original = [], marching.march
    if not has_kernels:
        monkeypatch.setattr(ops, "serves", lambda _tensor: False)

    def watched(rays_o, rays_d, occupancy, step_size, **more):
        samples = original(rays_o, rays_d, occupancy, step_size, **more)
        lengths = samples.t_ends - samples.t_starts
        marched.append((occupancy.cascades, round(more["cone_angle"], 3), float(lengths.max() / lengths.min())))
        return samples

    monkeypatch.setattr("engine.rendering.render.march", watched)
    run = generate("a mug", last=WORDS)
    assert run.code == 0, run.err
    assert {(cascades, angle) for cascades, angle, _ in marched} == {(2, 0.03), (2, 0.015)}  # training, and pictures twice as fine
    assert all(growth > 1.2 for _, _, growth in marched)
    occupancy = load_checkpoint(last_checkpoint(run.folder)).parts["occupancy"]
    assert occupancy["densities"].shape == (2, 16, 16, 16) and occupancy["bits"].shape == (2, 512)


def test_going_on_is_the_longer_run_itself(generate, tmp_path):
    """The occupancy is looked at anew in the second part."""
    level = [word for key, text in LEVEL.items() for word in (f"--{key}", text)]
    words = [*level, *WORDS, "--render.occupancy-every", "4", "--training.n-steps", "6"]
    first = generate("a mug", last=[*words, "--training.n-steps", "3"])
    more = generate("--start-from", str(first.folder), "--training.n-steps", "6", small=False, folder=tmp_path / "more")
    whole = generate("a mug", last=words, folder=tmp_path / "whole")
    assert (first.code, more.code, whole.code) == (0, 0, 0), more.err
    assert_same_parts(more.folder, whole.folder)


def test_a_checkpoint_with_a_byte_a_cell_goes_on_as_one_of_bits(generate, tmp_path):
    """As they were before cells were bits."""
    first = generate("a mug", last=["--render.occupancy-every", "5"])
    before = shutil.copytree(first.folder, tmp_path / "before")
    checkpoint = load_checkpoint(last_checkpoint(before))
    occupancy = checkpoint.parts["occupancy"]
    occupancy["occupied_cells"] = unpack_cells(occupancy.pop("bits"), 16)[0]
    occupancy["densities"] = occupancy["densities"][0]
    tensors = {f"{part}/{name}": value.contiguous() for part, values in checkpoint.parts.items() for name, value in values.items()}
    save_file(tensors, str(last_checkpoint(before)), metadata={"dreamfusion": json.dumps(checkpoint.meta)})
    folders = []
    for start in (first.folder, before):
        run = generate("--start-from", str(start), "--training.n-steps", "12", small=False, folder=tmp_path / f"from {start.name}")
        assert run.code == 0, run.err
        folders.append(run.folder)
    assert_same_parts(*folders)


def assert_same_parts(folder, other):
    found, wanted = (load_checkpoint(last_checkpoint(each)).parts for each in (folder, other))
    for part, values in wanted.items():
        for name, value in values.items():
            assert torch.equal(found[part][name], value), f"{part} {name}"
