"""A step of Adan as a torch operator: one pass over memory in place of a dozen."""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.cpu import Argument
from cuda_ext.ops import _flat, _implement, _kernels, _library

NUMBERS_GRAIN = 16384

_library.define(
    "adan_step(Tensor(a!) p, Tensor grad, Tensor(b!) last_grad, Tensor(c!) m, Tensor(d!) v, Tensor(e!) n, float b1, float b2, float b3, "
    "float rate_m, float rate_v, float correct_n, float eps, float shrink) -> ()"
)


def adan_step(
    p: Tensor, grad: Tensor, state: tuple[Tensor, Tensor, Tensor, Tensor], betas: tuple[float, float, float], k: float, rate: float,
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """Step k of p, in place; formula and names as in engine.training.adan.Adan.

    Args:
        state: last gradient, m, v, n, like p, updated in place. All tensors of one shape, number type and device, contiguous but grad.
        rate: learning rate.
    Raises: ValueError if a tensor that is written is not contiguous, or shapes differ.
    """
    if not all(tensor.is_contiguous() and tensor.shape == grad.shape for tensor in (p, *state)):
        raise ValueError("Adan's kernel writes contiguous tensors of the gradient's shape only.")
    b1, b2, b3 = betas
    rates = rate / (1 - b1**k), rate * b2 / (1 - b2**k), 1 - b3**k
    torch.ops.dreamfusion.adan_step(p, grad, *state, b1, b2, b3, *rates, eps, 1 + rate * weight_decay)
    torch.autograd.graph.increment_version(p)  # for whoever saved it for a backward


def _step(p: Tensor, grad: Tensor, last_grad: Tensor, m: Tensor, v: Tensor, n: Tensor, *numbers: float) -> None:
    _, grad, *_ = tensors = _flat(p, grad, last_grad, m, v, n)  # contiguous already, all but grad
    kernels = _kernels(p)
    arguments: tuple[Argument, ...] = (*tensors, *map(float, numbers))
    kernels.run("adan_step", p.dtype, kernels.parts(p.numel(), NUMBERS_GRAIN), lambda _part: arguments)


_implement("adan_step", _step)


@torch.library.register_fake("dreamfusion::adan_step", lib=_library)
def _(*_arguments: Tensor | float) -> None:
    return None
