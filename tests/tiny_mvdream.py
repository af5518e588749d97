"""A tiny random MVDream in its published layout (layers by their first names), for tests without real weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny_sd import build_tiny_sd

# unet/config.json of the published conversion, at toy size. Groups of 32 channels are part of the architecture.
CONFIG = {
    "_class_name": "MultiViewUNetModel", "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": 1, "attention_resolutions": [2, 1], "channel_mult": [1, 2, 2], "num_head_channels": 16,
    "transformer_depth": 1, "context_dim": 16, "camera_dim": 16, "use_checkpoint": False,
}  # fmt: skip


def tiny_state(config: dict = CONFIG, seed: int = 0) -> dict[str, Tensor]:  # type: ignore[type-arg]
    """Random weights by the published names, built from the architecture's description alone."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 1
        around = 1.0 if len(shape) == 1 else 0.0  # norms
        state[f"{name}.weight"] = around + torch.randn(shape, generator=generator) * (0.7 / fan_in**0.5 if len(shape) > 1 else 0.1)
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.05

    base, context = config["model_channels"], config["context_dim"]
    time = 4 * base

    def residual(name: str, n_in: int, n_out: int) -> None:
        add(f"{name}.in_layers.0", n_in)
        add(f"{name}.in_layers.2", n_out, n_in, 3, 3)
        add(f"{name}.emb_layers.1", n_out, time)
        add(f"{name}.out_layers.0", n_out)
        add(f"{name}.out_layers.3", n_out, n_out, 3, 3)
        if n_in != n_out:
            add(f"{name}.skip_connection", n_out, n_in, 1, 1)

    def transformer(name: str, n: int) -> None:
        add(f"{name}.norm", n)
        add(f"{name}.proj_in", n, n)
        add(f"{name}.proj_out", n, n)
        inside = f"{name}.transformer_blocks.0"
        for attention, source in (("attn1", n), ("attn2", context)):
            add(f"{inside}.{attention}.to_q", n, n, bias=False)
            for layer in ("to_k", "to_v"):
                add(f"{inside}.{attention}.{layer}", n, source, bias=False)
            add(f"{inside}.{attention}.to_out.0", n, n)
        add(f"{inside}.ff.net.0.proj", 8 * n, n)
        add(f"{inside}.ff.net.2", n, 4 * n)
        for norm in ("norm1", "norm2", "norm3"):
            add(f"{inside}.{norm}", n)

    add("time_embed.0", time, base)
    add("time_embed.2", time, time)
    add("camera_embed.0", time, config["camera_dim"])
    add("camera_embed.2", time, time)
    add("input_blocks.0.0", base, config["in_channels"], 3, 3)
    skips, n, block, last = [base], base, 1, len(config["channel_mult"]) - 1
    for level, mult in enumerate(config["channel_mult"]):
        for _ in range(config["num_res_blocks"]):
            residual(f"input_blocks.{block}.0", n, base * mult)
            n = base * mult
            if 2**level in config["attention_resolutions"]:
                transformer(f"input_blocks.{block}.1", n)
            skips.append(n)
            block += 1
        if level < last:
            add(f"input_blocks.{block}.0.op", n, n, 3, 3)
            skips.append(n)
            block += 1
    residual("middle_block.0", n, n)
    transformer("middle_block.1", n)
    residual("middle_block.2", n, n)
    block = 0
    for level, mult in reversed(list(enumerate(config["channel_mult"]))):
        for i in range(config["num_res_blocks"] + 1):
            residual(f"output_blocks.{block}.0", n + skips.pop(), base * mult)
            n = base * mult
            place = 1
            if 2**level in config["attention_resolutions"]:
                transformer(f"output_blocks.{block}.1", n)
                place = 2
            if level and i == config["num_res_blocks"]:
                add(f"output_blocks.{block}.{place}.conv", n, n, 3, 3)
            block += 1
    add("out.0", n)
    add("out.2", config["out_channels"], n, 3, 3)
    return state


def build_tiny_mvdream(root: Path, **config: object) -> Path:
    """A tiny Stable Diffusion whose U-Net is a tiny MVDream's. Returns root."""
    build_tiny_sd(root)
    settings = {**CONFIG, **config}
    (root / "unet" / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(tiny_state(), str(root / "unet" / "diffusion_pytorch_model.safetensors"))
    return root
