"""Which numbers a frozen diffusion model computes in during a job.

Nothing is trained in this type: the field, its gradients and all that crosses the denoiser's interface are float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

# x86 processors with matrix or dot-product instructions for bfloat16. Without them torch emulates it hundreds of times slower, so
# what is not on this list, or was not measured (Arm's), stays with float32.
_FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16")


def job_dtype(device: torch.device, capabilities: Mapping[str, object] | None = None) -> torch.dtype:
    """float16 on a GPU; on a CPU bfloat16 where its instructions are there, else float32.

    Measured with Toybox on one core of a Zen 4: U-Net 119 to 80 ms, VAE's decoder 27 to 19 ms. The noise it predicts
    moves by 0.1 to 0.7 % of its size, a decoded picture by a third of 1/255, the gradient of a step by 2 % (SDS 4 %) where another
    draw of the noise moves it by 85 % (111 %); all root mean squares, bounded in `tests/unit/guidance/test_precision.py`.

    Args:
        capabilities: what a CPU can do, as `torch.cpu.get_capabilities` tells it; None asks this one.
    """
    if device.type != "cpu":
        return torch.float16
    found = torch.cpu.get_capabilities() if capabilities is None else capabilities
    return torch.bfloat16 if any(found.get(name) for name in _FAST_BFLOAT16) else torch.float32
