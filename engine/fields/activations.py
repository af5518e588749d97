"""From stored numbers to densities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# exp(15) is beyond any density that still changes a pixel; a larger slope would only throw the optimizer off.
_MAX_EXPONENT = 15.0
# Under exp the gradient of emptiness is its density: with none at all nothing could ever grow there.
MIST = 0.01


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
    """log(density * exp(-2 |x|^2 / radius^2) + floor) [M], to be added before exp: a Gaussian cloud in thin mist.

    DreamFusion (2209.14988, appendix A.2) and stable-dreamfusion add the Gaussian itself before the activation. Under exp that
    leaves a density of 1 in all of the empty box, an opacity of 0.9 across it, which every step then has to march through.
    """
    gaussian = density * torch.exp(-2.0 * positions.square().sum(-1) / radius**2)
    return torch.log(gaussian + MIST)


def softplus_gaussian(positions: Tensor, density: float, radius: float) -> Tensor:
    """The number [M] whose softplus is density * exp(-2 |x|^2 / radius^2) + floor: the cloud of `exp_blob` under softplus."""
    wanted = density * torch.exp(-2.0 * positions.square().sum(-1) / radius**2) + MIST
    return wanted + torch.log(-torch.expm1(-wanted))


def exp_sphere(positions: Tensor, density: float, radius: float) -> Tensor:
    """The number [M] whose exp is softplus(density * (1 - |x| / radius)) + floor: the ball of `softplus_blob` under exp."""
    return torch.log(F.softplus(softplus_blob(positions, density, radius)) + MIST)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"softplus": F.softplus, "exp": trunc_exp}
# By activation and shape. Both shapes stand for the same densities under either activation.
BLOBS: dict[tuple[str, str], Callable[[Tensor, float, float], Tensor]] = {
    ("softplus", "sphere"): softplus_blob,
    ("softplus", "gaussian"): softplus_gaussian,
    ("exp", "gaussian"): exp_blob,
    ("exp", "sphere"): exp_sphere,
}
# The shape that each activation's own paper starts with, and the kernels know.
OWN_BLOB = {"softplus": "sphere", "exp": "gaussian"}
