"""What every multi-resolution grid shares: the sizes of its levels, and how they open from coarse to fine."""

from __future__ import annotations

import math


def level_resolutions(n_levels: int, base_resolution: int, finest_resolution: int) -> tuple[int, ...]:
    """Cells per axis of each level, growing by a constant factor (Instant NGP, 2201.05989, eq. 2 and 3)."""
    if n_levels == 1:
        return (finest_resolution,)
    growth = math.log(finest_resolution / base_resolution) / (n_levels - 1)
    return tuple(round(base_resolution * math.exp(growth * level)) for level in range(n_levels))


def level_openness(n_levels: int, max_level: float) -> tuple[float, ...]:
    """How far each level is open, 0 to 1, when the fraction `max_level` of all levels is.

    The level that is just opening counts in part, so that nothing jumps when a level joins. The coarsest is always open.
    """
    opened = max(1.0, max_level * n_levels)
    return tuple(min(1.0, max(0.0, opened - level)) for level in range(n_levels))
