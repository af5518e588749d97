"""Adan, the optimizer that stable-dreamfusion trains with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from cuda_ext import ops
from cuda_ext.ops_adan import adan_step


class Adan(torch.optim.Optimizer):
    r"""Adaptive Nesterov momentum. Adan (2208.06677), algorithm 1, with decoupled proximal weight decay.

    With g the gradient, d = g_k - g_{k-1} (0 at the first step), betas = (b1, b2, b3) as KEEP rates:
        m = b1 m + (1-b1) g;  v = b2 v + (1-b2) d;  n = b3 n + (1-b3) (g + b2 d)^2;  each corrected by 1 - b^k
        p = (p - lr (m + b2 v) / (sqrt(n) + eps)) / (1 + lr weight_decay)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq"):
                state[name] = torch.zeros_like(p)
            state["last_grad"] = grad.clone(memory_format=torch.contiguous_format)
        state["step"] += 1
        k = float(state["step"])
        moments = state["last_grad"], state["exp_avg"], state["exp_avg_diff"], state["exp_avg_sq"]
        if ops.serves(p) and all(tensor.is_contiguous() and tensor.dtype == grad.dtype for tensor in (p, *moments)):
            adan_step(p, grad, moments, group["betas"], k, group["lr"], group["eps"], group["weight_decay"])
        else:
            _twin_step(p, grad, moments, group, k)


def _twin_step(p: Tensor, grad: Tensor, moments: tuple[Tensor, ...], group: dict[str, Any], k: float) -> None:
    """What the kernel does, in torch."""
    b1, b2, b3 = group["betas"]
    last_grad, m, v, n = moments
    diff = grad - last_grad
    last_grad.copy_(grad)
    m.lerp_(grad, 1 - b1)
    v.lerp_(diff, 1 - b2)
    n.mul_(b3).add_((grad + b2 * diff).square(), alpha=1 - b3)
    scale = (n / (1 - b3**k)).sqrt_().add_(group["eps"])
    p.addcdiv_(m, scale, value=-group["lr"] / (1 - b1**k))
    p.addcdiv_(v, scale, value=-group["lr"] * b2 / (1 - b2**k))
    p.div_(1 + group["lr"] * group["weight_decay"])
