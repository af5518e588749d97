"""Which cells are worth sampling, as a torch operator. C cascades, N cells per axis, P the power of two at or above N."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.ops import _flat, _implement, _kernels, _library

# Bytes of eight cells.
_BYTES_GRAIN = 2048

_library.define("occupancy_update(Tensor before, Tensor found, float decay, Tensor threshold) -> (Tensor, Tensor)")


def occupancy_update(before: Tensor, found: Tensor, decay: float, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """densities [C, N, N, N] = max(decay * before, found), and bits [C, P^3 / 8] uint8 in Morton order. No gradient.

    A cell's bit is set where its density, or that of one of its 26 neighbours, is at or above the threshold; cells beyond N have none.

    Args:
        before, found: [C, N, N, N], N in 2..256. threshold: a scalar tensor, which is not waited for.
    Raises: ValueError for another shape.
    """
    cubes = before.ndim == 4 and len(set(before.shape[1:])) == 1 and 2 <= before.shape[1] <= 256
    if not cubes or found.shape != before.shape or threshold.numel() != 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (before, found, threshold))
        raise ValueError(f"before and found must both be [C, N, N, N], N in 2..256, and threshold a scalar, got {shapes}")
    densities, bits = torch.ops.dreamfusion.occupancy_update(before, found, decay, threshold)
    return densities, bits


def _outputs(before: Tensor, *_rest: object) -> tuple[Tensor, Tensor]:
    side = 1 << (before.shape[1] - 1).bit_length()
    return before.new_empty(before.shape), before.new_zeros(before.shape[0], side**3 // 8, dtype=torch.uint8)


def _update(before: Tensor, found: Tensor, decay: float, threshold: Tensor) -> tuple[Tensor, Tensor]:
    before, found, threshold = _flat(before, found, threshold)
    (densities, bits), n, kernels = _outputs(before), before.shape[1], _kernels(before)
    parts = kernels.parts(before.shape[0] * ((n + 1) // 2) ** 3, _BYTES_GRAIN)
    arguments = (before, found, float(decay), threshold, n, densities, bits)
    kernels.run("occupancy_update", before.dtype, parts, lambda _part: arguments)
    return densities, bits


_implement("occupancy_update", _update)
torch.library.register_fake("dreamfusion::occupancy_update", _outputs, lib=_library)
