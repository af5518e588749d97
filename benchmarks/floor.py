"""How fast this machine can be at best: the rates of a matrix product and of a copy, measured, and what a model's parts must do.

A floor is the larger of work over rate and bytes over rate, part by part; nothing that computes the same on this machine is faster, unless
its rates are better than these two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.large_models import Architecture, make_parts, make_tiny_vae, random_embeds


@dataclass(frozen=True)
class Rates:
    """flops: of a matrix product, per second, a multiply-add is two. bytes: of a copy, per second, read and written ones counted."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """What one call must do. flops: matrix products and convolutions alone. bytes: weights alone; activations may stay in caches."""

    flops: int
    bytes: int

    def floor(self, rates: Rates) -> float:
        """Seconds."""
        return max(self.flops / rates.flops, self.bytes / rates.bytes)


def wait(device: torch.device) -> None:
    """Until all that was queued is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(run: Callable[[], object], device: torch.device, rounds: int = 7, now: Callable[[], float] = time.perf_counter) -> float:
    """The fastest of some rounds, after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        wait(device)
        start = now()
        run()
        wait(device)
        times.append(now() - start)
    return min(times[1:])


def measure_rates(device: torch.device, dtype: torch.dtype, now: Callable[[], float] = time.perf_counter) -> Rates:
    """Of a square matrix product in `dtype` and of a copy, both far larger than any cache."""
    side, n_bytes = (8192, 1 << 30) if device.type == "cuda" else (2048, 1 << 27)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = best_seconds(lambda: torch.mm(left, right), device, now=now)
    return Rates(2 * side**3 / product, copy_rate(device, n_bytes, now))


def copy_rate(device: torch.device, n_bytes: int, now: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second, read and written ones counted, of a copy of n_bytes."""
    source, target = (torch.zeros(n_bytes // 4, device=device) for _ in range(2))
    return 2 * 4 * len(source) / best_seconds(lambda: target.copy_(source), device, now=now)


def weight_bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters())


def count_flops(run: Callable[[], object]) -> int:
    """Of matrix products and convolutions, forward and backward; attention as the two products that define it."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def unet_work(architecture: Architecture, rows: int, dtype: torch.dtype) -> Work:
    """One call of the U-Net for `rows` noisy latents, counted on shapes alone."""
    unet = make_parts(architecture, "meta", dtype)["unet"]
    size, channels = architecture.unet["sample_size"], architecture.unet.get("in_channels", 4)
    noisy = torch.empty(rows, channels, size, size, device="meta", dtype=dtype)
    embeds = random_embeds(architecture, rows, "meta").to(dtype=dtype)
    extra = {}
    if architecture.kind == "stable-diffusion-xl":
        n_pooled = architecture.unet["projection_class_embeddings_input_dim"] - 6 * architecture.unet["addition_time_embed_dim"]
        added = {"text_embeds": embeds[:, -1, :n_pooled], "time_ids": torch.empty(rows, 6, device="meta", dtype=dtype)}
        embeds, extra = embeds[:, :-1], {"added_cond_kwargs": added}
    with torch.no_grad():
        flops = count_flops(lambda: unet(noisy, torch.zeros(rows, device="meta"), encoder_hidden_states=embeds, **extra))
    return Work(flops, weight_bytes(unet))


def encoder_work(architecture: Architecture, n_images: int, dtype: torch.dtype, *, tiny: bool = False) -> Work:
    """The way of pictures into latents and of a gradient back, counted on shapes alone; nothing for a model of pixels."""
    if architecture.vae is None:
        return Work(0, 0)
    vae = make_tiny_vae(architecture, "meta", dtype) if tiny else make_parts(architecture, "meta", dtype)["vae"]
    dtype = next(vae.parameters()).dtype
    size = architecture.unet["sample_size"] * 2 ** (len(architecture.vae["block_out_channels"]) - 1)
    images = torch.empty(n_images, 3, size, size, device="meta", dtype=dtype, requires_grad=True)
    flops = count_flops(lambda: latents_of(vae.encode(images)).sum().backward())  # type: ignore[operator]
    return Work(flops, 2 * weight_bytes(vae.encoder))  # type: ignore[arg-type]


def latents_of(encoded: object) -> Tensor:
    """What a VAE's `encode` returned, or a tiny one's, as latents."""
    found: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()  # type: ignore[attr-defined]
    return found
