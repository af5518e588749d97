"""From densities along rays to weights and sums per ray.

Shapes: M packed samples, R rays, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import ops


def weights_from_density(densities: Tensor, deltas: Tensor, packed_info: Tensor, stop: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Compositing weights of packed samples: w_i = T_i (1 - exp(-sigma_i delta_i)), T_i = exp(-sum_{j<i} sigma_j delta_j).

    Args:
        densities: [M] float, per world unit, >= 0.
        deltas: [M] float, sample lengths in world units, > 0.
        packed_info: [R, 2] int64, first sample and number of samples of each ray; samples lie in ray order without gaps.
        stop: samples that less than this share of light reaches have no weight: a ray ends before the first of them.
    Returns:
        weights [M] in [0, 1], summing to at most 1 per ray, and transmittance [M] in [0, 1], before each sample.
    Differentiable in densities and deltas. Rays without samples are allowed.
    Raises:
        ValueError: if a shape or dtype differs from the above.
    Source: NeRF (2003.08934), eq. 3.
    """
    if densities.ndim != 1 or densities.shape != deltas.shape or packed_info.ndim != 2 or packed_info.dtype != torch.int64:
        raise ValueError(
            f"densities and deltas must be [M] and packed_info [R, 2] int64, got {list(densities.shape)}, {list(deltas.shape)}, "
            f"{list(packed_info.shape)} {packed_info.dtype}"
        )
    optical_depths = densities * deltas  # [M]
    # One running sum over all rays, less what stood there where the ray began. In float64: after ten thousand opaque rays the
    # running sum of a float32 would be good to two digits only.
    before = (optical_depths.double().cumsum(0) - optical_depths).contiguous()
    first = torch.repeat_interleave(packed_info[:, 0], packed_info[:, 1], output_size=densities.shape[0])
    transmittance = torch.exp(-(before - before.index_select(0, first)).to(densities.dtype))
    weights = transmittance * -torch.expm1(-optical_depths)
    return (torch.where(transmittance < stop, 0.0, weights) if stop > 0 else weights), transmittance


def accumulate(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    """Sum of weights * values over each ray's samples.

    Args:
        weights: [M] float.
        values: [M, C] float, or None for the sum of the weights alone.
        ray_indices: [M] int64 in [0, n_rays).
    Returns:
        [n_rays, C] ([n_rays, 1] without values), differentiable in weights and values. Rays without samples get 0.
    """
    weighted = weights[:, None] if values is None else weights[:, None] * values
    out = weighted.new_zeros(n_rays, weighted.shape[1])
    return out.scatter_add_(0, ray_indices[:, None].expand_as(weighted), weighted)


def composite(
    densities: Tensor, deltas: Tensor, values: Tensor, ray_indices: Tensor, packed_info: Tensor, stop: float = 0.0
) -> tuple[Tensor, Tensor]:
    """weights [M] and the sums [R, C] of weights * values over each ray: both functions above in one, by a kernel where there is one.

    Args: as above. Differentiable in densities and values.
    """
    if ops.serves(densities):
        return ops.composite(densities, deltas, values, packed_info, stop)
    if len(packed_info):  # to the last ray what is nobody's: it has no length, so no weight
        packed_info = packed_info.clone()
        packed_info[-1, 1] = len(densities) - packed_info[-1, 0]
    weights, _ = weights_from_density(densities, deltas, packed_info, stop)
    return weights, accumulate(weights, values, ray_indices, packed_info.shape[0])
