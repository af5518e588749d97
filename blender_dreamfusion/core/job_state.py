"""The state of a job as a frozen value, and how events change it. Pure: no process, no clock, no bpy.

idle -> starting -> running <-> paused -> finishing -> done
            \\-> cancelling -> cancelled         any -> failed
"""

import enum
from typing import NamedTuple

from .problem import Problem, fix_in_blender
from .protocol import messages


class Status(enum.Enum):
    IDLE = "idle"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHING = "finishing"
    CANCELLING = "cancelling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ACTIVE = frozenset({Status.STARTING, Status.RUNNING, Status.PAUSED, Status.FINISHING, Status.CANCELLING})
# A user's word for what the engine calls it; unknown phases of a newer engine are shown as they come.
PHASE_LABELS = {"load": "Loading", "train": "Shaping", "mesh": "Making the mesh", "texture": "Texturing", "export": "Writing files"}
# Warnings beyond these only repeat themselves; all are in the job folder's events.
MAX_WARNINGS = 5


class JobState(NamedTuple):
    """What is known about the current or last job. `of` is 0 and `eta_s` negative while not known."""

    status: Status = Status.IDLE
    job: str = ""
    prompt: str = ""
    folder: str = ""
    phase: str = ""
    step: int = 0
    of: int = 0
    seconds_per_step: float = 0.0
    eta_s: float = -1.0
    text: str = ""
    preview_path: str = ""
    preview_step: int = -1
    view_path: str = ""
    """The newest picture of the view that was set, and the number of that view."""
    view_number: int = 0
    proxy_path: str = ""
    warnings: tuple[str, ...] = ()
    result_folder: str = ""
    problem: Problem | None = None

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def fraction(self) -> float:
        """Share of the phase that is done, 0..1."""
        return min(1.0, max(0.0, self.step / self.of)) if self.of > 0 else 0.0


def started(job: str, prompt: str, folder: str) -> JobState:
    return JobState(status=Status.STARTING, job=job, prompt=prompt, folder=folder)


def failed(state: JobState, problem: Problem) -> JobState:
    """The job ended badly; one that the user was cancelling counts as cancelled."""
    if not state.is_active:
        return state
    if state.status is Status.CANCELLING:
        return state._replace(status=Status.CANCELLED, eta_s=-1.0)
    return state._replace(status=Status.FAILED, problem=problem, eta_s=-1.0)


def applied(state: JobState, event: "messages.Event") -> JobState:
    """The state after an event. Events of other jobs, and any after the end, change nothing."""
    if getattr(event, "job", None) != state.job or not state.is_active:
        return state
    if isinstance(event, messages.Progress):
        status = Status.RUNNING if state.status is Status.STARTING else state.status
        return state._replace(
            status=status,
            phase=event.phase,
            step=event.step,
            of=event.of,
            text=event.text,
            seconds_per_step=event.seconds_per_step,
            eta_s=event.eta_s,
        )
    if isinstance(event, messages.Preview) and event.view == "camera":
        return state._replace(view_path=event.path, view_number=event.number)
    if isinstance(event, messages.Proxy):
        return state._replace(proxy_path=event.path)
    if isinstance(event, messages.Preview):
        return state._replace(preview_path=event.path, preview_step=event.step)
    if isinstance(event, messages.Warn):
        warnings = state.warnings if event.text in state.warnings else (*state.warnings, event.text)
        return state._replace(warnings=warnings[-MAX_WARNINGS:])
    if isinstance(event, messages.Result):
        # Also after cancel: the engine was faster, and what is finished is not thrown away.
        return state._replace(status=Status.DONE, result_folder=event.folder, step=state.of, eta_s=0.0)
    if isinstance(event, messages.Failed):
        if event.code == messages.CANCELLED:
            return state._replace(status=Status.CANCELLED, eta_s=-1.0)
        return failed(state, Problem(event.text, fix_in_blender(event.fix), event.code))
    return state


def requested(state: JobState, status: Status) -> JobState:
    """The state after the user asked for pause, resume, finish or cancel; unchanged where that makes no sense."""
    allowed = {
        Status.PAUSED: {Status.STARTING, Status.RUNNING},
        Status.RUNNING: {Status.PAUSED},
        Status.FINISHING: {Status.STARTING, Status.RUNNING, Status.PAUSED},
        Status.CANCELLING: ACTIVE - {Status.CANCELLING},
    }
    return state._replace(status=status) if state.status in allowed[status] else state


def headline(state: JobState) -> str:
    """What the panel writes on the bar: "Shaping 120/300 · 1 min 5 s left"."""
    if not state.is_active:
        return state.status.value.capitalize()
    if state.status is Status.CANCELLING:
        return "Cancelling"
    if state.status is Status.STARTING:
        return "Starting the engine"
    name = PHASE_LABELS.get(state.phase, state.phase.capitalize() or "Loading")
    parts = [f"{name} {state.step}/{state.of}" if state.of > 1 else name]
    if state.status is Status.PAUSED:
        parts.append("paused")
    elif state.eta_s >= 0:
        parts.append(f"{duration(state.eta_s)} left")
    return " \u00b7 ".join(parts)


def duration(seconds: float) -> str:
    """A rounded time in words: "8 s", "1 min 5 s", "2 h 3 min"."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s" if total % 60 else f"{total // 60} min"
    return f"{total // 3600} h {total % 3600 // 60} min"
