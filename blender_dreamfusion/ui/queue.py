"""The waiting jobs in the panel: their order, taking some out, and the question what becomes of those that another Blender left.

Looking for those is done by a timer, once, when the panel is first drawn: nothing is read while Blender starts.
"""

import bpy

from ..core.queue import QueueEntry
from . import runtime
from .drawing import draw_text, refuse
from .history import DREAMFUSION_PG_row
from .ids import TAB

_asked = {"is_open": False}


def ensure_open() -> None:
    """Have the line's file opened once. May be called from a draw: the disk is looked at later, by a timer."""
    if not _asked["is_open"] and not bpy.app.background and not bpy.app.timers.is_registered(_open):
        bpy.app.timers.register(_open, first_interval=0.0, persistent=True)


def _open() -> None:
    _asked["is_open"] = True
    runtime.open_queue(runtime.data_folder() / "queue")
    show_rows()
    runtime.redraw()


def show_rows() -> None:
    """Give Blender's list as many rows as jobs wait."""
    manager = bpy.context.window_manager
    rows, n_rows = manager.dreamfusion_queue.rows, len(runtime.queue().entries)
    while len(rows) > n_rows:
        rows.remove(len(rows) - 1)
    while len(rows) < n_rows:
        rows.add()
    manager.dreamfusion.queue_index = min(manager.dreamfusion.queue_index, max(0, n_rows - 1))


def _follow(_state: object) -> None:
    if len(bpy.context.window_manager.dreamfusion_queue.rows) != len(runtime.queue().entries):
        show_rows()


class DREAMFUSION_PG_queue(bpy.types.PropertyGroup):
    rows: bpy.props.CollectionProperty(type=DREAMFUSION_PG_row)  # type: ignore[valid-type]


class DREAMFUSION_UL_queue(bpy.types.UIList):
    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0):  # type: ignore[no-untyped-def]
        entries = runtime.queue().entries
        if index < len(entries):
            layout.label(text=entries[index].request.title, icon="PLAY" if entries[index].resume else "TIME")

    def draw_filter(self, context, layout):  # type: ignore[no-untyped-def]
        pass  # a line has an order, not a search


class DREAMFUSION_PT_queue(bpy.types.Panel):
    bl_label = "Queue"
    bl_parent_id = "DREAMFUSION_PT_main"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = TAB
    bl_options = {"DEFAULT_CLOSED"}
    bl_order = 80

    def draw_header_preset(self, _context: bpy.types.Context) -> None:
        n_waiting = len(runtime.queue().entries) + len(runtime.queue().left)
        if n_waiting:
            self.layout.label(text=str(n_waiting))

    def draw(self, context: bpy.types.Context) -> None:
        layout, line = self.layout, runtime.queue()
        held = runtime.held()
        if held is not None:
            box = layout.box()
            draw_text(box, f"The queue waits: {held.text}", icon="PAUSE")
            box.operator("dreamfusion.queue_go_on", icon="PLAY")
        if line.store is not None and line.store.problem:
            draw_text(layout, line.store.problem, icon="ERROR")
        if not line.entries:
            layout.label(text="Waiting for your answer above" if line.left else "No job waits")
            return
        row = layout.row()
        manager = context.window_manager
        row.template_list(
            "DREAMFUSION_UL_queue", "", manager.dreamfusion_queue, "rows", manager.dreamfusion, "queue_index", rows=3, maxrows=6
        )
        side = row.column(align=True)
        side.operator("dreamfusion.queue_move", text="", icon="TRIA_UP").by = -1
        side.operator("dreamfusion.queue_move", text="", icon="TRIA_DOWN").by = 1
        side.separator()
        side.operator("dreamfusion.queue_remove", text="", icon="X")
        index = manager.dreamfusion.queue_index
        if 0 <= index < len(line.entries):
            request = line.entries[index].request
            layout.label(text=f"{request.preset.capitalize()}, seed {request.seed}")


def draw_left(layout: bpy.types.UILayout) -> None:
    """The question about jobs that a Blender that is gone left; nothing if there are none. For the main panel: this one is closed."""
    ensure_open()
    left = runtime.queue().left
    if not left:
        return
    box = layout.box()
    draw_text(box, _question(left), icon="QUESTION")
    row = box.row(align=True)
    row.operator("dreamfusion.queue_continue", icon="PLAY")
    row.operator("dreamfusion.queue_discard", icon="X")


def _question(left: tuple[QueueEntry, ...]) -> str:
    one = len(left) == 1
    return f"{len(left)} job{'' if one else 's'} {'was' if one else 'were'} waiting when Blender was closed."


class _OnWaiting:
    """Operators on the chosen job of the line."""

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if runtime.queue().entries:
            return True
        return refuse(cls, "No job waits")


class DREAMFUSION_OT_queue_move(_OnWaiting, bpy.types.Operator):
    """Change the place of the chosen job in the queue"""

    bl_idname = "dreamfusion.queue_move"
    bl_label = "Move"

    by: bpy.props.IntProperty(name="By", description="Places: negative is earlier", default=-1, options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        window = context.window_manager.dreamfusion
        window.queue_index = runtime.queue().move(window.queue_index, self.by)
        return {"FINISHED"}


class DREAMFUSION_OT_queue_remove(_OnWaiting, bpy.types.Operator):
    """Take the chosen job out of the queue"""

    bl_idname = "dreamfusion.queue_remove"
    bl_label = "Remove"

    def execute(self, context: bpy.types.Context) -> set[str]:
        runtime.queue().remove(context.window_manager.dreamfusion.queue_index)
        show_rows()
        return {"FINISHED"}


class DREAMFUSION_OT_queue_go_on(bpy.types.Operator):
    """Start the next job of the queue"""

    bl_idname = "dreamfusion.queue_go_on"
    bl_label = "Continue Queue"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        runtime.go_on()
        show_rows()
        return {"FINISHED"}


class _OnLeft:
    """Operators that answer what becomes of the jobs that another Blender left."""

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if runtime.queue().left:
            return True
        return refuse(cls, "No job was left waiting")


class DREAMFUSION_OT_queue_continue(_OnLeft, bpy.types.Operator):
    """Run the jobs that were waiting when Blender was closed; their objects come into this scene"""

    bl_idname = "dreamfusion.queue_continue"
    bl_label = "Continue"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        runtime.continue_left()
        show_rows()
        return {"FINISHED"}


class DREAMFUSION_OT_queue_discard(_OnLeft, bpy.types.Operator):
    """Forget the jobs that were waiting; one that had begun stays in the history"""

    bl_idname = "dreamfusion.queue_discard"
    bl_label = "Discard"

    def execute(self, _context: bpy.types.Context) -> set[str]:
        runtime.queue().answer_left(())
        return {"FINISHED"}


CLASSES = (
    DREAMFUSION_PG_queue,
    DREAMFUSION_UL_queue,
    DREAMFUSION_PT_queue,
    DREAMFUSION_OT_queue_move,
    DREAMFUSION_OT_queue_remove,
    DREAMFUSION_OT_queue_go_on,
    DREAMFUSION_OT_queue_continue,
    DREAMFUSION_OT_queue_discard,
)


def register_extra() -> None:
    bpy.types.WindowManager.dreamfusion_queue = bpy.props.PointerProperty(type=DREAMFUSION_PG_queue, options={"SKIP_SAVE"})
    runtime.followers.append(_follow)


def unregister_extra() -> None:
    if _follow in runtime.followers:
        runtime.followers.remove(_follow)
    if bpy.app.timers.is_registered(_open):
        bpy.app.timers.unregister(_open)
    _asked["is_open"] = False
    del bpy.types.WindowManager.dreamfusion_queue
