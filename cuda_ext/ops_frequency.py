"""Frequency encoding as a torch operator, differentiable any number of times but three. M samples, L bands, W = 3 + 6 L numbers.

Three operators: features, and two that are linear in the features and in what is pulled back or pushed forward; the derivatives of
each are the other one. Sine and cosine are read from the features, never computed again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cuda_ext.ops import SAMPLES_GRAIN, _flat, _implement, _kernels, _library

MOST_BANDS = 16

_library.define("frequency_encode(Tensor x, float[] openness) -> Tensor")
_library.define("frequency_pull(Tensor features, Tensor d_features) -> Tensor")
_library.define("frequency_push(Tensor features, Tensor directions, bool turned) -> Tensor")


def frequency_encode(x: Tensor, openness: Sequence[float]) -> Tensor:
    """x [M, 3] to [M, 3 + 6 L]: x, then for band k of L = len(openness) openness[k] * sin 2^k x and openness[k] * cos 2^k x.

    In float32 within 1e-6 for |2^k x| <= 2^15. Differentiable twice in x.
    Raises: ValueError for more than MOST_BANDS bands.
    """
    if len(openness) > MOST_BANDS:
        raise ValueError(f"There must be at most {MOST_BANDS} bands, got {len(openness)}.")
    features: Tensor = torch.ops.dreamfusion.frequency_encode(x, openness)
    return features


@functools.lru_cache(maxsize=64)
def _columns(openness: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[5, 6 L] as the kernel reads them. Copied once: a CUDA graph that is being recorded allows no copy."""
    rows: list[tuple[float, ...]] = []
    for k, open_part in enumerate(openness):
        for shift in (0.0, 0.5):
            rows += [(*(2.0**k * (axis == other) for other in range(3)), shift, open_part) for axis in range(3)]
    return torch.tensor(rows, dtype=dtype).reshape(-1, 5).t().contiguous().to(device)


def _encode(x: Tensor, openness: Sequence[float]) -> Tensor:
    (x,) = _flat(x)
    bands, kernels = len(openness), _kernels(x)
    features = x.new_empty(x.shape[0], 3 + 6 * bands)
    arguments = (x, _columns(tuple(openness), x.dtype, x.device), bands, features)
    kernels.run("frequency_encode", x.dtype, kernels.parts(x.shape[0], SAMPLES_GRAIN), lambda _part: arguments)
    return features


def _pull(features: Tensor, d_features: Tensor) -> Tensor:
    features, d_features = _flat(features, d_features)
    d_x, kernels = features.new_empty(features.shape[0], 3), _kernels(features)
    arguments = (features, d_features, features.shape[1] // 6, d_x)
    kernels.run("frequency_pull", features.dtype, kernels.parts(features.shape[0], SAMPLES_GRAIN), lambda _part: arguments)
    return d_x


def _push(features: Tensor, directions: Tensor, turned: bool) -> Tensor:
    features, directions = _flat(features, directions)
    out, kernels = features.new_empty(features.shape), _kernels(features)
    arguments = (features, directions, features.shape[1] // 6, int(turned), out)
    kernels.run("frequency_push", features.dtype, kernels.parts(features.shape[0], SAMPLES_GRAIN), lambda _part: arguments)
    return out


_implement("frequency_encode", _encode)
_implement("frequency_pull", _pull)
_implement("frequency_push", _push)


@torch.library.register_fake("dreamfusion::frequency_encode", lib=_library)
def _(x: Tensor, openness: Sequence[float]) -> Tensor:
    return x.new_empty(x.shape[0], 3 + 6 * len(openness))


@torch.library.register_fake("dreamfusion::frequency_pull", lib=_library)
def _(features: Tensor, _d_features: Tensor) -> Tensor:
    return features.new_empty(features.shape[0], 3)


@torch.library.register_fake("dreamfusion::frequency_push", lib=_library)
def _(features: Tensor, _directions: Tensor, _turned: bool) -> Tensor:
    return features.new_empty(features.shape)


ops = torch.ops.dreamfusion


def _keep_features(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, other, *rest = inputs
    ctx.turned = bool(rest and rest[0])
    ctx.save_for_backward(features, other)


def _encode_grad(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    return ops.frequency_pull(*ctx.saved_tensors, g), None


def _pull_grad(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    features, g = ctx.saved_tensors
    need = ctx.needs_input_grad
    return ops.frequency_push(g, v, True) if need[0] else None, ops.frequency_push(features, v, False) if need[1] else None


def _push_grad(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    features, v = ctx.saved_tensors
    if ctx.turned:
        raise NotImplementedError("The frequency encoding's kernel has no third derivative in positions.")
    need = ctx.needs_input_grad
    return ops.frequency_push(g, v, True) if need[0] else None, ops.frequency_pull(features, g) if need[1] else None, None


torch.library.register_autograd("dreamfusion::frequency_encode", _encode_grad, setup_context=_keep_features, lib=_library)
torch.library.register_autograd("dreamfusion::frequency_pull", _pull_grad, setup_context=_keep, lib=_library)
torch.library.register_autograd("dreamfusion::frequency_push", _push_grad, setup_context=_keep, lib=_library)
