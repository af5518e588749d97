"""Spherical harmonics of directions, smooth all round: what a learned background sees by where it is asked to.

By a kernel where there is one (`cuda_ext/ops_spherical.py`), else by its twin here in torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext import ops
from cuda_ext.ops_spherical import check_harmonics, recurrence, spherical_encode


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """Unit directions [M, 3] to real spherical harmonics [M, degree^2], see `spherical_encode`. Twice differentiable.

    Raises: ValueError for a degree outside 1..8 or directions of another shape.
    """
    return spherical_encode(directions, degree) if ops.serves(directions) else harmonics_twin(directions, degree)


def harmonics_twin(directions: Tensor, degree: int) -> Tensor:
    """What the kernel does, in torch."""
    check_harmonics(directions, degree)
    x, y, z = directions.unbind(dim=-1)
    re, im = torch.ones_like(x), torch.zeros_like(x)  # of (x + iy)^m
    features = [re] * degree**2
    for m, steps in enumerate(recurrence(degree)):
        q, before = torch.zeros_like(z), torch.ones_like(z)
        for ell, (up, down) in enumerate(steps, m):
            q, before = up * z * q - down * before, q
            features[ell * ell + ell - m] = im * q
            features[ell * ell + ell + m] = re * q
        re, im = x * re - y * im, x * im + y * re
    return torch.stack(features, dim=-1)
