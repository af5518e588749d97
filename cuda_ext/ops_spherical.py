"""Spherical harmonics as a torch operator, twice differentiable. M directions, W = degree^2 numbers.

Three operators: the features, what their gradient says about directions, and what a gradient of that says about both it was made of.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from cuda_ext.ops import SAMPLES_GRAIN, _flat, _implement, _kernels, _library

MOST_DEGREES = 8

_library.define("spherical_encode(Tensor x, int degree) -> Tensor")
_library.define("spherical_pull(Tensor x, Tensor d_features) -> Tensor")
_library.define("spherical_pull_backward(Tensor x, Tensor d_features, Tensor v) -> (Tensor, Tensor)")


def spherical_encode(x: Tensor, degree: int) -> Tensor:
    """Unit directions x [M, 3] to real spherical harmonics [M, degree^2]: all of l < degree, number l^2 + l + m for m in -l..l.

    Orthonormal on the sphere, signs and order as tiny-cuda-nn's: l = 1 is 0.4886 (-y, z, -x). Differentiable twice in x, as the
    polynomials in x, y, z that they are: gradients are not projected to the sphere.
    Raises: ValueError for a degree outside 1..MOST_DEGREES or x of another shape.
    """
    features: Tensor = torch.ops.dreamfusion.spherical_encode(x, degree)
    return features


def check_harmonics(x: Tensor, degree: int) -> None:
    """Raises: ValueError, see `spherical_encode`. The kernels have no room for more."""
    if not 1 <= degree <= MOST_DEGREES:
        raise ValueError(f"The degree must lie in 1..{MOST_DEGREES}, got {degree}.")
    if x.ndim != 2 or x.shape[1] != 3:
        raise ValueError(f"Directions must be [M, 3], got {list(x.shape)}.")


@functools.cache
def recurrence(degree: int) -> list[list[tuple[float, float]]]:
    """For each m and each l in m..degree - 1 the factors (up, down) of Q_l^m(z) = up z Q_(l-1)^m - down Q_(l-2)^m.

    Q_m^m is a constant: -down where l = m, as if there had been a one before.
    Source: Sloan, "Efficient Spherical Harmonic Evaluation", JCGT 2013.
    """
    rows = []
    for m in range(degree):
        constant = (-1) ** m * math.sqrt((2 if m else 1) * (2 * m + 1) / (4 * math.pi))
        constant *= math.sqrt(math.prod((2 * k - 1) / (2 * k) for k in range(1, m + 1)))
        ups = [0.0, *(math.sqrt((4 * ell * ell - 1) / (ell * ell - m * m)) for ell in range(m + 1, degree))]
        rows.append([(0.0, -constant), *((up, up / below if below else 0.0) for below, up in zip(ups, ups[1:]))])
    return rows


@functools.lru_cache(maxsize=64)
def _steps(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[degree, degree, 2] as the kernels read it. Copied once: a CUDA graph that is being recorded allows no copy."""
    rows = [[(0.0, 0.0)] * m + row for m, row in enumerate(recurrence(degree))]
    return torch.tensor(rows, dtype=dtype).to(device)


def _degree_of(x: Tensor, d_features: Tensor) -> int:
    """Raises: ValueError where d_features are no gradient of x's features."""
    degree = math.isqrt(d_features.shape[1])
    check_harmonics(x, degree)
    if d_features.shape != (x.shape[0], degree**2):
        raise ValueError(f"A gradient of features must be [{x.shape[0]}, degree^2], got {list(d_features.shape)}.")
    return degree


def _encode(x: Tensor, degree: int) -> Tensor:
    check_harmonics(x, degree)
    (x,) = _flat(x)
    features, kernels = x.new_empty(x.shape[0], degree**2), _kernels(x)
    arguments = (x, _steps(degree, x.dtype, x.device), degree, features)
    kernels.run("spherical_encode", x.dtype, kernels.parts(x.shape[0], SAMPLES_GRAIN), lambda _part: arguments)
    return features


def _pull(x: Tensor, d_features: Tensor) -> Tensor:
    x, d_features = _flat(x, d_features)
    d_x, kernels, degree = torch.empty_like(x), _kernels(x), _degree_of(x, d_features)
    arguments = (x, d_features, _steps(degree, x.dtype, x.device), degree, d_x)
    kernels.run("spherical_pull", x.dtype, kernels.parts(x.shape[0], SAMPLES_GRAIN), lambda _part: arguments)
    return d_x


def _pull_backward(x: Tensor, d_features: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    x, d_features, v = _flat(x, d_features, v)
    d_x, d_g, kernels, degree = torch.empty_like(x), torch.empty_like(d_features), _kernels(x), _degree_of(x, d_features)
    arguments = (x, d_features, v, _steps(degree, x.dtype, x.device), degree, d_x, d_g)
    kernels.run("spherical_pull_backward", x.dtype, kernels.parts(x.shape[0], SAMPLES_GRAIN), lambda _part: arguments)
    return d_x, d_g


_implement("spherical_encode", _encode)
_implement("spherical_pull", _pull)
_implement("spherical_pull_backward", _pull_backward)


@torch.library.register_fake("dreamfusion::spherical_encode", lib=_library)
def _(x: Tensor, degree: int) -> Tensor:
    return x.new_empty(x.shape[0], degree**2)


@torch.library.register_fake("dreamfusion::spherical_pull", lib=_library)
def _(x: Tensor, _d_features: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("dreamfusion::spherical_pull_backward", lib=_library)
def _(x: Tensor, d_features: Tensor, _v: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), d_features.new_empty(d_features.shape)


ops = torch.ops.dreamfusion


def _keep_first(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _encode_grad(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    return ops.spherical_pull(*ctx.saved_tensors, g), None


def _pull_grad(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor]:
    d_x, d_g = ops.spherical_pull_backward(*ctx.saved_tensors, v)
    return d_x, d_g


def _no_third(ctx: Any, *_grads: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError("The spherical harmonics' kernel has no third derivative in directions.")


torch.library.register_autograd("dreamfusion::spherical_encode", _encode_grad, setup_context=_keep_first, lib=_library)
torch.library.register_autograd("dreamfusion::spherical_pull", _pull_grad, setup_context=_keep, lib=_library)
torch.library.register_autograd("dreamfusion::spherical_pull_backward", _no_third, lib=_library)
