"""Losses beside the guidance. Each is a mean, so that its weight means the same at every resolution and batch size."""

from __future__ import annotations

import torch
from torch import Tensor

# Keeps the entropy's gradient finite where a pixel is all or nothing (threestudio clamps alike).
MIN_OPACITY = 1e-3


def opacity_loss(opacity: Tensor) -> Tensor:
    """Mean of sqrt(o^2 + 0.01) - 0.1 over pixels [B, H, W]: 0 for empty pictures. Against haze and floaters.

    Source: threestudio's sparsity loss; the offset changes no gradient.
    """
    return (opacity.square() + 0.01).sqrt().mean() - 0.1


def entropy_loss(opacity: Tensor) -> Tensor:
    """Mean binary entropy of pixels [B, H, W] in nats, -o ln o - (1-o) ln(1-o): 0 where covered or not, ln 2 at one half."""
    o = opacity.clamp(MIN_OPACITY, 1 - MIN_OPACITY)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean()


def orientation_loss(weights: Tensor, normals: Tensor, directions: Tensor, n_rays: int) -> Tensor:
    """Sum over samples of sg(w) max(0, n.d)^2, by ray: no visible surface may face away from its camera.

    Args:
        weights: [M] compositing weights, held constant. normals, directions: [M, 3] unit; directions leave the camera.
        n_rays: rays of the batch, also those without samples.
    Source: Ref-NeRF (2112.03907), eq. 11.
    """
    facing_away = (normals * directions).sum(-1).clamp(min=0)
    return (weights.detach() * facing_away.square()).sum() / n_rays


def tv_loss(opacity: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels of [B, H, W], down and across."""
    down = (opacity[:, 1:] - opacity[:, :-1]).square().mean()
    across = (opacity[:, :, 1:] - opacity[:, :, :-1]).square().mean()
    return down + across


def smoothness_loss(here: Tensor, there: Tensor) -> Tensor:
    """Mean absolute difference of what stands at places [M, ...] and at near neighbours of them: total variation, drawn at random.

    The absolute value, unlike a square, does not mind one sharp surface, only many small ones: fur and crumbs.
    """
    return (here - there).abs().mean()


def is_finite(*values: Tensor) -> bool:
    """Whether all values are finite. Waits for the GPU."""
    return all(bool(torch.isfinite(value).all()) for value in values)
