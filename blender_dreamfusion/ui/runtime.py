"""The running job, and the pump: the only place where what the engine says meets bpy.

Threads: everything here runs on Blender's main thread. Draws and polls read `state()` and `preview_icon()`, nothing else.
In a window a timer calls `pump`; without one (`blender -b`, the bpy module) timers do not run and `wait` calls it.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import bpy

from ..bl.preview import PanelPreview
from ..core.deferred import Deferred
from ..core.import_plan import ImportPlan
from ..core.job_state import JobState, Status
from ..core.model_list import with_models_folder
from ..core.problem import Problem
from ..core.protocol import messages
from ..core.queue import Queue, QueueEntry, open_store
from ..core.settings import NOT_SET_UP
from . import preferences
from .ids import PACKAGE_ROOT
from .import_settings import scene_plan

if TYPE_CHECKING:
    from ..core import engine_process
    from ..core import session as sessions
else:  # used by the first job
    engine_process, sessions = Deferred(".engine_process"), Deferred(".session")

ACTIVE_POLL_S = 0.1
# A warm engine without a job only has to be noticed when it ends.
IDLE_POLL_S = 2.0
# Events of one call; less than a frame, so that the viewport stays smooth.
PUMP_BUDGET_S = 0.008


Follower = Callable[[JobState], None]
# Called with the state at the end of every pump, on the main thread, when nothing blocks. Modules add theirs in register_extra
# and take it out in unregister_extra.
followers: list[Follower] = []

# Failures of the engine or the disk rather than of one job: the jobs behind it would all fail the same way, so they wait.
HOLDING_CODES = frozenset({"setup", "start", "protocol", "output"})


class _Runtime:
    """What outlives an operator: one session, one plan, one picture, one line of waiting jobs."""

    def __init__(self) -> None:
        self.session: sessions.Session | None = None
        self.python = ""
        self.models = Path()
        self.plan: ImportPlan | None = None
        self.preview = PanelPreview()
        self.problem: Problem | None = None
        self.imported: tuple[str, ...] = ()
        # While Blender writes a file or renders, data must not change under it.
        self.blockers: set[str] = set()
        self.file_count = 0
        self.queue = Queue()
        self.has_waited = False
        self.held: Problem | None = None
        self.failures: dict[str, Problem] = {}
        self.plans: dict[str, ImportPlan] = {}


_runtime = _Runtime()


def state() -> JobState:
    """The current or last job."""
    return _runtime.session.state if _runtime.session is not None else JobState()


def problem() -> Problem | None:
    """Why the last job, or its import, went wrong."""
    return _runtime.problem or state().problem


def failure_of(folder: str) -> Problem | None:
    """Why a job of this Blender failed, by its folder."""
    return _runtime.failures.get(folder)


def imported() -> tuple[str, ...]:
    """What the last import made, and in further sentences what it could not do."""
    return _runtime.imported


def note_import(lines: tuple[str, ...]) -> None:
    _runtime.imported = lines


def preview_icon() -> int:
    return _runtime.preview.icon_id


def queue() -> Queue:
    """The jobs that wait. Change it through here on the main thread only."""
    return _runtime.queue


def held() -> Problem | None:
    """Why the waiting jobs do not go on by themselves; None if they do."""
    return _runtime.held


def is_busy() -> bool:
    """Whether a job runs, is being imported, or is about to start."""
    return _is_occupied() or bool(_runtime.queue.entries) and _runtime.held is None


def open_queue(folder: Path) -> None:
    """Keep the line in `folder` from now on, and find what a Blender that is gone left there. Nothing starts by itself.

    A folder that cannot be used leaves the line in memory.
    """
    if _runtime.queue.store is not None:
        return
    try:
        _runtime.queue.store, _runtime.queue.left = open_store(folder)
    except OSError:
        return


def enqueue(entry: QueueEntry) -> None:
    """Run a job: now if none runs, else after those that wait. What goes wrong with the engine shows in `problem()`.

    In the background the line lives in memory and `wait` works through it.

    Raises: ProtocolError if the request is too long to be sent.
    """
    messages.encode(messages.Generate(job="", request=entry.request, out_dir=entry.folder))
    if not bpy.app.background:
        open_queue(data_folder() / "queue")
    _runtime.held = None
    if _is_occupied():
        _runtime.queue.add(entry)
    else:
        _start_entry(entry, has_waited=False)


def _is_occupied() -> bool:
    """Whether a job runs, or one has ended of which the pump has not heard yet."""
    return state().is_active or _runtime.plan is not None or _runtime.queue.running is not None


def go_on() -> None:
    """Let a line that was held go on."""
    _runtime.held = None
    if not _is_occupied():
        _start_next()


def continue_left() -> None:
    """Run what another Blender left. Its files are not open here: results go into the current scene."""
    scene, count = bpy.context.scene.name, _runtime.file_count
    entries = [entry._replace(plan=entry.plan._replace(scene_name=scene, file_count=count)) for entry in _runtime.queue.left]
    _runtime.queue.answer_left(entries)
    go_on()


def start(request: messages.JobRequest, folder: Path, plan: ImportPlan, *, python: Path, log_path: Path, resume: bool = False) -> None:
    """Start a job and the timer that follows it. What goes wrong with the engine shows in `state()`.

    Raises: RuntimeError if a job is running; ProtocolError if the request is too long to be sent.
    """
    models = preferences.models_folder(bpy.context)
    if _runtime.session is None or (_runtime.python, _runtime.models) != (str(python), models):
        release_engine()
        environment = with_models_folder(os.environ, models)
        launch = partial(
            engine_process.EngineProcess, engine_process.engine_command(python, PACKAGE_ROOT, os.getpid()), log_path, environment
        )
        _runtime.session = sessions.Session(launch, python=str(python), log_path=log_path)
        _runtime.python, _runtime.models = str(python), models
    _runtime.session.start(request, folder, resume=resume)
    _runtime.plan, _runtime.problem, _runtime.imported = plan, None, ()
    _follow()


def data_folder() -> Path:
    """Where the add-on keeps what survives an uninstall."""
    return Path(bpy.utils.user_resource("DATAFILES", path="dreamfusion", create=True))


def _start_entry(entry: QueueEntry, *, has_waited: bool) -> None:
    _runtime.has_waited = has_waited
    _runtime.plans[entry.folder] = entry.plan
    _runtime.queue.started(entry)
    python = preferences.engine_python(bpy.context)
    if python is None:
        _runtime.problem = NOT_SET_UP
        _ended(entry, NOT_SET_UP)
        return
    start(entry.request, Path(entry.folder), entry.plan, python=python, log_path=data_folder() / "engine.log", resume=entry.resume)


def _start_next() -> bool:
    entry = _runtime.queue.take() if _runtime.held is None else None
    if entry is None:
        return False
    _start_entry(entry, has_waited=True)
    return True


def _ended(entry: QueueEntry, why: Problem | None) -> None:
    """Note how the running entry ended. One that waited and could not run for no fault of its own goes back to its place."""
    _runtime.queue.ended()
    if why is None:
        _runtime.failures.pop(entry.folder, None)
        return
    _runtime.failures[entry.folder] = why
    if why.code in HOLDING_CODES:
        if _runtime.has_waited or _runtime.queue.entries:
            _runtime.queue.put_back(entry._replace(resume=entry.resume or (Path(entry.folder) / "job.json").is_file()))
            _runtime.held = why


def _follow() -> None:
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=ACTIVE_POLL_S, persistent=True)
    redraw()


def current_plan(context: bpy.types.Context) -> ImportPlan:
    """What happens with the result of a job that starts now, as the scene's panels say."""
    return scene_plan(context, _runtime.file_count)


def plan_again(context: bpy.types.Context, folder: str) -> ImportPlan:
    """What a job that goes on is for: what it was for when it began in this file (place, source mesh), else as the panel says."""
    before = _runtime.plans.get(folder)
    return before if before is not None and before.file_count == _runtime.file_count else current_plan(context)


def plan() -> ImportPlan | None:
    """What the running job's result is for; None without a job, and when the file that it was meant for is no longer open."""
    running = _runtime.plan
    return running if running is not None and running.file_count == _runtime.file_count else None


def session() -> sessions.Session | None:
    return _runtime.session


def pump() -> bool:
    """Apply what came from the engine; import a finished result; start the next job. Returns whether there is something to redraw."""
    if _runtime.session is None:
        return False
    changed = _runtime.session.poll(PUMP_BUDGET_S)
    if _runtime.blockers:
        return changed
    now = state()
    if not bpy.app.background and now.preview_path:
        _runtime.preview.show(now.preview_path, f"{now.job}-{now.preview_step}")
    if now.status is Status.DONE and _runtime.plan is not None:
        plan, _runtime.plan = _runtime.plan, None
        _import_into_scene(Path(now.result_folder), plan)
        changed = True
    elif not now.is_active:
        _runtime.plan = None
    if not now.is_active:
        if (entry := _runtime.queue.running) is not None:
            _ended(entry, problem())
            changed = True
        changed |= _start_next()
    _tell_followers()
    return changed


def _tell_followers() -> None:
    """One that fails is taken out: a fault of one room must not end the job, nor be told ten times a second."""
    for follower in tuple(followers):
        try:
            follower(state())
        except Exception:  # noqa: BLE001 - see above
            traceback.print_exc()
            followers.remove(follower)


def wait(show: Callable[[JobState], None]) -> JobState:
    """Pump until all jobs are over; `show` gets every change. Ctrl-C once: finish now and keep what there is; twice: cancel."""
    n_interrupts = 0
    while is_busy():
        try:
            if pump():
                show(state())
            time.sleep(ACTIVE_POLL_S / 2)
        except KeyboardInterrupt:
            n_interrupts += 1
            active = _runtime.session
            if active is not None:
                active.finish_now() if n_interrupts == 1 else active.cancel()
    if _runtime.held is not None:  # nobody is there to click Continue
        _runtime.failures.update(dict.fromkeys(_runtime.queue.folders, _runtime.held))
        _runtime.queue.clear()
        _runtime.held = None
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
    """End the engine and the timer; afterwards nothing of a job is left in Blender. What waits stays in its file."""
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    release_engine()
    _runtime.preview.close()
    if _runtime.queue.store is not None:
        _runtime.queue.store.close()
    _runtime.session, _runtime.python, _runtime.plan, _runtime.problem = None, "", None, None
    _runtime.imported = ()
    _runtime.queue, _runtime.held, _runtime.failures, _runtime.plans = Queue(), None, {}, {}


def release_engine() -> None:
    """End a warm engine, keep the state of the last job on show."""
    if _runtime.session is not None:
        _runtime.session.shutdown()


def _tick() -> float | None:
    """Timer callback: seconds to the next call, None when there is nothing left to follow."""
    try:
        if pump():
            redraw()
    except Exception as error:  # noqa: BLE001 - Blender drops a timer that raises, and the job would hang for ever
        traceback.print_exc()
        _runtime.problem = Problem(f"A fault in the add-on ({type(error).__name__}: {error}).", "The console has the details.", "internal")
    if _runtime.session is None or not (_runtime.session.is_alive or is_busy()):
        redraw()
        return None
    return ACTIVE_POLL_S if is_busy() else IDLE_POLL_S


def _import_into_scene(folder: Path, plan: ImportPlan) -> None:
    """Run the import operator, so that the object is one undo step."""
    if plan.file_count != _runtime.file_count:
        _runtime.problem = Problem("Another file was opened while the job ran.", "Click Import Result to have the object here.", "file")
        return
    try:
        with _window_override():
            bpy.ops.dreamfusion.import_result("EXEC_DEFAULT", True, folder=str(folder), plan=json.dumps(plan.to_json()))
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


def redraw() -> None:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                for region in area.regions:
                    if region.type == "UI":
                        region.tag_redraw()
