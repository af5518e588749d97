"""Checkpoints: one safetensors file each, its JSON in the header, written under another name and renamed.

A checkpoint holds everything that the next step depends on or it is refused: trained field, averaged field, optimizer,
occupancy, generators, step. Never pickle.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.errors import UserError

FORMAT = 1
KEPT = 2
PARTS = ("field", "ema", "optimizer", "occupancy", "generators")
_NAME = re.compile(r"step-(\d{7})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of each part by name, and what is not a tensor."""

    parts: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write `folder/step-NNNNNNN.safetensors`, complete or not at all; the last KEPT stay. Raises OSError."""
    missing = set(PARTS) - checkpoint.parts.keys()
    if missing:
        raise ValueError(f"a checkpoint needs {', '.join(sorted(missing))}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:07d}.safetensors"
    tensors = {
        f"{part}/{name}": value.detach().cpu().contiguous() for part, values in checkpoint.parts.items() for name, value in values.items()
    }
    # Parameters that share memory would be refused, and a view would be saved whole.
    tensors = {name: value.clone() for name, value in tensors.items()}
    meta = {"format": FORMAT, "parts": sorted(checkpoint.parts), "step": step, **checkpoint.meta}
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, str(partial), metadata={"dreamfusion": json.dumps(meta, allow_nan=False)})
    except SafetensorError as error:  # an OSError inside: disk full, no rights
        partial.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    os.replace(partial, path)
    # Later ones are of a past that was given up: a run that came to nothing started again.
    kept = [other for other in list_checkpoints(folder) if other.name <= path.name][-KEPT:]
    for other in list_checkpoints(folder):
        if other not in kept:
            other.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first. Names only: nothing is opened."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_checkpoint(path: Path) -> Checkpoint:
    """All of it, on the CPU. Raises UserError if it is cut short, of another format or lacks a part."""
    others = [other for other in list_checkpoints(path.parent) if other.name < path.name]
    way_out = f"Delete it to continue from {others[-1].name}." if others else "Delete it to start this job again from the beginning."
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(str(path), "pt") as file:
            meta = json.loads((file.metadata() or {}).get("dreamfusion", "null"))
            for key in file.keys():
                part, name = key.split("/", 1)
                parts.setdefault(part, {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"The checkpoint {path} is damaged or was cut short.", way_out, "checkpoint") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"The checkpoint {path} is of another version of the engine.", way_out, "checkpoint")
    for part in meta["parts"]:
        parts.setdefault(part, {})  # a part may have no tensor
    missing = set(PARTS) - parts.keys()
    if missing:
        raise UserError(f"The checkpoint {path} lacks {', '.join(sorted(missing))} and cannot be resumed.", way_out, "checkpoint")
    return Checkpoint(parts, meta)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint; None if there is none. Raises UserError."""
    paths = list_checkpoints(folder)
    return load_checkpoint(paths[-1]) if paths else None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments as "index.name"; numbers become tensors of one element."""
    tensors = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"{index}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(float(value))
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; the parameter groups keep what they were built with."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
