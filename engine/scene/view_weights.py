"""How much of each named view a camera shows.

One function, used twice: the training of Toybox blends its text embeddings with these weights, and the view prompts of a
run blend with the same ones, so that the prior is asked exactly what it was taught.

Shapes: B cameras.
"""

from __future__ import annotations

import torch
from torch import Tensor

VIEWS = ("front", "left side", "back", "right side", "overhead", "bottom")
_QUARTER_DEG = 90.0  # the four side views stand a quarter turn apart, as do horizon and pole


def view_weights(azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
    """Weights of the six views of VIEWS: linear in elevation between side views and pole, linear in azimuth between sides.

    With p = |elevation| / 90: overhead (elevation > 0) or bottom (elevation < 0) weighs p. The rest, 1 - p, is shared by
    the two nearest of front (azimuth 0), left side (90), back (180) and right side (-90), each 1 - distance / 90.

    Args:
        azimuth_deg: [B] float, any number of turns; 0 is the front, 90 shows the object's left side.
        elevation_deg: [B] float in [-90, 90]; what lies outside counts as the pole.
    Returns:
        [B, 6] float of azimuth_deg's dtype, >= 0, rows sum to 1.
    Raises:
        ValueError: if the two are not of one shape [B].
    """
    if azimuth_deg.ndim != 1 or azimuth_deg.shape != elevation_deg.shape:
        raise ValueError(f"azimuth_deg and elevation_deg must both be [B], got {list(azimuth_deg.shape)} and {list(elevation_deg.shape)}")
    polar = (elevation_deg.abs() / _QUARTER_DEG).clamp(max=1.0)  # [B]
    centers_deg = torch.arange(4, device=azimuth_deg.device, dtype=azimuth_deg.dtype) * _QUARTER_DEG  # [4]
    # signed angle from each side view, in [-180, 180)
    offset_deg = torch.remainder(azimuth_deg[:, None] - centers_deg + 180.0, 360.0) - 180.0  # [B, 4]
    sides = (1.0 - offset_deg.abs() / _QUARTER_DEG).clamp(min=0.0) * (1.0 - polar[:, None])  # [B, 4]
    zero = torch.zeros_like(polar)
    overhead = torch.where(elevation_deg > 0, polar, zero)
    bottom = torch.where(elevation_deg < 0, polar, zero)
    return torch.cat([sides, overhead[:, None], bottom[:, None]], dim=1)
