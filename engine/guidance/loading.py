"""What every family does when it loads: safetensors alone, never from the network, never with code from the folder.

`DiffusionPipeline.from_pretrained` on a user's folder can run that folder's code (CVE-2026-44513), so each part is loaded by
its class. Import this before diffusers: the switches that keep the libraries offline are read once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")

import torch
from safetensors import SafetensorError

from engine.errors import UserError


def dtype_for(device: torch.device | str, dtype: torch.dtype | None) -> torch.dtype:
    """`dtype` if it is given, else float32 on a CPU (half precision is slow or missing there), float16 elsewhere."""
    if dtype is not None:
        return dtype
    return torch.float32 if torch.device(device).type == "cpu" else torch.float16


def weights_of(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments for `from_pretrained` that read safetensors and nothing else; the fp16 files where only those are there."""
    arguments: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "dtype": dtype}
    names = [path.name for path in folder.glob("*.safetensors*")]
    if names and all(".fp16." in name for name in names):
        arguments["variant"] = "fp16"
    return arguments


@contextmanager
def loading_errors(root: Path) -> Iterator[None]:
    """What the libraries raise for a folder that they cannot read, as a UserError, code "model"."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()  # our own progress is on the terminal; theirs would tear it
    diffusers_logging.set_verbosity_error()  # its warnings are for programmers: each load praises accelerate
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The model in {root} cannot be loaded: {reason.rstrip('.')}.",
            "Fetch the folder again, with the .safetensors files of all its parts.",
            "model",
        ) from error
