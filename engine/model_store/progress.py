"""How long work on models tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """`done` of `of` bytes in this phase; `text` is what is being done."""

    phase: str
    done: int
    of: int
    text: str


Report = Callable[[Step], None]


def silent(_step: Step) -> None:
    """For callers that do not watch."""
