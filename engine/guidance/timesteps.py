"""Which noise level a render is judged at: much noise decides on shape, little noise on detail, so a run goes from one to the other."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from engine.schedule import Scheduled, scheduled

Annealing = Literal["uniform", "linear", "sqrt", "dreamtime"]
# DreamTime's weight of a noise level: even between the two fractions of the model's steps, a Gaussian's flank beyond them.
DREAMTIME_HIGH, DREAMTIME_LOW = 0.8, 0.5
DREAMTIME_HIGH_STD, DREAMTIME_LOW_STD = 0.3, 0.1


def draw(
    step: int,
    n_steps: int,
    t_range: tuple[Scheduled, Scheduled],
    batch: int,
    generator: torch.Generator,
    *,
    alphas_cumprod: Tensor,
    annealing: Annealing = "uniform",
) -> Tensor:
    """Timesteps for the images of one step.

    "uniform" draws each image's from the window, which slides if its ends are scheduled (MVDream, 2308.16512).
    "linear" walks from the window's top at step 0 to its bottom at the last step (DreamGaussian, SDI 2405.15891), "sqrt" falls
    fast and then slowly, top - (top - bottom) sqrt(progress) (HiFA, 2305.18766), "dreamtime" stays longest where the model
    decides most, see `dreamtime_level`; with these all images of a step share one level.

    Args:
        step: 0..n_steps - 1.
        t_range: lowest and highest level as fractions 0..1 of the model's steps, each a number or scheduled.
        generator: used by "uniform" alone; the timesteps are on its device.
        alphas_cumprod: [n] float32, the model's noise levels; "dreamtime" weighs by them.
    Returns:
        [batch] int64 in 0..n - 1.
    Raises:
        ValueError: if the window is upside down at this step or leaves 0..1, or the annealing is unknown.
    """
    low, high = (scheduled(end, step, n_steps) for end in t_range)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"t_range must lie in 0..1 with the lower end first, got {low:g}..{high:g} at step {step}")
    n = len(alphas_cumprod)
    lowest, highest = (min(int(end * n), n - 1) for end in (low, high))
    if annealing == "uniform":
        return torch.randint(lowest, highest + 1, (batch,), generator=generator, device=generator.device)
    progress = step / max(n_steps - 1, 1)
    if annealing == "linear":
        level = round(highest - (highest - lowest) * progress)
    elif annealing == "sqrt":
        level = round(highest - (highest - lowest) * math.sqrt(progress))
    elif annealing == "dreamtime":
        level = dreamtime_level(progress, lowest, highest, alphas_cumprod)
    else:
        raise ValueError(f"annealing must be uniform, linear, sqrt or dreamtime, got {annealing!r}")
    return torch.full((batch,), level, dtype=torch.long, device=generator.device)


def dreamtime_level(progress: float, lowest: int, highest: int, alphas_cumprod: Tensor) -> int:
    """The level t above which lies the part `progress` of W. DreamTime (2306.12422), its time-prioritised schedule.

    W(t) = W_d(t) W_p(t) over the window, normalised: W_d = sqrt((1 - alpha_bar) / alpha_bar), which evens out how far a picture
    moves per level, and W_p = 1 between DREAMTIME_LOW and DREAMTIME_HIGH, exp(-(t - m)^2 / 2 s^2) outside. The constants are the
    paper's 800, 500, 300 and 100 of 1000 steps. W_d is bounded at alpha_bar 1e-4, so that zero SNR does not take the whole run.

    Args:
        progress: 0..1. lowest, highest: the window, both included.
    Returns: in lowest..highest, never rising with progress; highest at 0, lowest at 1.
    """
    n = len(alphas_cumprod)
    levels = torch.arange(lowest, highest + 1, dtype=torch.float64)
    alpha_bar = alphas_cumprod[lowest : highest + 1].detach().cpu().double().clamp(min=1e-4)
    above = (levels / n - DREAMTIME_HIGH).clamp(min=0) / DREAMTIME_HIGH_STD
    below = (DREAMTIME_LOW - levels / n).clamp(min=0) / DREAMTIME_LOW_STD
    weights = ((1 - alpha_bar) / alpha_bar).sqrt() * torch.exp(-0.5 * (above.square() + below.square()))
    passed = weights.flip(0).cumsum(0)  # [levels], from the highest down
    passed = (passed - passed[0]) / (passed[-1] - passed[0]).clamp(min=1e-30)
    return highest - int((passed - progress).abs().argmin())
