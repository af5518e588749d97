"""Which noise level a render is judged at: much noise decides on shape, little noise on detail, so a run goes from one to the other."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from engine.schedule import Scheduled, scheduled

Annealing = Literal["uniform", "linear", "sqrt"]


def draw(
    step: int,
    n_steps: int,
    t_range: tuple[Scheduled, Scheduled],
    batch: int,
    generator: torch.Generator,
    *,
    num_train_timesteps: int = 1000,
    annealing: Annealing = "uniform",
) -> Tensor:
    """Timesteps for the images of one step.

    "uniform" draws each image's from the window, which slides if its ends are scheduled (MVDream, 2308.16512).
    "linear" walks from the window's top at step 0 to its bottom at the last step (DreamGaussian, SDI 2405.15891), "sqrt" falls
    fast and then slowly, top - (top - bottom) sqrt(progress) (HiFA, 2305.18766); with both all images of a step share one level.

    Args:
        step: 0..n_steps - 1.
        t_range: lowest and highest level as fractions 0..1 of num_train_timesteps, each a number or scheduled.
        generator: used by "uniform" alone; the timesteps are on its device.
    Returns:
        [batch] int64 in 0..num_train_timesteps - 1.
    Raises:
        ValueError: if the window is upside down at this step or leaves 0..1, or the annealing is unknown.
    """
    low, high = (scheduled(end, step, n_steps) for end in t_range)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"t_range must lie in 0..1 with the lower end first, got {low:g}..{high:g} at step {step}")
    lowest, highest = (min(int(end * num_train_timesteps), num_train_timesteps - 1) for end in (low, high))
    if annealing == "uniform":
        return torch.randint(lowest, highest + 1, (batch,), generator=generator, device=generator.device)
    if annealing not in ("linear", "sqrt"):
        raise ValueError(f"annealing must be uniform, linear or sqrt, got {annealing!r}")
    progress = step / max(n_steps - 1, 1)
    fall = progress if annealing == "linear" else math.sqrt(progress)
    return torch.full((batch,), round(highest - (highest - lowest) * fall), dtype=torch.long, device=generator.device)
