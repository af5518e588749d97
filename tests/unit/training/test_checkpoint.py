"""Checkpoints: complete or refused."""

import json
import os
import sys

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import UserError
from engine.training.checkpoint import (
    PARTS,
    Checkpoint,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def example():
    parts = {part: {"a": torch.arange(4.0), "b.c": torch.tensor([True, False])} for part in PARTS}
    parts["generators"] = {"host": torch.Generator().get_state()}
    return Checkpoint(parts, {"step": 3, "restarts": 0})


def test_what_was_saved_comes_back(tmp_path):
    path = save_checkpoint(tmp_path, 3, example())
    loaded = load_checkpoint(path)
    assert loaded.meta["step"] == 3
    for part, tensors in example().parts.items():
        assert loaded.parts[part].keys() == tensors.keys()
        for name, value in tensors.items():
            assert torch.equal(loaded.parts[part][name], value) and loaded.parts[part][name].dtype == value.dtype


def test_a_part_without_tensors_is_not_missing(tmp_path):
    checkpoint = example()
    checkpoint.parts["optimizer"] = {}
    assert load_checkpoint(save_checkpoint(tmp_path, 0, checkpoint)).parts["optimizer"] == {}


def test_parameters_that_share_memory_are_both_saved(tmp_path):
    checkpoint = example()
    whole = torch.arange(6.0)
    checkpoint.parts["field"] = {"whole": whole, "part": whole[2:4]}
    assert torch.equal(load_checkpoint(save_checkpoint(tmp_path, 0, checkpoint)).parts["field"]["part"], torch.tensor([2.0, 3.0]))


def test_the_last_two_are_kept_and_nothing_partial_stays(tmp_path):
    for step in (5, 10, 9_999_999):
        save_checkpoint(tmp_path, step, example())
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000010.safetensors", "step-9999999.safetensors"]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_latest_is_the_highest_step_and_none_is_none(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 9, example())
    save_checkpoint(tmp_path, 10, Checkpoint(example().parts, {"step": 10}))
    assert latest_checkpoint(tmp_path).meta["step"] == 10


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_a_checkpoint_that_was_cut_short_is_refused_with_the_way_out(tmp_path, kept):
    save_checkpoint(tmp_path, 1, example())
    path = save_checkpoint(tmp_path, 2, example())
    os.truncate(path, int(path.stat().st_size * kept) if kept < 1 else kept)
    with pytest.raises(UserError, match=r"step-0000002.safetensors is damaged or was cut short. Delete it to continue from step-0000001"):
        latest_checkpoint(tmp_path)


def test_the_only_checkpoint_damaged_says_to_start_again(tmp_path):
    path = save_checkpoint(tmp_path, 2, example())
    path.write_bytes(b"\x00" * 200)
    with pytest.raises(UserError, match="Delete it to start this job again from the beginning") as raised:
        latest_checkpoint(tmp_path)
    assert raised.value.code == "checkpoint"


def test_a_missing_part_is_named(tmp_path):
    path = tmp_path / "step-0000001.safetensors"
    meta = {"format": 1, "parts": ["field"], "step": 1}
    save_file({"field/a": torch.zeros(1)}, str(path), metadata={"dreamfusion": json.dumps(meta)})
    with pytest.raises(UserError, match="lacks ema, generators, occupancy, optimizer and cannot be resumed"):
        load_checkpoint(path)


def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path):
    path = tmp_path / "step-0000001.safetensors"
    save_file({"a/b": torch.zeros(1)}, str(path))
    with pytest.raises(UserError, match="another version of the engine"):
        load_checkpoint(path)


def test_saving_without_a_part_is_our_own_mistake(tmp_path):
    with pytest.raises(ValueError, match="a checkpoint needs ema"):
        save_checkpoint(tmp_path, 0, Checkpoint({part: {} for part in PARTS if part != "ema"}, {}))


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on a file's size there")
def test_a_write_that_fails_leaves_the_old_checkpoint_and_raises_oserror(tmp_path):
    import resource

    save_checkpoint(tmp_path, 1, example())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as a full disk: the write fails in its middle
    try:
        with pytest.raises(OSError):
            save_checkpoint(tmp_path, 2, example())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001.safetensors"]


def test_an_optimizer_goes_on_exactly_where_it_was():
    def build():
        p = torch.nn.Parameter(torch.ones(3))
        return p, torch.optim.Adam([p], lr=0.1, betas=(0.9, 0.99))

    def step(p, optimizer, k):
        p.grad = torch.tensor([1.0, -2.0, 0.5]) * k
        optimizer.step()

    p, optimizer = build()
    for k in range(3):
        step(p, optimizer, k)
    q, resumed = build()
    q.data.copy_(p.data)
    restore_optimizer(resumed, {name: value.clone() for name, value in optimizer_tensors(optimizer).items()})
    for k in range(3, 6):
        step(p, optimizer, k)
        step(q, resumed, k)
    assert torch.equal(p, q)
