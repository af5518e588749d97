"""The sidebar panel. Draws read cached state only; nothing here looks at the disk or starts anything."""

from __future__ import annotations

import textwrap

import bpy

from ..core.job_state import Status, headline
from ..core.settings import NOT_SET_UP
from . import preferences, runtime
from .ids import TAB

# About what fits into the default sidebar.
WRAP_CHARS = 38
PREVIEW_SCALE = 9.0


class DREAMFUSION_PT_main(bpy.types.Panel):
    bl_label = "DreamFusion"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = TAB

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.dreamfusion
        layout.use_property_split = True
        layout.use_property_decorate = False
        state = runtime.state()
        form = layout.column()
        form.enabled = not state.is_active
        draw_prompt(form, settings)
        form.prop(settings, "preset")
        form.prop(settings, "seed")
        form.prop(settings, "height_m")
        form.prop(settings, "place")
        if state.is_active:
            draw_running(layout)
        else:
            draw_generate(layout, reason_against(context))
            draw_end(layout)


def reason_against(context: bpy.types.Context) -> str:
    """Why Generate cannot run, in a few words; empty if it can."""
    if preferences.engine_python(context) is None:
        return NOT_SET_UP.text.rstrip(".")
    if not context.scene.dreamfusion.prompt.strip():
        return "Write a prompt first"
    return ""


def draw_prompt(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    if hasattr(layout, "textbox"):  # 5.2: several lines
        layout.textbox(settings, "prompt", initial_visible_lines=3, placeholder="a red mug")
    else:
        layout.prop(settings, "prompt", text="", placeholder="a red mug")


def draw_generate(layout: bpy.types.UILayout, reason: str) -> None:
    row = layout.row()
    row.scale_y = 1.5
    row.enabled = not reason
    row.operator("dreamfusion.generate", text=reason or "Generate")
    if reason.startswith(NOT_SET_UP.text.rstrip(".")):
        draw_text(layout, NOT_SET_UP.fix, icon="INFO")


def draw_running(layout: bpy.types.UILayout) -> None:
    state = runtime.state()
    if runtime.preview_icon():
        layout.template_icon(icon_value=runtime.preview_icon(), scale=PREVIEW_SCALE)
    layout.progress(factor=state.fraction, text=headline(state))
    if state.seconds_per_step > 0:
        layout.label(text=f"{state.seconds_per_step:.2f} s per step")
    row = layout.row(align=True)
    row.operator("dreamfusion.pause", text="Resume" if state.status is Status.PAUSED else "Pause")
    row.operator("dreamfusion.finish_now")
    row.operator("dreamfusion.cancel")
    for text in state.warnings:
        draw_text(layout, text, icon="ERROR")


def draw_end(layout: bpy.types.UILayout) -> None:
    """How the last job ended, and what to do about it."""
    state, problem = runtime.state(), runtime.problem()
    if problem is not None:
        box = layout.box()
        box.alert = True
        draw_text(box, str(problem), icon="ERROR")
    if state.status is Status.DONE:
        if runtime.preview_icon():
            layout.template_icon(icon_value=runtime.preview_icon(), scale=PREVIEW_SCALE)
        layout.operator("dreamfusion.import_result", text="Import Result Again" if problem is None else "Import Result")
    elif state.status is Status.CANCELLED:
        layout.label(text="Cancelled", icon="INFO")


def draw_text(layout: bpy.types.UILayout, text: str, *, icon: str) -> None:
    """Several labels, since one label does not wrap."""
    column = layout.column(align=True)
    for number, line in enumerate(textwrap.wrap(text, WRAP_CHARS) or [""]):
        column.label(text=line, icon=icon if number == 0 else "BLANK1")


CLASSES = (DREAMFUSION_PT_main,)
