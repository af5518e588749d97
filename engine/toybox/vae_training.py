"""Step 1 of training Toybox: the autoencoder.

Its first three latent channels are held to the area-averaged picture (scaled to unit spread): colours then survive the
bottleneck, the U-Net begins on something like pixels, and the encoder's gradient points where a painter would expect,
which is what distillation through it needs. The other channels are free to carry edges. It is trained also on blurred,
foggy, noisy and oddly coloured renders, because that is what optimisation begins with.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from engine.toybox.appearance import degrade
from engine.toybox.models import DOWNSCALE, make_vae
from engine.toybox.pictures import Pictures
from engine.toybox.sheets import save_sheet

RGB_GAIN = 1.8  # brings (2 * rgb - 1) of the data to about unit spread
RGB_WEIGHT = 0.5
KL_WEIGHT = 2e-4
EDGE_WEIGHT = 0.6
DEGRADED_SHARE = 0.3
# Spread of the channels that carry edges, against 1 of those that carry colour.
DETAIL_SPREAD = 0.6
# The decoder must bear what the U-Net gets slightly wrong.
LATENT_NOISE = 0.08


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    """Differences to the right and lower neighbour of [B, C, H, W]."""
    return images[..., :, 1:] - images[..., :, :-1], images[..., 1:, :] - images[..., :-1, :]


def vae_loss(vae: Any, images: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    """images [B, 3, H, W] in [-1, 1] -> scalar loss and its parts."""
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(device=images.device)
    latents = posterior.mean + (posterior.std.clamp_max(1.0) + LATENT_NOISE) * noise
    output = vae.decode(latents).sample.float()
    pixel = (output - images).abs().mean()
    edge = torch.stack([(a - b).abs().mean() for a, b in zip(edges(output), edges(images))]).sum()
    rgb = F.mse_loss(posterior.mean[:, :3], RGB_GAIN * F.avg_pool2d(images, DOWNSCALE))
    kl = 0.5 * (posterior.mean[:, 3:].square() + posterior.var[:, 3:] - 1.0 - posterior.logvar[:, 3:]).mean()
    kl = kl + 0.5 * (posterior.var[:, :3] * 100 - 1.0 - posterior.logvar[:, :3] - 4.6).mean()
    loss = pixel + EDGE_WEIGHT * edge + RGB_WEIGHT * rgb + KL_WEIGHT * kl
    return loss, {"pixel": pixel.item(), "edge": float(edge.detach()), "rgb": rgb.item(), "kl": kl.item()}


def train(data: Path, out: Path, *, steps: int, batch: int, seconds: float, bf16: bool, decoder_only: bool, lr: float = 2e-3) -> None:
    """Make or continue the autoencoder in `out`. With `decoder_only` latents stay what they are, so that a U-Net keeps its worth."""
    pictures = Pictures(data, seed=1)
    checked = pictures.draw(24).images.permute(0, 3, 1, 2) * 2 - 1
    generator = torch.Generator().manual_seed(2)
    vae: Any = AutoencoderKL.from_pretrained(str(out)) if (out / "config.json").exists() else make_vae()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = vae.to(device=device, memory_format=torch.channels_last).train()
    checked = checked.to(device=device)
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    trained = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=1e-4)
    began = time.monotonic()
    for step in range(steps):
        share = max(step / steps, (time.monotonic() - began) / seconds)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100) * max(0.02, 1 - share)
        if step % 200 == 0:
            pictures.refresh()
        images = pictures.draw(batch).images
        n_degraded = int(batch * DEGRADED_SHARE)
        images = torch.cat([degrade(images[:n_degraded], generator), images[n_degraded:]])
        images = (images.permute(0, 3, 1, 2) * 2 - 1).to(device=device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, parts = vae_loss(vae, images, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 50 == 0:
            seconds_spent = round(time.monotonic() - began)
            print(json.dumps({"step": step, "s": seconds_spent, **{k: round(v, 4) for k, v in parts.items()}}), flush=True)
        if step % 300 == 299 and not decoder_only:
            save(vae, out, checked)
    if not decoder_only:
        balance(vae, checked)
    save(vae, out, checked)


@torch.no_grad()
def balance(vae: Any, images: Tensor) -> None:
    """Fold a scale per channel into the convolutions on both sides of the latents, so that pictures come out the same.

    Colour channels get unit spread, the others `DETAIL_SPREAD`: the U-Net then spends its effort on colour and outline
    first, and noise hides edges before it hides them.
    """
    mean = vae.encode(images).latent_dist.mean
    spread = torch.full((mean.shape[1],), DETAIL_SPREAD)
    spread[:3] = 1.0
    scale = spread.to(device=mean.device) / mean.std(dim=(0, 2, 3))
    channels = len(scale)
    vae.quant_conv.weight[:channels] *= scale[:, None, None, None]
    vae.quant_conv.bias[:channels] *= scale
    vae.quant_conv.bias[channels:] += 2 * scale.log()  # the log variances
    vae.post_quant_conv.weight /= scale[None, :, None, None]


@torch.no_grad()
def save(vae: Any, out: Path, checked: Tensor) -> None:
    """Write the weights and a sheet of pictures and rebuilds."""
    mean = vae.encode(checked).latent_dist.mean
    vae.save_pretrained(str(out), safe_serialization=True)
    pairs = torch.stack([checked, vae.decode(mean).sample.clamp(-1, 1)], dim=1).flatten(0, 1)
    save_sheet(out / "sheet.png", (pairs.permute(0, 2, 3, 1).cpu() + 1) / 2, columns=12)
    print(json.dumps({"std per channel": [round(float(s), 2) for s in mean.std(dim=(0, 2, 3))]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train Toybox's autoencoder.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop (and finish the learning rate's decay) after this time")
    parser.add_argument("--decoder-only", action="store_true", help="sharpen the decoder of a finished autoencoder")
    parser.add_argument("--bf16", action="store_true", help="worth it on processors with AMX or AVX512-BF16 only")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.data, args.out, steps=args.steps, batch=args.batch, seconds=args.seconds, bf16=args.bf16, decoder_only=args.decoder_only)


if __name__ == "__main__":
    main()
