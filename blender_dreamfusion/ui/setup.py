"""Setting the engine up: what was found, what would be fetched, the work with its bar. In the sidebar until done, and in the preferences.

Draws read what `_known` and `tasks` hold. Nothing starts without a click, nothing goes online without Blender's permission.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import bpy

from ..core.deferred import Deferred
from ..core.task_state import Task, TaskState, TaskStatus
from . import models, preferences, runtime, tasks
from .drawing import WRAP_CHARS, draw_text, refuse
from .ids import PACKAGE_ROOT

if TYPE_CHECKING:
    from ..core import setup_plan, setup_task
    from ..core.setup_plan import BuildTable, Findings, SetupPlan
else:  # a quarter of the time that enabling takes, and most sessions never set anything up
    setup_plan, setup_task = Deferred(".setup_plan"), Deferred(".setup_task")

EXAMINE, WORK = "setup-examine", "setup"
PHASE_TEXTS = {"venv": "Environment", "pip": "pip", "torch": "torch", "packages": "Packages", "check": "Check"}
# About what fits into the preferences window as Blender opens it.
PREFERENCES_CHARS = 95
OFFLINE = "Blender may not go online."
OFFLINE_FIX = "Allow Online Access in Blender's preferences, System, Network."
# The user's setting has no effect then.
FORCED_OFFLINE_FIX = "It was started with --offline-mode; start it without."


class _Known:
    """What the last look at the machine found, and what follows from the preferences."""

    findings: Findings | None = None
    table: BuildTable | None = None
    plan: SetupPlan | None = None
    obstacles: tuple[str, ...] = ()
    verdict: str = ""
    is_removing: bool = False
    # The folder or the Python was changed while the thread looked at the old one.
    is_stale: bool = False


_known = _Known()


def log_path() -> Path:
    """Readable by the user, and not in the engine's folder: it explains also why that cannot be written."""
    return Path(bpy.utils.user_resource("DATAFILES", path="dreamfusion")) / "setup.log"


def examine(context: bpy.types.Context) -> None:
    """Look at the machine and the folder, in a thread; what is found is shown when it comes."""
    if tasks.is_running(EXAMINE):
        _known.is_stale = True
        return
    _known.is_stale = False
    python = preferences.base_python(context)
    first = [python] if python else [sys.executable]
    tasks.start(EXAMINE, setup_task.examine_task(preferences.engine_folder(), first, PACKAGE_ROOT), _examined)


def _examined(state: TaskState) -> None:
    if state.status is TaskStatus.DONE:
        _known.findings, _known.table = state.result["findings"], state.result["table"]
        replan(bpy.context)
    if _known.is_stale:
        examine(bpy.context)


def replan(context: bpy.types.Context) -> None:
    """The plan that follows from the findings and the preferences; without a look at the disk."""
    if _known.findings is None or _known.table is None:
        return
    own = preferences.own(context)
    _known.plan = setup_plan.make_plan(
        _known.table,
        _known.findings,
        own.engine_build if own is not None else setup_plan.AUTOMATIC,
        PACKAGE_ROOT,
        torch_index=own.torch_index if own is not None else "",
        package_index=own.package_index if own is not None else "",
    )
    _known.obstacles = tuple(setup_plan.obstacles(_known.plan, _known.findings))


def place_changed(_owner: object, context: bpy.types.Context) -> None:
    """Update callback of the folder and the base Python: what was found does not hold any more."""
    preferences.forget_cache()
    if _known.findings is not None:
        examine(context)


def choice_changed(_owner: object, context: bpy.types.Context) -> None:
    replan(context)


def device() -> str:
    """What the engine will compute on, as far as was looked: "cpu", "cuda" for any card, "" while not known."""
    return "" if _known.plan is None else "cpu" if _known.plan.build == "cpu" else "cuda"


def offline_reason() -> str:
    """Why nothing can be fetched, with the fix; empty if Blender may go online."""
    if bpy.app.online_access:
        return ""
    return f"{OFFLINE} {FORCED_OFFLINE_FIX if bpy.app.online_access_override else OFFLINE_FIX}"


def draw_first_run(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The box at the top of the sidebar: there until an engine is set up."""
    if preferences.engine_python(context) is not None and not tasks.is_running(WORK):
        return
    box = layout.box()
    box.label(text="Set Up the Engine", icon="TOOL_SETTINGS")
    draw(box, context, WRAP_CHARS)


def draw_page(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The part of the preferences page."""
    python = preferences.engine_python(context)
    if python is not None:
        layout.label(text=_known.verdict or f"The engine is set up: {python}", icon="CHECKMARK")
    draw(layout, context, PREFERENCES_CHARS)


def draw(layout: bpy.types.UILayout, context: bpy.types.Context, n_chars: int) -> None:
    """The set-up as it stands, in lines of `n_chars`."""
    work = tasks.state(WORK)
    if work is not None and work.is_active:
        _draw_work(layout, work)
        return
    if work is not None and work.status is TaskStatus.FAILED:
        draw_text(layout, work.sentence, icon="ERROR", n_chars=n_chars)
        layout.operator("dreamfusion.setup_open_log", icon="TEXT")
    elif work is not None and work.text:
        draw_text(layout, work.text, icon="INFO", n_chars=n_chars)
    if tasks.is_running(EXAMINE):
        layout.label(text="Looking at this computer", icon="TIME")
    elif _known.findings is None:
        layout.operator("dreamfusion.setup_examine", icon="VIEWZOOM")
        layout.operator("dreamfusion.setup_use_python", icon="FILE_FOLDER")
    else:
        _draw_plan(layout, context, _known.findings, n_chars)


def _draw_work(layout: bpy.types.UILayout, work: TaskState) -> None:
    name = PHASE_TEXTS.get(work.phase, "Removing" if _known.is_removing else "Starting")
    number = f" ({setup_task.PHASES.index(work.phase) + 1} of {len(PHASE_TEXTS)})" if work.phase in PHASE_TEXTS else ""
    layout.progress(factor=work.fraction, text=work.amount or name)
    layout.label(text=f"{name}{number}: {work.text}" if work.text else f"{name}{number}")
    row = layout.row(align=True)
    row.operator("dreamfusion.setup_cancel", text="Cancelling" if work.status is TaskStatus.CANCELLING else "Cancel")
    row.operator("dreamfusion.setup_open_log", text="Log", icon="TEXT")


def _draw_plan(layout: bpy.types.UILayout, context: bpy.types.Context, findings: Findings, n_chars: int) -> None:
    def write(where: bpy.types.UILayout, text: str, icon: str) -> None:
        draw_text(where, text, icon=icon, n_chars=n_chars)

    column = layout.column(align=True)
    for line, icon in setup_plan.findings_lines(findings):
        write(column, line, icon)
    own, plan = preferences.own(context), _known.plan
    if own is not None:
        column = layout.column()
        column.use_property_split = has_room = n_chars > WRAP_CHARS
        label = {} if has_room else {"text": ""}
        column.prop(own, "engine_build", **label)
        column.prop(own, "engine_folder", **label, placeholder=findings.folder)
        column.prop(own, "base_python", **label, placeholder=findings.python.path if findings.python else "Python 3.11 to 3.13")
    if plan is not None:
        needs = f"{setup_plan.gigabytes(plan.disk_mb)} on the disk"
        write(layout, f"{plan.title}: downloads {setup_plan.gigabytes(plan.download_mb)} from {plan.sources}; needs {needs}", "IMPORT")
        write(layout, f"Into {plan.folder}", "FILE_FOLDER")
    for sentence in (*_known.obstacles, setup_plan.folder_warning(findings.folder)):
        if sentence:
            write(layout, sentence, "ERROR")
    reason = offline_reason() if plan is not None and plan.is_online else ""
    if reason:
        write(layout, reason, "INTERNET_OFFLINE")
        if not bpy.app.online_access_override:
            layout.operator("extensions.userpref_allow_online", text="Allow Online Access")
    row = layout.row()
    row.scale_y = 1.3
    row.enabled = not reason and not _known.obstacles
    text = "Check and Update" if findings.is_complete else "Go On" if findings.phases else "Download and Set Up"
    row.operator("dreamfusion.setup_install", text=text, icon="IMPORT")
    if findings.folder_kind == "ours":
        row = layout.row(align=True)
        row.operator("dreamfusion.setup_install", text="Repair").repair = True
        row.operator("dreamfusion.setup_remove", text=f"Remove ({setup_plan.gigabytes(findings.installed_mb)})")
    row = layout.row(align=True)
    row.operator("dreamfusion.setup_use_python", icon="FILE_FOLDER")
    row.operator("dreamfusion.setup_examine", text="", icon="FILE_REFRESH")


def work_on(operator: bpy.types.Operator, task: Task, when_over: Callable[[TaskState], None]) -> set[str]:
    """Start the set-up's task; scripts in the background wait for its end."""
    try:
        tasks.start(WORK, task, when_over)
    except RuntimeError as error:
        operator.report({"ERROR"}, str(error))
        return {"CANCELLED"}
    if not bpy.app.background:
        return {"FINISHED"}
    end = tasks.wait(WORK)
    if tasks.is_running(EXAMINE):  # what the work's end has started
        tasks.wait(EXAMINE)
    if end.status is TaskStatus.DONE:
        operator.report({"INFO"}, end.text)
        return {"FINISHED"}
    operator.report({"ERROR"}, end.sentence)
    return {"CANCELLED"}


class DREAMFUSION_OT_setup_examine(bpy.types.Operator):
    """Look at this computer and show what would be downloaded; nothing is fetched yet"""

    bl_idname = "dreamfusion.setup_examine"
    bl_label = "Set Up Engine"
    bl_options = {"REGISTER"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        tasks.forget(WORK)
        examine(context)
        if bpy.app.background:
            tasks.wait(EXAMINE)
        return {"FINISHED"}


class _WorkOperator:
    """Operators that change the engine: one at a time, and never under a running job."""

    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if tasks.is_running(WORK):
            return refuse(cls, "The set-up is at work; cancel it or wait for it")
        if runtime.state().is_active:
            return refuse(cls, "A job is running; cancel it or wait for it")
        return True


class DREAMFUSION_OT_setup_install(_WorkOperator, bpy.types.Operator):
    """Download the engine's packages and set the engine up; goes on where it was broken off"""

    bl_idname = "dreamfusion.setup_install"
    bl_label = "Download and Set Up"

    repair: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Repair", description="Make the environment anew; what was downloaded is used again", options={"SKIP_SAVE"}
    )

    def execute(self, context: bpy.types.Context) -> set[str]:
        if _known.findings is None or bpy.app.background:
            examine(context)
            tasks.wait(EXAMINE)
        plan = _known.plan
        reason = offline_reason() if plan is not None and plan.is_online else ""
        refusals = [*_known.obstacles, reason] if _known.findings is not None else ["This computer could not be looked at. Try again."]
        if plan is None or any(refusals):
            self.report({"ERROR"}, next((sentence for sentence in refusals if sentence), ""))
            return {"CANCELLED"}
        _known.is_removing = False
        runtime.release_engine()
        return work_on(self, setup_task.install_task(setup_plan.repairing(plan) if self.repair else plan, log_path()), _installed)


class DREAMFUSION_OT_setup_remove(_WorkOperator, bpy.types.Operator):
    """Delete the engine that was set up here; models, jobs and results stay"""

    bl_idname = "dreamfusion.setup_remove"
    bl_label = "Remove the Engine"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    def execute(self, _context: bpy.types.Context) -> set[str]:
        _known.is_removing = True
        runtime.release_engine()
        return work_on(self, setup_task.remove_task(preferences.engine_folder()), _removed)


class DREAMFUSION_OT_setup_use_python(_WorkOperator, bpy.types.Operator):
    """Use a Python that has the engine's packages already; it is checked first"""

    bl_idname = "dreamfusion.setup_use_python"
    bl_label = "Use an Existing Python"

    filepath: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Python", description="The Python program, in a virtual environment: bin/python or Scripts/python.exe",
        subtype="FILE_PATH", options={"SKIP_SAVE"},
    )  # fmt: skip

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        python = Path(bpy.path.abspath(self.filepath))
        if not self.filepath or not python.is_file():
            self.report(
                {"ERROR"}, f"{self.filepath or 'Nothing'} is no program. Choose bin/python or Scripts/python.exe of an environment."
            )
            return {"CANCELLED"}
        _known.is_removing = False
        return work_on(self, setup_task.check_task(python, PACKAGE_ROOT, log_path()), lambda state: _checked(state, python))


class DREAMFUSION_OT_setup_cancel(bpy.types.Operator):
    """Stop the set-up; what was downloaded is kept, and it can go on later"""

    bl_idname = "dreamfusion.setup_cancel"
    bl_label = "Cancel Set-Up"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return tasks.is_running(WORK)

    def execute(self, _context: bpy.types.Context) -> set[str]:
        tasks.cancel(WORK)
        return {"FINISHED"}


class DREAMFUSION_OT_setup_open_log(bpy.types.Operator):
    """Open the set-up's log in the system's text editor"""

    bl_idname = "dreamfusion.setup_open_log"
    bl_label = "Open Log"
    bl_options = {"REGISTER"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        if not log_path().is_file():
            self.report({"ERROR"}, "There is no log yet. Set the engine up first.")
            return {"CANCELLED"}
        bpy.ops.wm.path_open(filepath=str(log_path()))
        return {"FINISHED"}


def _installed(state: TaskState) -> None:
    preferences.forget_cache()
    _known.verdict = state.text if state.status is TaskStatus.DONE else ""
    examine(bpy.context)
    if state.status is TaskStatus.DONE and not bpy.app.background:
        models.refresh(bpy.context)


def _removed(_state: TaskState) -> None:
    preferences.forget_cache()
    _known.verdict = ""
    examine(bpy.context)


def _checked(state: TaskState, python: Path) -> None:
    own = preferences.own(bpy.context)
    if state.status is TaskStatus.DONE and own is not None:
        own.engine_python = str(python)
        _known.verdict = state.text
        if not bpy.app.background:
            models.refresh(bpy.context)


def unregister_extra() -> None:
    """Nothing that was found outlives the extension."""
    global _known
    _known = _Known()


CLASSES = (
    DREAMFUSION_OT_setup_examine,
    DREAMFUSION_OT_setup_install,
    DREAMFUSION_OT_setup_remove,
    DREAMFUSION_OT_setup_use_python,
    DREAMFUSION_OT_setup_cancel,
    DREAMFUSION_OT_setup_open_log,
)
