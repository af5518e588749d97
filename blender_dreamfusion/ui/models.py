"""What is known of the models, and the operators that fetch, add, check and delete them; see models_page for how it is drawn.

The engine does the work as a task (`python -m engine models ...`); what it lists is cached, so draws read memory only.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bpy

from ..core import model_list
from ..core.deferred import Deferred
from ..core.model_list import DEFAULT_MODEL, ModelRow
from ..core.settings import NOT_SET_UP
from ..core.task_state import TaskState, TaskStatus
from . import preferences, tasks
from .drawing import refuse
from .ids import ADDON_PACKAGE, PACKAGE_ROOT

if TYPE_CHECKING:
    from ..core import engine_process, task_process
else:  # used by a click
    engine_process, task_process = Deferred(".engine_process"), Deferred(".task_process")

# Tasks: the list is asked for in a second, the others take minutes; one of each at a time.
LIST_TASK, WORK_TASK = "models list", "models"
# The helper that draws the shape that a job starts from: its id, and what the engine takes in the place of a mesh file.
DRAWING = "shap-e"
OFFLINE = "Blender may not go online: Preferences > System > Network > Allow Online Access."


class _Known:
    """The models and helpers; read from the disk once, then kept up to date by the engine's answers."""

    def __init__(self) -> None:
        self.rows: tuple[ModelRow, ...] = ()
        # What Blender's menus point to: they do not keep the strings of a list that a function returns.
        self.items: list[tuple[str, str, str, str, int]] = []
        self.work = ""


_known = _Known()


def _all_rows() -> tuple[ModelRow, ...]:
    if not _known.rows:
        _show(model_list.read_cache(_cache_path()))
    return _known.rows


def rows() -> tuple[ModelRow, ...]:
    """All models, in the order of the engine's list."""
    return tuple(row for row in _all_rows() if not row.is_helper)


def helper_rows() -> tuple[ModelRow, ...]:
    """All helpers, in the order of the engine's list."""
    return tuple(row for row in _all_rows() if row.is_helper)


def find_row(model: str) -> ModelRow | None:
    """The row of a model."""
    return next((row for row in rows() if row.id == model), None)


def find_any_row(name: str) -> ModelRow | None:
    """The row of a model or helper."""
    return next((row for row in _all_rows() if row.id == name), None)


def model_items(_self: object = None, _context: bpy.types.Context | None = None) -> list[tuple[str, str, str, str, int]]:
    """For an EnumProperty: every model, with whether it is here. The strings live as long as the list is on show."""
    rows()
    return _known.items


def missing_model(model: str) -> ModelRow | None:
    """The row of a model that has to be fetched before a job can use it; None if it is here, or not one of the list (a folder)."""
    row = find_row(model)
    return row if row is not None and not row.installed else None


def missing_helper(name: str) -> ModelRow | None:
    """The row of a helper that has to be fetched before it can be used; None if it is here."""
    row = next((row for row in helper_rows() if row.id == name), None)
    return row if row is not None and not row.installed else None


def vram_gb(model: str) -> float:
    """What a job with this model takes, 0 if it runs on a CPU or is not known."""
    row = find_row(model)
    return row.vram_gb if row is not None else 0.0


def needs_picture(model: str) -> bool:
    """Whether a model's prompt is a picture. Of a folder that is not in the list nothing is known: it is asked for words."""
    row = find_row(model)
    return row is not None and row.needs_picture


def work_id() -> str:
    """The model that is, or was last, worked on."""
    return _known.work


def _show(new: tuple[ModelRow, ...]) -> None:
    _known.rows = new
    _known.items = [
        (row.id, row.title, f"{row.note} {row.state_text.capitalize()}", icon_of(row), number) for number, row in enumerate(rows())
    ]


def icon_of(row: ModelRow) -> str:
    return "CHECKMARK" if row.installed else "CANCEL" if row.withheld else "LOCKED" if row.gated else "IMPORT"


def _cache_path() -> Path:
    return Path(bpy.utils.user_resource("DATAFILES", path="dreamfusion")) / "models.json"


def _log_path(name: str) -> Path:
    return _cache_path().with_name(f"models-{name}.log")


def is_synced(window: bpy.types.PropertyGroup) -> bool:
    """Whether the lists that Blender draws are what is known."""
    return all([item.name for item in listed] == [row.id for row in known] for listed, known in _lists(window))


def sync_list() -> None:
    """Fill the lists that Blender draws; draws themselves may not write."""
    window = bpy.context.window_manager.dreamfusion
    if not is_synced(window):
        for listed, known in _lists(window):
            listed.clear()
            for row in known:
                listed.add().name = row.id
    tasks.redraw()


def _lists(window: bpy.types.PropertyGroup) -> tuple[tuple[Any, tuple[ModelRow, ...]], ...]:
    return (window.models, rows()), (window.helpers, helper_rows())


def _task(context: bpy.types.Context, *words: str) -> "task_process.TaskProcess":
    python = preferences.engine_python(context)
    assert python is not None
    environment = model_list.with_models_folder(engine_process.scrubbed_environment(os.environ), preferences.models_folder(context))
    return task_process.TaskProcess(model_list.models_command(python, PACKAGE_ROOT, *words), _log_path(words[0]), environment)


def refresh(context: bpy.types.Context) -> bool:
    """Ask the engine what is there; false if there is no engine to ask. The answer is shown when it comes."""
    if preferences.engine_python(context) is None:
        return False
    if not tasks.is_running(LIST_TASK):
        tasks.start(LIST_TASK, _task(context, "list"), _listed)
    return True


def folder_changed(_preferences: object, context: bpy.types.Context) -> None:
    """Another models folder holds other models."""
    refresh(context)


def _listed(state: TaskState) -> None:
    if state.status is TaskStatus.DONE and (new := model_list.listed_rows(state.result)):
        _show(new)
        try:
            model_list.write_cache(_cache_path(), new)
        except OSError:  # the page works without; the next session starts from the table that ships
            pass
    sync_list()


def _work_is_over(_state: TaskState) -> None:
    refresh(bpy.context)


def _start_work(operator: bpy.types.Operator, context: bpy.types.Context, *words: str) -> set[str]:
    """Start a task of the page; a script and the background wait for its end, as for every operator."""
    if preferences.engine_python(context) is None:
        return _refuse(operator, str(NOT_SET_UP))
    try:
        tasks.start(WORK_TASK, _task(context, *words), _work_is_over)
    except RuntimeError as error:
        return _refuse(operator, str(error))
    _known.work = words[1]
    if not bpy.app.background:
        return {"FINISHED"}
    end = tasks.wait(WORK_TASK)
    tasks.wait(LIST_TASK)
    if end.status is TaskStatus.DONE:
        operator.report({"INFO"}, end.text)
        return {"FINISHED"}
    return _refuse(operator, end.sentence)


def _refuse(operator: bpy.types.Operator, text: str) -> set[str]:
    operator.report({"ERROR"}, text)
    return {"CANCELLED"}


class DREAMFUSION_PG_model(bpy.types.PropertyGroup):
    """A line of the list; its name is the model's id."""


class DREAMFUSION_OT_models_page(bpy.types.Operator):
    """Download, add and delete models, in the add-on's preferences"""

    bl_idname = "dreamfusion.models_page"
    bl_label = "Models..."
    bl_options = {"INTERNAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        refresh(context)
        bpy.ops.preferences.addon_show(module=ADDON_PACKAGE)
        return {"FINISHED"}


class DREAMFUSION_OT_models_refresh(bpy.types.Operator):
    """Look again at which models are on this machine"""

    bl_idname = "dreamfusion.models_refresh"
    bl_label = "Refresh Models"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return _can_ask(cls, context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        if not refresh(context):
            return _refuse(self, str(NOT_SET_UP))
        if bpy.app.background:
            end = tasks.wait(LIST_TASK)
            if end.status is not TaskStatus.DONE:
                return _refuse(self, end.sentence)
        return {"FINISHED"}


class _ModelOperator:
    """Operators that work on one model, one at a time."""

    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not _can_ask(cls, context):
            return False
        if tasks.is_running(WORK_TASK):
            return refuse(cls, "A model is being worked on; wait for it or cancel it")
        return True


def _can_ask(cls: type, context: bpy.types.Context) -> bool:
    if preferences.engine_python(context) is None:
        return refuse(cls, "The engine does this, and it is not set up")
    return True


class DREAMFUSION_OT_model_download(_ModelOperator, bpy.types.Operator):
    """Fetch the model into the models folder; goes on where an earlier download stopped"""

    bl_idname = "dreamfusion.model_download"
    bl_label = "Download Model"

    model: bpy.props.StringProperty(name="Model", description="Id in the model table", options={"SKIP_SAVE"})  # type: ignore[valid-type]

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not super().poll(context):
            return False
        if not bpy.app.online_access:
            return refuse(cls, OFFLINE)
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        return _start_work(self, context, "download", self.model)


class DREAMFUSION_OT_model_cancel(bpy.types.Operator):
    """Stop; what was fetched is kept, and the download goes on from there"""

    bl_idname = "dreamfusion.model_cancel"
    bl_label = "Cancel"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return tasks.is_running(WORK_TASK)

    def execute(self, _context: bpy.types.Context) -> set[str]:
        tasks.cancel(WORK_TASK)
        return {"FINISHED"}


class DREAMFUSION_OT_model_check(_ModelOperator, bpy.types.Operator):
    """Compare every file of the model with the hash it had when it came"""

    bl_idname = "dreamfusion.model_check"
    bl_label = "Check Model"

    model: bpy.props.StringProperty(name="Model", description="Id of the model", options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        return _start_work(self, context, "check", self.model)


class DREAMFUSION_OT_model_remove(_ModelOperator, bpy.types.Operator):
    """Delete a downloaded model; a folder of yours is only taken off the list"""

    bl_idname = "dreamfusion.model_remove"
    bl_label = "Delete Model"

    model: bpy.props.StringProperty(name="Model", description="Id of the model", options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        row = find_any_row(self.model)
        message = f"Delete {row.title} ({row.size_text})?" if row and row.origin != "added" else "The folder itself stays where it is."
        return context.window_manager.invoke_confirm(
            self, event, title="Delete Model", message=message, confirm_text="Delete" if row and row.origin != "added" else "Take Off"
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        return _start_work(self, context, "remove", self.model)


class DREAMFUSION_OT_model_add(_ModelOperator, bpy.types.Operator):
    """Use a model that is on this machine: a folder in Stable Diffusion's layout, or one .safetensors file"""

    bl_idname = "dreamfusion.model_add"
    bl_label = "Add Local Model"

    filepath: bpy.props.StringProperty(name="Folder or File", subtype="FILE_PATH", options={"SKIP_SAVE", "HIDDEN"})  # type: ignore[valid-type]
    name: bpy.props.StringProperty(name="Name", description="Left out: the folder's name", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    filter_glob: bpy.props.StringProperty(default="*.safetensors", options={"HIDDEN"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        given = Path(bpy.path.abspath(self.filepath))
        # The file browser adds a file name to a folder that is only opened.
        path = given if given.exists() else given.parent
        return _start_work(self, context, "add", str(path), "--name", self.name)


class DREAMFUSION_OT_choose_model(bpy.types.Operator):
    """Use this model for the scene's next objects"""

    bl_idname = "dreamfusion.choose_model"
    bl_label = "Use Model"
    bl_options = {"REGISTER", "UNDO"}

    model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Model", description="Id in the model table, or a folder", default=DEFAULT_MODEL, options={"SKIP_SAVE"}
    )

    @classmethod
    def description(cls, _context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        row = find_row(properties.model)
        return row.note if row is not None else "Use this model for the scene's next objects"

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.dreamfusion.model = self.model
        return {"FINISHED"}


def unregister_extra() -> None:
    if bpy.app.timers.is_registered(sync_list):
        bpy.app.timers.unregister(sync_list)
    _known.__init__()  # type: ignore[misc]


CLASSES = (
    DREAMFUSION_PG_model,
    DREAMFUSION_OT_models_page,
    DREAMFUSION_OT_models_refresh,
    DREAMFUSION_OT_model_download,
    DREAMFUSION_OT_model_cancel,
    DREAMFUSION_OT_model_check,
    DREAMFUSION_OT_model_remove,
    DREAMFUSION_OT_model_add,
    DREAMFUSION_OT_choose_model,
)
