"""From which side views a camera's picture shall be kept away, and how much: what Perp-Neg (2304.04968) subtracts.

A diffusion model likes to paint a face on every side. A camera on the left says "left side view", and with Perp-Neg also:
whatever in "front view" is no part of that, less of it. The weights change smoothly with the azimuth, unlike a threshold,
which flickers between neighbouring cameras.

Shapes: B cameras.
"""

from __future__ import annotations

import torch
from torch import Tensor

# (A, B, C) of f(r) = A exp(-B r) + C, the paper's family with the constants that threestudio uses. r is 1 at the view named
# first and 0 at the one named second; f is 0 where the camera IS the view to keep away from.
FRONT_SIDE = (4.0, 0.5, -2.426)
SIDE_BACK = (1.0, 0.5, -0.606)
FRONT_BESIDE_BACK = (1.0, 0.5, 0.967)


def perp_neg_weights(azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
    """Weights, <= 0, of "front" and of the nearer "side" as views to keep away from.

    Front half, r = 1 - |a| / 90: front -f(r), side -f(1 - r), both with FRONT_SIDE. Back half, r = 2 - |a| / 90: front
    -f(r) with FRONT_BESIDE_BACK, side -f(r) with SIDE_BACK. They fall linearly with |elevation| to 0 at the poles, where
    another view's words stand.

    Args:
        azimuth_deg, elevation_deg: [B] float32; 0 is the front.
    Returns:
        [B, 2] float32, in -2..0.
    """
    distance = (torch.remainder(azimuth_deg + 180.0, 360.0) - 180.0).abs() / 90.0  # 0 front, 1 side, 2 back
    in_front = distance < 1
    front_ratio, back_ratio = 1 - distance, 2 - distance
    front = torch.where(in_front, _decay(front_ratio, FRONT_SIDE), _decay(back_ratio, FRONT_BESIDE_BACK))
    side = torch.where(in_front, _decay(1 - front_ratio, FRONT_SIDE), _decay(back_ratio, SIDE_BACK))
    level = 1 - (elevation_deg.abs() / 90.0).clamp(max=1.0)
    # The constants are rounded, so that f(1) is a ten-thousandth beside 0.
    return (-torch.stack([front, side], dim=1) * level[:, None]).clamp(max=0.0)


def _decay(ratio: Tensor, constants: tuple[float, float, float]) -> Tensor:
    a, b, c = constants
    return a * torch.exp(-b * ratio) + c
