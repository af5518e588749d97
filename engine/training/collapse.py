"""Has a run come to nothing? Empty, full, or no longer numbers."""

from __future__ import annotations

from engine.errors import UserError

# Mean opacity of training views. A prop fills about a sixth to a half of its picture; a thin sword some hundredths.
EMPTY_BELOW = 0.004
FULL_ABOVE = 0.93
# Before this part of the run a field may be anything.
GRACE = 0.12


class DivergedError(UserError):
    """Values that are not finite. Never painted over."""


def collapse_of(mean_opacity: float, step: int, n_steps: int) -> str:
    """ "empty", "full" or "" for a healthy field, from the mean opacity in [0, 1] of the last views."""
    if step < GRACE * n_steps:
        return ""
    if mean_opacity < EMPTY_BELOW:
        return "empty"
    return "full" if mean_opacity > FULL_ABOVE else ""


def collapsed_error(what: str, step: int, seed: int) -> UserError:
    return UserError(
        f"The object came out {what} (step {step}), also with gentler settings.",
        f"Use another seed, for example --seed {seed + 1}.",
        "collapsed",
    )


def diverged_error(what: str, step: int, last_good_step: int | None) -> DivergedError:
    good = f"the last good checkpoint is step {last_good_step}" if last_good_step is not None else "there is no checkpoint before it"
    return DivergedError(f"Step {step}: {what} is not finite; {good}.", "Use a smaller --optimizer.learning-rate.", "diverged")
