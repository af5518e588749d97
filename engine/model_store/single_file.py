"""A single .safetensors file with all parts of a model, unpacked into a folder that the engine loads."""

from __future__ import annotations

from pathlib import Path

from engine.errors import UserError
from engine.model_store.progress import Report


def unpack(file: Path, folder: Path, report: Report) -> Path:
    raise UserError(f"{file} is a single file.", "Choose the folder of a model.", "model")
