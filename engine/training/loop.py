"""The loop round the training step: pace, requests from outside, collapse, previews and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.training.collapse import CollapseWatch, DivergedError, collapsed_error
from engine.training.control import Control
from engine.training.run_state import RunState, StepReport

# Share of a step's time that does not grow with the number of rays (model, optimizer). Only for the guess of the end.
FIXED_SHARE = 0.6
# Less than this is not worth a word: far ends lie behind what is seen.
TOLD_SHARE = 0.01
# How far a new measurement moves the shown seconds per step.
PACE_BLEND = 0.1


class CancelledError(Exception):
    """The user ended the job."""


@dataclass(frozen=True)
class Hooks:
    """What the loop calls, all from the training thread."""

    progress: Callable[[int, int, float, float], None]
    """Steps done, steps in all, seconds per step, seconds until training ends."""
    preview: Callable[[float], None]
    """Called with the seconds per step after each step, and when a paused run's view changes; makes what is due."""
    checkpoint: Callable[[], None]
    warn: Callable[[str], None]
    measured: Callable[[int, StepReport, float], None] = lambda _step, _report, _seconds: None
    """Steps done, what the last of them saw, seconds per step."""


def train(trainer: RunState, control: Control, hooks: Hooks, *, seed: int = 0) -> None:
    """Train until the last step, `control.finish` or `control.cancel`. Raises CancelledError, UserError."""
    cfg = trainer.config.training
    pace = Pace(trainer)
    watch = CollapseWatch(trainer.n_steps)
    last_checkpoint = time.monotonic()
    told = False
    while trainer.step < trainer.n_steps and not control.finishing:
        if control.cancelled:
            hooks.checkpoint()
            raise CancelledError
        paused_s = control.wait_if_paused()
        last_checkpoint += paused_s
        if paused_s:
            if control.paused:
                hooks.preview(pace.seconds_per_step)
            continue
        pace.start()
        try:
            report = trainer.train_step()
            watch.see(trainer.step, report.box_opacity, report.largest_density)
            fault = _collapse(trainer, watch, seed) if trainer.step % cfg.check_every == 0 else ""
        except DivergedError as error:
            if trainer.restarts >= cfg.restarts:
                raise
            fault = f"The object came out exploded (step {trainer.step})." if watch.is_exploding else error.text
        if fault:
            hooks.warn(f"{fault} Starting again with gentler settings.")
            trainer.restart(fault)
            watch = CollapseWatch(trainer.n_steps)
            continue
        if not told and report.left_out is not None and trainer.step % cfg.check_every == 0:
            share = report.left_out.item()
            if told := share >= TOLD_SHARE:
                hooks.warn(f"{share:.0%} of a step's samples do not fit into render.max-samples; allow more, or all of them with 0.")
        pace.stop()
        hooks.measured(trainer.step, report, pace.seconds_per_step)
        hooks.progress(trainer.step, trainer.n_steps, pace.seconds_per_step, pace.eta_s())
        hooks.preview(pace.seconds_per_step)
        if time.monotonic() - last_checkpoint >= cfg.checkpoint_every_s:
            hooks.checkpoint()
            last_checkpoint = time.monotonic()
    if control.cancelled:
        hooks.checkpoint()
        raise CancelledError


def _collapse(trainer: RunState, watch: CollapseWatch, seed: int) -> str:
    """What is wrong, as a sentence; "" if nothing is. Raises UserError if no attempt is left."""
    what = watch.verdict()
    if what and trainer.restarts >= trainer.config.training.restarts:
        raise collapsed_error(what, trainer.step, seed)
    return f"The object came out {what} (step {trainer.step})." if what else ""


class Pace:
    """How long a step takes and how long the rest will, though later steps render more rays."""

    def __init__(self, trainer: RunState) -> None:
        self.trainer = trainer
        self.seconds_per_step = 0.0
        self._started = 0.0
        costs = [self._rays(step) for step in range(trainer.n_steps)]
        base = costs[0] if costs else 1.0
        self._costs = [FIXED_SHARE + (1 - FIXED_SHARE) * cost / base for cost in costs]
        self._seconds_per_cost = 0.0

    def _rays(self, step: int) -> float:
        n_views, size = self.trainer.views(step)
        return float(n_views * size * size)

    def start(self) -> None:
        self._started = time.monotonic()

    def stop(self) -> None:
        """Call after a step; the step is counted."""
        taken = time.monotonic() - self._started
        cost = self._costs[self.trainer.step - 1]
        blend = PACE_BLEND if self.seconds_per_step else 1.0
        self.seconds_per_step += blend * (taken - self.seconds_per_step)
        self._seconds_per_cost += blend * (taken / cost - self._seconds_per_cost)

    def eta_s(self) -> float:
        return sum(self._costs[self.trainer.step :]) * self._seconds_per_cost
