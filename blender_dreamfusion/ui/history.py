"""The history: a list of every job with its thumbnail, and buttons for what can be done with one (`history_operators`).

The folders are read by a thread; a timer takes what it found. The rows that Blender's list needs hold nothing (a collection of the
window manager is written into every .blend); what they show is here.
"""

import time
from pathlib import Path

import bpy

from ..bl.thumbnails import Thumbnails
from ..core import history
from ..core.estimates import Record
from ..core.history import HistoryEntry, HistoryReader, HistoryState
from ..core.job_state import JobState, duration
from . import preferences, runtime
from .drawing import LINE_SCALE, draw_text
from .ids import TAB

# Rows of the list. More are found by searching.
MAX_ROWS = 300
LOOK_S = 0.2
THUMBNAIL_SCALE = 5.0
STAGE_WORDS = {"texture": "New texture", "refine": "Refined"}
STATE_ICONS = {
    HistoryState.DONE: "CHECKMARK",
    HistoryState.CANCELLED: "PAUSE",
    HistoryState.UNFINISHED: "PAUSE",
    HistoryState.FAILED: "ERROR",
    HistoryState.DAMAGED: "QUESTION",
}


class _Shown:
    """What the panel draws. Changed by `collect` and by the search, on the main thread."""

    def __init__(self) -> None:
        self.reader = HistoryReader()
        self.thumbnails = Thumbnails()
        self.entries: tuple[HistoryEntry, ...] = ()
        self.matches: tuple[HistoryEntry, ...] = ()
        self.records: tuple[Record, ...] = ()
        self.folder: Path | None = None
        """The jobs folder that the entries are of; None until somebody asked."""
        self.last_job = ""


_shown = _Shown()


def entries() -> tuple[HistoryEntry, ...]:
    """Every job that is known, newest first; empty until the folders were read."""
    return _shown.entries


def of_folder(folder: str) -> HistoryEntry | None:
    """The job in this folder, None if it is not known (yet)."""
    return next((entry for entry in _shown.entries if entry.folder == folder), None)


def records() -> tuple[Record, ...]:
    """What tells how long a job takes on this machine, newest last; for `estimates.expected`."""
    ensure_read()
    return _shown.records


def ensure_read() -> None:
    """Have the folders read, once for each jobs folder. May be called from a draw: a timer and its thread look at the disk later."""
    if bpy.app.background or bpy.app.timers.is_registered(_tick):
        return
    if _shown.folder != preferences.jobs_folder(bpy.context):
        bpy.app.timers.register(_tick, first_interval=0.0, persistent=True)


def read_again() -> None:
    """Have the folders read anew."""
    _shown.folder = preferences.jobs_folder(bpy.context)
    _shown.reader.ask(_shown.folder)
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=LOOK_S, persistent=True)


def collect() -> bool:
    """Take what the thread has found; returns whether there was something."""
    found = _shown.reader.take()
    if found is None:
        return False
    _shown.entries, _shown.records = found, tuple(history.records(found))
    show_matches()
    return True


def wait_until_read(timeout_s: float = 60.0) -> tuple[HistoryEntry, ...]:
    """For scripts and tests, where timers do not run."""
    read_again()
    deadline = time.monotonic() + timeout_s
    while not collect() and time.monotonic() < deadline:
        time.sleep(0.01)
    return _shown.entries


def show_matches() -> None:
    """Give Blender's list as many rows as there are entries to show."""
    group = bpy.context.window_manager.dreamfusion_history
    _shown.matches = history.matching(_shown.entries, group.search)
    n_rows = min(len(_shown.matches), MAX_ROWS)
    while len(group.rows) > n_rows:
        group.rows.remove(len(group.rows) - 1)
    while len(group.rows) < n_rows:
        group.rows.add()


def chosen(context: bpy.types.Context) -> HistoryEntry | None:
    """The entry that is chosen in the list."""
    index = context.window_manager.dreamfusion.history_index
    return _shown.matches[index] if 0 <= index < min(len(_shown.matches), MAX_ROWS) else None


def _tick() -> float | None:
    if _shown.folder != preferences.jobs_folder(bpy.context):
        read_again()
    if collect():
        runtime.redraw()
    return LOOK_S if _shown.reader.is_reading else None


def _follow(state: JobState) -> None:
    """A job that began, came further or ended changes the history."""
    mark = f"{state.job} {state.status} {state.phase}"
    if mark != _shown.last_job:
        _shown.last_job = mark
        if _shown.folder is not None:
            read_again()


def _search_changed(_group: object, _context: object) -> None:
    show_matches()


class DREAMFUSION_PG_row(bpy.types.PropertyGroup):
    """A row of a list, without content: what it shows is kept outside Blender's data."""


class DREAMFUSION_PG_history(bpy.types.PropertyGroup):
    rows: bpy.props.CollectionProperty(type=DREAMFUSION_PG_row)  # type: ignore[valid-type]
    search: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Search",
        description="Show the jobs with these words in prompt, quality, model, state, date or seed",
        options={"SKIP_SAVE", "TEXTEDIT_UPDATE"},
        update=_search_changed,
    )


class DREAMFUSION_UL_history(bpy.types.UIList):
    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0):  # type: ignore[no-untyped-def]
        if index >= len(_shown.matches):
            return
        entry = _shown.matches[index]
        row = layout.row(align=True)
        picture = _shown.thumbnails.icon_id(entry.thumbnail)
        if picture:
            row.label(text=entry.prompt, icon_value=picture)
        else:
            row.label(text=entry.prompt, icon="MESH_DATA")
        row.label(text="", icon=_icon(entry))

    def draw_filter(self, context, layout):  # type: ignore[no-untyped-def]
        pass  # the panel has a search of its own, which looks at more than names


class DREAMFUSION_PT_history(bpy.types.Panel):
    bl_label = "History"
    bl_parent_id = "DREAMFUSION_PT_main"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = TAB
    bl_options = {"DEFAULT_CLOSED"}
    bl_order = 90

    def draw(self, context: bpy.types.Context) -> None:
        ensure_read()
        layout, manager = self.layout, context.window_manager
        row = layout.row(align=True)
        row.prop(manager.dreamfusion_history, "search", text="", icon="VIEWZOOM", placeholder="Search")
        row.operator("dreamfusion.history_refresh", text="", icon="FILE_REFRESH")
        if not _shown.matches:
            layout.label(text="Reading the jobs" if _shown.reader.is_reading else "No job found" if _shown.entries else "No jobs yet")
            return
        layout.template_list(
            "DREAMFUSION_UL_history", "", manager.dreamfusion_history, "rows", manager.dreamfusion, "history_index", rows=4, maxrows=8
        )
        if len(_shown.matches) > MAX_ROWS:
            layout.label(text=f"The newest {MAX_ROWS} of {len(_shown.matches):,}; search for others")
        entry = chosen(context)
        if entry is not None:
            draw_entry(layout, entry)


def draw_entry(layout: bpy.types.UILayout, entry: HistoryEntry) -> None:
    """The chosen job, and what can be done with it."""
    box = layout.box()
    picture = _shown.thumbnails.icon_id(entry.thumbnail)
    if picture:
        box.template_icon(icon_value=picture, scale=THUMBNAIL_SCALE)
    draw_text(box, entry.prompt)
    column = box.column(align=True)
    column.scale_y = LINE_SCALE
    for line in _facts(entry):
        column.label(text=line)
    failure = runtime.failure_of(entry.folder)
    if failure is not None or entry.problem:
        draw_text(box, str(failure or entry.problem), icon="ERROR")
    buttons = box.column(align=True)
    if entry.state is HistoryState.DONE:
        _button(buttons, "import", entry, "IMPORT")
        _button(buttons, "more", entry, "PLAY")
    elif entry.is_resumable:
        row = buttons.row(align=True)
        row.enabled = not is_at_work(entry.folder)
        _button(row, "continue", entry, "PLAY")
    if entry.state is not HistoryState.DAMAGED:
        row = buttons.row(align=True)
        _button(row, "again", entry, "FILE_REFRESH")
        _button(row, "load", entry, "EYEDROPPER")
    row = buttons.row(align=True)
    _button(row, "open", entry, "FILE_FOLDER")
    _button(row, "delete", entry, "TRASH")


def _button(layout: bpy.types.UILayout, name: str, entry: HistoryEntry, icon: str) -> None:
    layout.operator(f"dreamfusion.history_{name}", icon=icon).folder = entry.folder


def _facts(entry: HistoryEntry) -> list[str]:
    """Lines such as "Done in 2 min 3 s", "Draft, seed 5, 4,000 triangles", "2026-11-01 14:05"."""
    took = f" in {duration(entry.seconds)}" if entry.state is HistoryState.DONE and entry.seconds else ""
    at = f" at step {entry.step} of {entry.n_steps}" if entry.is_resumable and entry.step else ""
    state = "Running" if is_at_work(entry.folder) else entry.state.value
    what = [entry.preset.capitalize(), f"seed {entry.seed}"] if entry.preset else []
    if entry.stage in STAGE_WORDS:
        what.insert(0, STAGE_WORDS[entry.stage])
    if entry.n_triangles:
        what.append(f"{entry.n_triangles:,} triangles")
    return [line for line in (f"{state}{took}{at}", ", ".join(what), entry.date) if line]


def _icon(entry: HistoryEntry) -> str:
    return "TIME" if is_at_work(entry.folder) else STATE_ICONS[entry.state]


def is_at_work(folder: str) -> bool:
    return folder in runtime.queue().folders or runtime.state().is_active and runtime.state().folder == folder


CLASSES = (DREAMFUSION_PG_row, DREAMFUSION_PG_history, DREAMFUSION_UL_history, DREAMFUSION_PT_history)


def register_extra() -> None:
    bpy.types.WindowManager.dreamfusion_history = bpy.props.PointerProperty(type=DREAMFUSION_PG_history, options={"SKIP_SAVE"})
    runtime.followers.append(_follow)


def unregister_extra() -> None:
    global _shown
    if _follow in runtime.followers:
        runtime.followers.remove(_follow)
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    _shown.reader.stop()
    _shown.thumbnails.close()
    _shown = _Shown()
    del bpy.types.WindowManager.dreamfusion_history
