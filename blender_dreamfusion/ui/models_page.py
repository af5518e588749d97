"""Models: what there is, what it costs, fetching and deleting it. Drawn in the preferences; the sidebar has a menu of the models.

Draws read what `models` knows, never the disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bpy

from ..core import model_list
from ..core.model_list import ModelRow
from ..core.task_state import TaskState, TaskStatus
from . import tasks
from .drawing import draw_text
from .models import (
    DRAWING,
    WORK_TASK,
    find_any_row,
    find_row,
    helper_rows,
    icon_of,
    is_synced,
    missing_helper,
    missing_model,
    rows,
    sync_list,
    work_id,
)
from .models import model_items as model_items

MIN_ROWS = 5
MIN_HELPER_ROWS = 4
# What fits into the preferences at their default width.
WIDE_CHARS = 85


class DREAMFUSION_UL_models(bpy.types.UIList):
    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0):  # type: ignore[no-untyped-def]
        _draw_columns(layout, item.name, title_share=0.36, licence_share=0.5)


class DREAMFUSION_UL_helpers(bpy.types.UIList):
    def draw_item(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0):  # type: ignore[no-untyped-def]
        _draw_columns(layout, item.name, title_share=0.56, licence_share=0.7)


def _draw_columns(layout: bpy.types.UILayout, name: str, *, title_share: float, licence_share: float) -> None:
    row = find_any_row(name)
    if row is None:
        layout.label(text=name)
        return
    line = layout.split(factor=title_share)
    line.label(text=row.title, icon=icon_of(row))
    line = line.split(factor=licence_share)
    line.label(text=row.licence)
    line.label(text=row.size_text)
    if not row.is_helper:
        line.label(text=row.vram_text)  # whether it is here says the icon; the words stand below the list


class DREAMFUSION_MT_models(bpy.types.Menu):
    bl_label = "Model"
    bl_description = "The diffusion model that judges the pictures"

    def draw(self, _context: bpy.types.Context) -> None:
        for row in rows():
            self.layout.operator("dreamfusion.choose_model", text=row.title, icon=icon_of(row)).model = row.id
        self.layout.separator()
        self.layout.operator("dreamfusion.models_page", icon="PREFERENCES")


def draw_choice(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """The scene's model as a menu, and what stands in its way."""
    row = find_row(settings.model)
    line = layout.row(align=True)
    line.menu("DREAMFUSION_MT_models", text=row.title if row is not None else settings.model, icon=icon_of(row) if row else "FILE_FOLDER")
    line.operator("dreamfusion.models_page", text="", icon="PREFERENCES")
    if row is not None and not row.installed:
        draw_download(layout, row)


def draw_start(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """Whether Shap-E draws the first shape, and its download where it is not here."""
    layout.prop(settings, "drawn_start")
    missing = missing_helper(DRAWING)
    if settings.drawn_start and missing is not None:
        draw_download(layout, missing, tells_offline=missing_model(settings.model) is None)


def draw_download(layout: bpy.types.UILayout, row: ModelRow, *, tells_offline: bool = True) -> None:
    """Download, or its bar with Cancel; where Blender is offline, the sentence and the button that allows it, unless told already."""
    state = tasks.state(WORK_TASK)
    if state is not None and state.is_active and work_id() == row.id:
        _draw_bar(layout, state)
    elif row.is_downloadable:
        verb = "Continue Download" if row.partial_bytes else "Download"
        layout.operator("dreamfusion.model_download", text=f"{verb} ({row.size_text})", icon="IMPORT").model = row.id
        if tells_offline and not bpy.app.online_access:
            draw_text(layout, "Blender may not go online.", icon="INTERNET_OFFLINE")
            if not bpy.app.online_access_override:
                layout.operator("extensions.userpref_allow_online", text="Allow Online Access")


def _draw_bar(layout: bpy.types.UILayout, state: TaskState) -> None:
    line = layout.row(align=True)
    line.progress(factor=state.fraction, text=model_list.progress_text(state.done, state.of) or "Starting")
    line.operator("dreamfusion.model_cancel", text="", icon="X")


def draw_page(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The list with its buttons, and what is to be known of the chosen model. For the add-on's preferences."""
    window = context.window_manager.dreamfusion
    if not is_synced(window) and not bpy.app.timers.is_registered(sync_list):
        bpy.app.timers.register(sync_list, first_interval=0.0)
    line = layout.row()
    line.template_list("DREAMFUSION_UL_models", "", window, "models", window, "model_index", rows=MIN_ROWS)
    buttons = line.column(align=True)
    buttons.operator("dreamfusion.model_add", text="", icon="ADD")
    model = _chosen(rows(), window.model_index)
    _draw_remove(buttons, model)
    buttons.separator()
    buttons.operator("dreamfusion.models_refresh", text="", icon="FILE_REFRESH")
    _draw_details(layout.box(), model)
    layout.label(text="Helpers, which work beside a model", icon="MODIFIER")
    line = layout.row()
    line.template_list("DREAMFUSION_UL_helpers", "", window, "helpers", window, "helper_index", rows=MIN_HELPER_ROWS)
    helper = _chosen(helper_rows(), window.helper_index)
    _draw_remove(line.column(align=True), helper)
    _draw_details(layout.box(), helper, tells_offline=model.installed)
    _draw_work(layout, (model, helper))


def _chosen(known: Sequence[ModelRow], index: int) -> ModelRow:
    return known[max(0, min(index, len(known) - 1))]


def _draw_remove(layout: bpy.types.UILayout, row: ModelRow) -> None:
    column = layout.column(align=True)
    column.enabled = row.can_remove
    column.operator("dreamfusion.model_remove", text="", icon="TRASH").model = row.id


def _draw_work(layout: bpy.types.UILayout, shown: Sequence[ModelRow]) -> None:
    """What is being done, unless its own row shows it already, or how the last work ended."""
    state = tasks.state(WORK_TASK)
    if state is None:
        return
    if state.is_active:
        if not any(row.id == work_id() and not row.installed for row in shown):
            layout.label(text=f"{Path(work_id()).name}: {state.phase or 'starting'}")
            _draw_bar(layout, state)
    elif state.text and state.status is not TaskStatus.CANCELLED:
        box = layout.box()
        box.alert = state.status is TaskStatus.FAILED
        draw_text(box, state.sentence, icon="ERROR" if state.status is TaskStatus.FAILED else "INFO", n_chars=WIDE_CHARS)


def _draw_details(box: bpy.types.UILayout, row: ModelRow, *, tells_offline: bool = True) -> None:
    box.label(text=row.title, icon=icon_of(row))
    draw_text(box, row.note, n_chars=WIDE_CHARS)
    if row.is_helper:
        draw_text(box, f"For {model_list.for_text(row, rows())}", n_chars=WIDE_CHARS)
        facts = [f"Name: {row.id}", f"License: {row.licence}", row.size_text, row.state_text]
    else:
        facts = [f"License: {row.licence}", f"{row.resolution_px} px", row.vram_text, row.size_text, row.state_text]
    draw_text(box, " · ".join(fact for fact in facts if fact), n_chars=WIDE_CHARS)
    if row.gated:
        draw_text(box, "Its owner gives it to those who accepted the license; the download says where.", icon="LOCKED", n_chars=WIDE_CHARS)
    if row.withheld and not row.installed:
        draw_text(box, f"{row.withheld} {row.instead}", icon="CANCEL", n_chars=WIDE_CHARS)
    if row.folder:
        box.label(text=row.folder, icon="FILE_FOLDER")
    if row.installed:
        line = box.row(align=True)
        if not row.is_helper:
            line.operator("dreamfusion.choose_model", text="Use in This Scene").model = row.id
        line.operator("dreamfusion.model_check", text="Check").model = row.id
    else:
        draw_download(box, row, tells_offline=tells_offline)


CLASSES = (DREAMFUSION_UL_models, DREAMFUSION_UL_helpers, DREAMFUSION_MT_models)
