"""What is known about work that takes minutes and is no job, for what draws it. The work itself: `task_process`. No bpy."""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol


class TaskStatus(enum.Enum):
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskState(NamedTuple):
    """What is known about a task. `of` is 0 while not known; `text` is the step at work, at the end how it ended; `fix` the way out."""

    status: TaskStatus = TaskStatus.RUNNING
    phase: str = ""
    done: float = 0.0
    of: float = 0.0
    unit: str = ""
    text: str = ""
    fix: str = ""
    seconds: float = 0.0
    result: Mapping[str, Any] = MappingProxyType({})

    @property
    def is_active(self) -> bool:
        return self.status in {TaskStatus.RUNNING, TaskStatus.CANCELLING}

    @property
    def fraction(self) -> float:
        """Share that is done, 0..1."""
        return min(1.0, max(0.0, self.done / self.of)) if self.of > 0 else 0.0

    @property
    def amount(self) -> str:
        """ "120 of 190 MB"; empty while not known."""
        return f"{self.done:,.0f} of {self.of:,.0f} {self.unit}".rstrip() if self.of > 0 else ""

    @property
    def sentence(self) -> str:
        """How it ended, with the fix."""
        return f"{self.text} {self.fix}".strip()


class Task(Protocol):
    """What `ui.tasks` follows."""

    def poll(self) -> TaskState: ...

    def cancel(self) -> None: ...

    def kill(self) -> None: ...
