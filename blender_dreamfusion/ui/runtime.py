"""The running job, and the pump: the only place where what the engine says meets bpy.

Threads: everything here runs on Blender's main thread. Draws and polls read `state()` and `preview_icon()`, nothing else.
In a window a timer calls `pump`; without one (`blender -b`, the bpy module) timers do not run and `wait` calls it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bpy

from ..bl.preview import PanelPreview
from ..core.engine_process import EngineProcess, engine_command
from ..core.job_state import JobState, Status
from ..core.problem import Problem
from ..core.protocol import messages
from ..core.session import Session
from .ids import PACKAGE_ROOT

ACTIVE_POLL_S = 0.1
# A warm engine without a job only has to be noticed when it ends.
IDLE_POLL_S = 2.0
# Events of one call; less than a frame, so that the viewport stays smooth.
PUMP_BUDGET_S = 0.008


@dataclass(frozen=True)
class ImportPlan:
    """Where the result goes, fixed when the job starts. No bpy data in here: ids die on undo and load."""

    location: tuple[float, float, float]
    height_m: float
    scene_name: str
    file_count: int


class _Runtime:
    """What outlives an operator: one session, one plan, one picture."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.python = ""
        self.plan: ImportPlan | None = None
        self.preview = PanelPreview()
        self.problem: Problem | None = None
        # While Blender writes a file or renders, data must not change under it.
        self.blockers: set[str] = set()
        self.file_count = 0


_runtime = _Runtime()


def state() -> JobState:
    """The current or last job."""
    return _runtime.session.state if _runtime.session is not None else JobState()


def problem() -> Problem | None:
    """Why the last job, or its import, went wrong."""
    return _runtime.problem or state().problem


def preview_icon() -> int:
    return _runtime.preview.icon_id


def start(request: messages.JobRequest, folder: Path, plan: ImportPlan, *, python: Path, log_path: Path, resume: bool = False) -> None:
    """Start a job and the timer that follows it. What goes wrong with the engine shows in `state()`.

    Raises: RuntimeError if a job is running; ProtocolError if the request is too long to be sent.
    """
    if _runtime.session is None or _runtime.python != str(python):
        shutdown()
        launch = partial(EngineProcess, engine_command(python, PACKAGE_ROOT, os.getpid()), log_path)
        _runtime.session, _runtime.python = Session(launch, python=str(python), log_path=log_path), str(python)
    _runtime.session.start(request, folder, resume=resume)
    _runtime.plan, _runtime.problem = plan, None
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=ACTIVE_POLL_S, persistent=True)
    _redraw()


def current_plan(location: tuple[float, float, float], height_m: float, scene: bpy.types.Scene) -> ImportPlan:
    return ImportPlan(location, height_m, scene.name, _runtime.file_count)


def session() -> Session | None:
    return _runtime.session


def pump() -> bool:
    """Apply what came from the engine; import a finished result. Returns whether there is something to redraw."""
    if _runtime.session is None:
        return False
    changed = _runtime.session.poll(PUMP_BUDGET_S)
    if _runtime.blockers:
        return False
    now = state()
    if not bpy.app.background and now.preview_path:
        _runtime.preview.show(now.preview_path, f"{now.job}-{now.preview_step}")
    if now.status is Status.DONE and _runtime.plan is not None:
        plan, _runtime.plan = _runtime.plan, None
        _import_into_scene(Path(now.result_folder), plan)
        changed = True
    elif not now.is_active:
        _runtime.plan = None
    return changed


def wait(show: Callable[[JobState], None]) -> JobState:
    """Pump until the job is over; `show` gets every change. Ctrl-C once: finish now and keep what there is; twice: cancel."""
    n_interrupts = 0
    while state().is_active or _runtime.plan is not None:
        try:
            if pump():
                show(state())
            time.sleep(ACTIVE_POLL_S / 2)
        except KeyboardInterrupt:
            n_interrupts += 1
            active = _runtime.session
            if active is not None:
                active.finish_now() if n_interrupts == 1 else active.cancel()
    return state()


def block(reason: str) -> None:
    _runtime.blockers.add(reason)


def unblock(reason: str) -> None:
    _runtime.blockers.discard(reason)


def file_was_loaded() -> None:
    """The scene that a running job was meant for is gone: its result waits for a click instead of landing in another file."""
    _runtime.file_count += 1
    _runtime.blockers.clear()


def shutdown() -> None:
    """End the engine and the timer; afterwards nothing of a job is left in Blender."""
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    if _runtime.session is not None:
        _runtime.session.shutdown()
    _runtime.preview.close()
    _runtime.session, _runtime.python, _runtime.plan, _runtime.problem = None, "", None, None


def release_engine() -> None:
    """End a warm engine, keep the state of the last job on show."""
    if _runtime.session is not None:
        _runtime.session.shutdown()


def _tick() -> float | None:
    """Timer callback: seconds to the next call, None when there is nothing left to follow."""
    if pump():
        _redraw()
    if _runtime.session is None or not (_runtime.session.is_alive or _runtime.plan is not None):
        _redraw()
        return None
    return ACTIVE_POLL_S if state().is_active or _runtime.plan is not None else IDLE_POLL_S


def _import_into_scene(folder: Path, plan: ImportPlan) -> None:
    """Run the import operator, so that the object is one undo step."""
    if plan.file_count != _runtime.file_count:
        _runtime.problem = Problem("Another file was opened while the job ran.", "Click Import Result to have the object here.", "file")
        return
    arguments = {"folder": str(folder), "location": plan.location, "height_m": plan.height_m, "scene_name": plan.scene_name}
    try:
        with _window_override():
            bpy.ops.dreamfusion.import_result("EXEC_DEFAULT", True, **arguments)
    except RuntimeError as error:  # what the operator reported as an error
        _runtime.problem = Problem(str(error).removeprefix("Error: ").strip(), code="import")


def _window_override():  # type: ignore[no-untyped-def]  # the type of temp_override's result has no public name
    """A timer has no window of its own, and operators that change the mode need one."""
    windows = bpy.context.window_manager.windows
    if not windows or bpy.context.window is not None:
        return bpy.context.temp_override()
    window = windows[0]
    area = next((part for part in window.screen.areas if part.type == "VIEW_3D"), window.screen.areas[0])
    region = next(part for part in area.regions if part.type == "WINDOW")
    return bpy.context.temp_override(window=window, area=area, region=region)


def _redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()
