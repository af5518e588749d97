"""Less memory for a model, at the price of speed. The results are the same up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import VramLevel


@dataclass(frozen=True)
class Savings:
    """What a level gives up.

    Attributes:
        checkpoint_vae: the encoder's activations are computed again for the gradient and not kept (1604.06174).
        one_at_a_time: the VAE takes the pictures of a batch one after the other.
        slice_attention: attention is computed in slices of heads.
        stream_unet: the U-Net lies in main memory, each block comes to the GPU while it works. Nothing to gain on a CPU.
    """

    checkpoint_vae: bool = False
    one_at_a_time: bool = False
    slice_attention: bool = False
    stream_unet: bool = False


SAVINGS: dict[VramLevel, Savings] = {
    "high": Savings(),
    "normal": Savings(checkpoint_vae=True),
    "low": Savings(checkpoint_vae=True, one_at_a_time=True, slice_attention=True, stream_unet=True),
}


def lower_level(level: VramLevel) -> VramLevel | None:
    """The next level that needs less; None below "low"."""
    order = get_args(VramLevel)
    return order[order.index(level) - 1] if level != order[0] else None


def save_memory(denoiser: Denoiser, level: VramLevel) -> None:
    """Make a loaded model need less, as `level` says. On a CPU "normal" is "high": memory is plenty there, time is not."""
    on_gpu = denoiser.device.type != "cpu"
    savings = SAVINGS["high" if level == "normal" and not on_gpu else level]
    parts: dict[str, Any] = denoiser.parts
    unet, vae = parts.get("unet"), parts.get("vae")
    if on_gpu and unet is not None:
        unet.to(memory_format=torch.channels_last)  # what tensor cores want; slower on a CPU
    if vae is not None and savings.checkpoint_vae and getattr(vae, "_supports_gradient_checkpointing", False):
        vae.enable_gradient_checkpointing(_checkpoint)
    if vae is not None and savings.one_at_a_time:
        vae.enable_slicing()
    if savings.slice_attention:
        for part in (unet, parts.get("control_net")):
            if part is not None and hasattr(part, "set_attention_slice"):
                part.set_attention_slice("auto")
    if unet is not None and savings.stream_unet and on_gpu:
        stream(unet, lambda weight: weight.to(denoiser.device, non_blocking=True), keep=lambda weight: weight.to("cpu").pin_memory())


def _checkpoint(function: Callable[..., Any], *arguments: Any) -> Any:
    return torch.utils.checkpoint.checkpoint(function, *arguments, use_reentrant=False)


def stream(module: nn.Module, fetch: Callable[[Tensor], Tensor], keep: Callable[[Tensor], Tensor]) -> None:
    """Keep a frozen module's weights where `keep` puts them, and have a block's where `fetch` puts them only while it works.

    Frozen, so what was fetched is dropped and never brought back. Without gradient only: a backward pass would need the weights again.
    """
    for block in blocks(module):
        homes = {name: keep(tensor.detach()) for name, tensor in _tensors(block)}
        places = dict(_tensors(block))
        for name, tensor in places.items():
            tensor.data = homes[name]

        def bring(_block: nn.Module, _inputs: object, places: dict[str, Tensor] = places, homes: dict[str, Tensor] = homes) -> None:
            for name, tensor in places.items():
                tensor.data = fetch(homes[name])

        def drop(
            _block: nn.Module, _inputs: object, _output: object, places: dict[str, Tensor] = places, homes: dict[str, Tensor] = homes
        ) -> None:
            for name, tensor in places.items():
                tensor.data = homes[name]

        block.register_forward_pre_hook(bring)
        block.register_forward_hook(drop)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The parts that a module calls one after the other: its children, and those of its lists."""
    for child in module.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):  # never called itself
            yield from blocks(child)
        else:
            yield child


def _tensors(block: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from block.named_parameters()
    yield from block.named_buffers()


def weight_bytes(denoiser: Denoiser) -> dict[str, int]:
    """Bytes of each part's weights, wherever they lie."""
    return {
        name: sum(tensor.numel() * tensor.element_size() for tensor in (*part.parameters(), *part.buffers()))
        for name, part in denoiser.parts.items()
    }
