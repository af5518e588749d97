"""Exponential moving average of a module's parameters, updated every step. Previews, mesh and texture all use it."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """Holds an averaged copy of `module`; buffers are copied, not averaged.

    The decay starts low and rises to `decay` as min(decay, (1 + step) / (10 + step)), so that the first random
    parameters are soon forgotten.
    """

    def __init__(self, module: M, decay: float) -> None:
        self.decay = decay
        self.module: M = copy.deepcopy(module)
        self.module.requires_grad_(False)

    @torch.no_grad()
    def update(self, module: M, step: int) -> None:
        """Call after the optimizer's step; `step` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        ours: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = [p.detach() for p in module.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        for mine, other in zip(self.module.buffers(), module.buffers()):
            mine.copy_(other)
