"""Scheduled scalars: a number that may change during a run, as a pure function of the step."""

from __future__ import annotations

from engine.errors import UserError

Scheduled = float | tuple[float, ...]
"""A number, or (step0, value0, step1, value1, ...): piecewise linear, constant before and after.
If the last step is at most 1 the steps are fractions of the run (0 the first step, 1 the last), otherwise they are steps.
Two entries at the same step are a jump; from that step on the later one counts."""


def scheduled(value: Scheduled, step: int, n_steps: int) -> float:
    """The value at `step` of a run of `n_steps` (steps 0..n_steps-1)."""
    if isinstance(value, (int, float)):
        return float(value)
    times, values = value[0::2], value[1::2]
    now = step / max(n_steps - 1, 1) if times[-1] <= 1 else float(step)
    if now < times[0]:
        return float(values[0])
    result = values[-1]
    for i in range(len(times) - 1, 0, -1):
        if now < times[i]:
            before, after = times[i - 1], times[i]
            part = (now - before) / (after - before) if after > before else 0.0
            result = values[i - 1] + part * (values[i] - values[i - 1])
    return float(result)


def check_scheduled(option: str, value: Scheduled, low: float, high: float) -> None:
    """Raise UserError unless every value lies in low..high and the steps never fall."""
    if isinstance(value, (int, float)):
        values: tuple[float, ...] = (value,)
    else:
        times, values = value[0::2], value[1::2]
        if len(value) < 2 or len(value) % 2 or list(times) != sorted(times) or times[0] < 0:
            raise UserError(
                f"{option} is {','.join(f'{part:.10g}' for part in value)}, but must be one number or step,value,step,value,... "
                "with rising steps.",
                f"Use --{option} {values[0] if values else low:g} for a value that stays.",
                "option",
            )
    for part in values:
        if not low <= part <= high:
            raise UserError(
                f"{option} is {part:.10g}, but must lie in {low:.10g}..{high:.10g}.",
                f"Leave --{option} out to take the preset's value.",
                "option",
            )
