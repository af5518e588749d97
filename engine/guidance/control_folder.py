"""Whether a folder is a ControlNet's, as far as it can be told without torch."""

from __future__ import annotations

from pathlib import Path

from engine.errors import UserError


def check_control_folder(root: Path) -> None:
    """Raise UserError, code "model", unless `root` has diffusers' layout: config.json and safetensors in it."""
    if not (root / "config.json").is_file():
        raise UserError(f"{root} is no ControlNet: it has no config.json.", "Choose its folder in diffusers' layout.", "model")
    if not any(root.glob("*.safetensors")):
        raise UserError(f"{root} is no ControlNet: it holds no .safetensors file.", "Choose one with safetensors, not pickles.", "model")
