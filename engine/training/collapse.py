"""Has a run come to nothing? Empty, full, exploded, or no longer numbers.

Promise: what lasts is seen within 50 steps of its onset, whatever the length of the run: WINDOW steps make it last, and at
most 25 steps later somebody looks. Numbers stay on the device until then.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from engine.errors import UserError

# Opacity of training views as a share of what the whole box would cover. A prop has about a sixth to a half; a thin sword some hundredths.
EMPTY_BELOW = 0.004
FULL_ABOVE = 0.93
# Per world unit. A hundred is opaque within a few samples and a million within any; what is denser only grows, and its slope is lost.
EXPLODED_ABOVE = 1e7
# One odd view is no collapse, this many steps are: their mean counts.
WINDOW = 20
# Before this part of a run, and at most this many steps, a field may be anything.
GRACE, GRACE_STEPS = 0.12, 25


class DivergedError(UserError):
    """Values that are not finite. Never painted over."""


class CollapseWatch:
    """Follows the steps of one attempt."""

    def __init__(self, n_steps: int) -> None:
        self._first = min(GRACE * n_steps, GRACE_STEPS)
        self._opacities: deque[Tensor] = deque(maxlen=WINDOW)
        self._densities: deque[Tensor] = deque(maxlen=WINDOW)

    def see(self, step: int, box_opacity: Tensor, largest_density: Tensor) -> None:
        """After `step` steps. box_opacity: mean opacity as a share of the box's; largest_density: per world unit; both scalars."""
        if step >= self._first:
            self._opacities.append(box_opacity)
            self._densities.append(largest_density)

    @property
    def is_exploding(self) -> bool:
        """Whether the last step's density already was too large: then values that are not finite come from that. Waits for the GPU."""
        return bool(self._densities) and self._densities[-1].item() > EXPLODED_ABOVE

    def verdict(self) -> str:
        """ "empty", "full", "exploded", or "" for a healthy field. Waits for the GPU."""
        if len(self._opacities) < WINDOW:
            return ""
        mean = torch.stack(list(self._opacities)).mean().item()
        if mean < EMPTY_BELOW:
            return "empty"
        if mean > FULL_ABOVE:
            return "full"
        return "exploded" if bool((torch.stack(list(self._densities)) > EXPLODED_ABOVE).all()) else ""


def collapsed_error(what: str, step: int, seed: int) -> UserError:
    return UserError(
        f"The object came out {what} (step {step}), also with gentler settings.",
        f"Use another seed, for example --seed {seed + 1}.",
        "collapsed",
    )


def diverged_error(what: str, step: int) -> DivergedError:
    return DivergedError(f"Step {step}: {what} is not finite.", "Use a smaller --optimizer.learning-rate.", "diverged")
