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
