"""Errors that a user can cause. They end as one sentence and one fix, never as a traceback."""

from __future__ import annotations


class UserError(Exception):
    """What was given, what is allowed, and what to do now.

    Args:
        text: one sentence with the value that was given and what is allowed.
        fix: one thing that works here and now, as a sentence; may be empty.
        code: short word for programs ("prompt", "option", "model", "output", "checkpoint", "diverged", ...).
    """

    def __init__(self, text: str, fix: str = "", code: str = "error") -> None:
        super().__init__(text)
        self.text = text
        self.fix = fix
        self.code = code

    def __str__(self) -> str:
        return f"{self.text} {self.fix}".strip()


def check_range(option: str, value: float, low: float, high: float) -> None:
    """Raise UserError unless low <= value <= high. `option` is the name as the user types it, without dashes."""
    if not low <= value <= high:  # also false for NaN
        raise UserError(
            f"{option} is {_short(value)}, but must lie in {_short(low)}..{_short(high)}.",
            f"Leave --{option} out to take the preset's value.",
            "option",
        )


def check_interval(option: str, value: tuple[float, ...], low: float, high: float) -> None:
    """Raise UserError unless `value` is two numbers, the lower first, both in low..high."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        text = ",".join(_short(part) for part in value)
        raise UserError(
            f"{option} is {text}, but must be two numbers in {_short(low)}..{_short(high)}, the lower first.",
            f"Leave --{option} out to take the preset's value.",
            "option",
        )


def _short(value: float) -> str:
    return f"{value:.10g}"
