"""How the diffusion model is loaded: the settings. No torch here, so that `--help` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import UserError, check_range

VramLevel = Literal["low", "normal", "high"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class Lora:
    """A file and how strongly it acts; 1 as it was trained, 0 not at all."""

    path: Path
    scale: float = 1.0


def parse_loras(text: str) -> tuple[Lora, ...]:
    """`FILE[:SCALE]`, several with commas between. Raises UserError, code "option"."""
    loras = []
    for item in (part.strip() for part in text.split(",")):
        if not item:
            continue
        path, colon, scale = item.rpartition(":")
        if not colon or not re.fullmatch(r"-?\d*\.?\d+", scale):
            path, scale = item, "1"
        if not path.endswith(".safetensors"):
            text = f"lora is {item!r}, but must be a .safetensors file, with :SCALE after it if it shall act more or less."
            raise UserError(text, "Use for example --lora style.safetensors:0.8", "option")
        loras.append(Lora(Path(path).expanduser(), float(scale)))
    return tuple(loras)


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiserConfig:
    """How the diffusion model is loaded, and what is put on top of it."""

    vram: VramLevel = "normal"
    """What is given up for memory: "high" nothing, "normal" some speed of the encoder on a GPU, "low" more speed: one picture at a
    time, attention in slices, the U-Net block by block. A job whose memory runs full goes one lower by itself."""
    precision: Precision = "auto"
    """What the model computes in: "auto" is float16 on a GPU, bfloat16 on a CPU with instructions for it, else float32. bfloat16 is for
    models that overflow float16, too."""
    lora: str = ""
    """LoRA files to put on top, FILE or FILE:SCALE, several with commas between; .safetensors only."""
    tiny_vae: str = "auto"
    """A tiny encoder (TAESD, AutoencoderTiny) that stands in for the model's own for most of the run, by its name or folder; "none";
    "auto" takes the one that was made for the model where --vram is low and it was fetched: models download taesd."""
    tiny_vae_until: float = 0.8
    """Up to which part of the run the tiny encoder stands in. 0..1."""
    control_net: str = ""
    """Folder of a ControlNet that holds the model to the mesh it paints; stages texture and refine; empty: none."""
    control_kind: Literal["depth", "normal"] = "depth"
    """What the ControlNet was made to read: depth, white is near, or normals, red right, green up, blue towards the camera."""
    control_scale: float = 1.0
    """How strongly the ControlNet acts. 0..2."""

    def __post_init__(self) -> None:
        check_range("model.tiny-vae-until", self.tiny_vae_until, 0, 1)
        check_range("model.control-scale", self.control_scale, 0, 2)
        parse_loras(self.lora)
        if not self.control_net and (self.control_kind != "depth" or self.control_scale != 1):
            name = "control-kind" if self.control_kind != "depth" else "control-scale"
            raise UserError(
                f"model.{name} has no effect without a ControlNet.", "Name its folder with --control-net, or leave it out.", "option"
            )
