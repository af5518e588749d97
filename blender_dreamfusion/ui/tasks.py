"""Long work beside Blender that is no job (set-up, downloads): at most one of a name, one timer for all, redrawn when something changed.

Main thread only. Draws read `state(name)`. Without a window timers do not run: there `wait` polls.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import bpy

from ..core.task_state import Task, TaskState

POLL_S = 0.2

_running: dict[str, Task] = {}
_states: dict[str, TaskState] = {}
_when_over: dict[str, Callable[[TaskState], None]] = {}


def start(name: str, task: Task, when_over: Callable[[TaskState], None] | None = None) -> None:
    """Follow a task under `name`; `when_over` is called once with its last state, on the main thread.

    Raises: RuntimeError if one of that name is running.
    """
    if is_running(name):
        task.kill()
        raise RuntimeError(f"{name} is running already. Wait for it, or cancel it.")
    _running[name], _states[name] = task, task.poll()
    if when_over is not None:
        _when_over[name] = when_over
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=POLL_S, persistent=True)
    redraw()


def state(name: str) -> TaskState | None:
    """The running or last task of that name, None if there was none (or it was forgotten)."""
    return _states.get(name)


def is_running(name: str) -> bool:
    return name in _running


def forget(name: str) -> None:
    """Take the end of a task off the screen."""
    if not is_running(name):
        _states.pop(name, None)


def cancel(name: str) -> None:
    if is_running(name):
        _running[name].cancel()


def pump() -> bool:
    """Poll every running task; returns whether something changed."""
    changed = False
    for name, task in list(_running.items()):
        now = task.poll()
        changed = changed or now != _states.get(name)
        _states[name] = now
        if not now.is_active:
            del _running[name]
            when_over = _when_over.pop(name, None)
            if when_over is not None:
                when_over(now)
    return changed


def wait(name: str, show: Callable[[TaskState], None] = lambda _state: None) -> TaskState:
    """Poll until the task is over, for scripts and the background. Ctrl-C cancels it."""
    while is_running(name):
        try:
            if pump():
                show(_states[name])
            time.sleep(POLL_S / 4)
        except KeyboardInterrupt:
            cancel(name)
    return _states[name]


def shutdown() -> None:
    """End all tasks and the timer."""
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    for task in _running.values():
        task.kill()
    _running.clear()
    _states.clear()
    _when_over.clear()


def redraw() -> None:
    """What may show a task: the preferences and the 3D views' sidebars."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type in {"VIEW_3D", "PREFERENCES"}:
                for region in area.regions:
                    if region.type in {"UI", "WINDOW"} and (area.type, region.type) != ("VIEW_3D", "WINDOW"):
                        region.tag_redraw()


def _tick() -> float | None:
    try:
        if pump():
            redraw()
    except Exception:  # noqa: BLE001 - Blender drops a timer that raises, and the other tasks would stand still on the screen
        traceback.print_exc()
    return POLL_S if _running else None


CLASSES = ()


def unregister_extra() -> None:
    shutdown()
