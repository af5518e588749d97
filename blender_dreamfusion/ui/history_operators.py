"""What can be done with a job of the history. In a script: bpy.ops.dreamfusion.history_again(folder="/path/of/the/job")."""

from pathlib import Path

import bpy

from ..core import history
from ..core.history import HistoryEntry, HistoryState
from ..core.queue import QueueEntry
from . import loading, preferences, runtime
from .history import chosen, is_at_work, read_again
from .models import DRAWING
from .starting import begin, new_folder, refuse

FOLDER = {"SKIP_SAVE", "HIDDEN"}


class _OnJob:
    """An operator on one job: `folder`, else the one that is chosen in the list."""

    folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Job Folder", description="Left out: the job that is chosen in the history", subtype="DIR_PATH", options=FOLDER
    )

    def entry(self, context: bpy.types.Context) -> HistoryEntry | None:
        """As the folder is now. None, with an error reported, if there is no job."""
        known = chosen(context)
        folder = Path(bpy.path.abspath(self.folder)) if self.folder else Path(known.folder) if known is not None else None
        entry = history.read_entry(folder) if folder is not None else None
        if entry is None:
            refuse(self, f"There is no job in {folder}. Choose another one." if folder else "Choose a job in the history first.")
        return entry


class DREAMFUSION_OT_history_import(_OnJob, bpy.types.Operator):
    """Bring the finished object of this job into the scene, as the panel's settings say"""

    bl_idname = "dreamfusion.history_import"
    bl_label = "Import Again"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry(context)
        if entry is None:
            return {"CANCELLED"}
        if entry.state is not HistoryState.DONE:
            return refuse(self, "This job has no result yet. Continue it first.")
        try:
            return set(bpy.ops.dreamfusion.import_result("EXEC_DEFAULT", folder=str(entry.result_folder)))
        except RuntimeError as error:  # what that operator reported as an error
            return refuse(self, str(error).removeprefix("Error: ").strip())


class _Starting(_OnJob):
    """An operator that makes a job of a job."""

    def start(self, context: bpy.types.Context, entry: HistoryEntry) -> QueueEntry:
        """Raises: ValueError, OSError with a sentence."""
        raise NotImplementedError

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry(context)
        if entry is None:
            return {"CANCELLED"}
        if is_at_work(entry.folder):
            return refuse(self, "This job runs or waits already.")
        try:
            started = self.start(context, entry)
        except (ValueError, OSError) as error:
            return refuse(self, str(error))
        return begin(self, context, [started])


class DREAMFUSION_OT_history_again(_Starting, bpy.types.Operator):
    """Generate the object of this job once more with the same settings and seed"""

    bl_idname = "dreamfusion.history_again"
    bl_label = "Generate Again"
    bl_options = {"REGISTER"}

    def start(self, context: bpy.types.Context, entry: HistoryEntry) -> QueueEntry:
        request = history.again_request(Path(entry.folder))
        return QueueEntry(request, str(new_folder(context, request.title)), runtime.current_plan(context))


class DREAMFUSION_OT_history_continue(_Starting, bpy.types.Operator):
    """Go on with this job from its last checkpoint"""

    bl_idname = "dreamfusion.history_continue"
    bl_label = "Continue"
    bl_options = {"REGISTER"}

    def start(self, context: bpy.types.Context, entry: HistoryEntry) -> QueueEntry:
        if entry.state is HistoryState.DONE:
            raise ValueError("This job is done. Use More Steps to go on from it.")
        return QueueEntry(history.saved_request(Path(entry.folder)), entry.folder, runtime.plan_again(context, entry.folder), resume=True)


class DREAMFUSION_OT_history_more(_Starting, bpy.types.Operator):
    """Go on from the end of this job with more steps, as a new job"""

    bl_idname = "dreamfusion.history_more"
    bl_label = "More Steps"
    bl_options = {"REGISTER"}

    n_steps: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Steps in All",
        description="Where the new job ends; 0 adds half of what was done",
        min=0,
        max=1_000_000,
        options={"SKIP_SAVE"},
    )

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        entry = self.entry(context)
        if entry is None:
            return {"CANCELLED"}
        self.n_steps = _further(entry)
        return set(context.window_manager.invoke_props_dialog(self))

    def start(self, context: bpy.types.Context, entry: HistoryEntry) -> QueueEntry:
        if entry.state is not HistoryState.DONE:
            raise ValueError("This job is not done. Continue it instead.")
        n_steps = self.n_steps or _further(entry)
        if n_steps <= entry.step:
            raise ValueError(f"{entry.step} steps are done already. Ask for more than that.")
        request = history.further_request(Path(entry.folder), n_steps, entry.step)
        return QueueEntry(request, str(new_folder(context, request.title)), runtime.current_plan(context))


def _further(entry: HistoryEntry) -> int:
    return max(entry.n_steps, entry.step) * 3 // 2 + 1


class DREAMFUSION_OT_history_load(_OnJob, bpy.types.Operator):
    """Put the settings of this job into the panel, to change some and generate anew"""

    bl_idname = "dreamfusion.history_load"
    bl_label = "Load Settings"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry(context)
        if entry is None:
            return {"CANCELLED"}
        try:
            request = history.again_request(Path(entry.folder))
            left_out = loading.load_request(context.scene.dreamfusion, request)
        except ValueError as error:
            return refuse(self, str(error))
        if left_out:
            self.report({"WARNING"}, f"Not known here, left out: {', '.join(left_out)}")
        if request.start_mesh not in ("", DRAWING) or request.stage != "generate":
            self.report({"INFO"}, "This job started from a mesh: select one, and start with a button of Selected Object")
        return {"FINISHED"}


class DREAMFUSION_OT_history_open(_OnJob, bpy.types.Operator):
    """Show the folder of this job in the file browser of the system"""

    bl_idname = "dreamfusion.history_open"
    bl_label = "Open Folder"

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry(context)
        return set(bpy.ops.wm.path_open(filepath=entry.folder)) if entry is not None else {"CANCELLED"}


class DREAMFUSION_OT_history_delete(_OnJob, bpy.types.Operator):
    """Delete the files of this job; objects in the scene stay"""

    bl_idname = "dreamfusion.history_delete"
    bl_label = "Delete"
    bl_options = {"REGISTER"}

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return set(context.window_manager.invoke_confirm(self, event))

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry(context)
        if entry is None:
            return {"CANCELLED"}
        if is_at_work(entry.folder):
            return refuse(self, "This job runs or waits. Cancel it or take it out of the queue, then delete it.")
        try:
            is_gone = history.delete_job(Path(entry.folder), preferences.jobs_folder(context))
        except ValueError as error:
            return refuse(self, str(error))
        except OSError as error:
            return refuse(self, f"The job could not be deleted ({error}). Close what uses its files, then delete it again.")
        if not is_gone:
            self.report({"INFO"}, f"Files that are not of the job stay in {entry.folder}")
        read_again()
        return {"FINISHED"}


class DREAMFUSION_OT_history_refresh(bpy.types.Operator):
    """Look into the jobs folder again"""

    bl_idname = "dreamfusion.history_refresh"
    bl_label = "Refresh"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        read_again()
        return {"FINISHED"}


CLASSES = (
    DREAMFUSION_OT_history_import,
    DREAMFUSION_OT_history_again,
    DREAMFUSION_OT_history_continue,
    DREAMFUSION_OT_history_more,
    DREAMFUSION_OT_history_load,
    DREAMFUSION_OT_history_open,
    DREAMFUSION_OT_history_delete,
    DREAMFUSION_OT_history_refresh,
)
