"""From stored numbers to densities."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# exp(15) is beyond any density that still changes a pixel; a larger slope would only throw the optimizer off.
_MAX_EXPONENT = 15.0


class _TruncExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * x.clamp(max=_MAX_EXPONENT).exp()


def trunc_exp(x: Tensor) -> Tensor:
    """exp(x) whose derivative is exp(min(x, 15)). Source: Instant NGP's density activation."""
    return _TruncExp.apply(x)  # type: ignore[no-untyped-call]


def softplus_blob(positions: Tensor, density: float, radius: float) -> Tensor:
    """density * (1 - |x| / radius) [M], to be added before softplus. Source: Magic3D (2211.10440), section 4."""
    return density * (1.0 - positions.norm(dim=-1) / radius)


def exp_blob(positions: Tensor, density: float, radius: float) -> Tensor:
    """density * exp(-|x|^2 / (2 radius^2)) [M], to be added before exp. Source: DreamFusion (2209.14988), appendix A.2."""
    return density * torch.exp(-positions.square().sum(-1) / (2.0 * radius**2))


ACTIVATIONS = {"softplus": F.softplus, "exp": trunc_exp}
BLOBS = {"softplus": softplus_blob, "exp": exp_blob}
