"""The sidebar: prompt, quality with its numbers, Generate, the running job; and the small sub-panels of the prompt.

Draws read cached state only; nothing here looks at the disk or starts anything.
"""

from __future__ import annotations

import bpy

from ..core.job_state import Status, headline
from . import history, models, models_page, queue, readiness, runtime, setup
from .drawing import LINE_SCALE, SidebarPanel, SubPanel, draw_text
from .option_panels import changed_options
from .presets import DREAMFUSION_PT_presets
from .properties import PRESETS

PREVIEW_SCALE = 9.0
PRESETS_IN_A_ROW = 3
GUIDANCE_KEY = "guidance.guidance_scale"


class DREAMFUSION_PT_main(SidebarPanel, bpy.types.Panel):
    bl_label = "DreamFusion"
    bl_order = 0

    def draw_header_preset(self, _context: bpy.types.Context) -> None:
        DREAMFUSION_PT_presets.draw_panel_header(self.layout)

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.dreamfusion
        setup.draw_first_run(layout, context)
        queue.draw_left(layout)
        draw_prompt(layout, settings)
        draw_presets(layout, settings)
        column = layout.column(align=True)
        column.scale_y = LINE_SCALE
        for line in readiness.cost_lines(settings):
            column.label(text=line)
        column = layout.column(align=True)
        column.prop(settings, "height_m")
        column.prop(settings, "place", text="")
        draw_generate(layout, context)
        if runtime.state().is_active:
            draw_running(layout)
        else:
            draw_end(layout)


class DREAMFUSION_PT_negative_seed(SubPanel, bpy.types.Panel):
    bl_label = "Negative & Seed"
    bl_order = 10

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.dreamfusion
        layout.prop(settings, "negative", text="", placeholder="What it must not look like")
        layout.prop(settings, "seed")
        layout.prop(settings, "new_seed_each_time")
        layout.prop(settings, "n_variations")


class DREAMFUSION_PT_model(SubPanel, bpy.types.Panel):
    bl_label = "Model"
    bl_order = 20

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.dreamfusion
        models_page.draw_choice(layout, settings)
        overrides = changed_options(settings)
        if GUIDANCE_KEY in overrides:  # a schedule, from a preset or a script
            layout.label(text=f"Guidance scale: {overrides[GUIDANCE_KEY]}")
            layout.operator("dreamfusion.reset_options", text="Use One Number", icon="LOOP_BACK").key = GUIDANCE_KEY
        else:
            layout.prop(settings, "guidance_scale")
            if settings.guidance_scale == 0:
                layout.label(text="0 takes what suits the method")
        models_page.draw_start(layout, settings)


def draw_presets(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """Buttons beside each other, as many in a row as the default sidebar shows with whole words."""
    column = layout.column(align=True)
    for first in range(0, len(PRESETS), PRESETS_IN_A_ROW):
        row = column.row(align=True)
        for name, *_ in PRESETS[first : first + PRESETS_IN_A_ROW]:
            row.prop_enum(settings, "preset", name)


def draw_prompt(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    hint = "A name, if you like" if models.needs_picture(settings.model) else "a red mug"
    if hasattr(layout, "textbox"):  # 5.2: several lines
        layout.textbox(settings, "prompt", initial_visible_lines=3, placeholder=hint)
    else:
        layout.prop(settings, "prompt", text="", placeholder=hint)


def draw_generate(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """The button, or why it cannot be pressed with a button that mends it."""
    reason = readiness.reason_against(context)
    row = layout.row()
    row.scale_y = 1.5
    row.enabled = reason is None
    if reason is None:
        row.operator("dreamfusion.generate", text="Add to Queue" if runtime.is_busy() else readiness.button_text(context.scene.dreamfusion))
        return
    row.operator("dreamfusion.generate", text=f"Cannot generate: {reason.text}")
    if reason.detail:
        draw_text(layout, reason.detail, icon="ERROR")
    if reason.operator:
        button = layout.operator(reason.operator, text=reason.button, icon=reason.icon)
        for name, value in reason.arguments:
            setattr(button, name, value)


def draw_running(layout: bpy.types.UILayout) -> None:
    state = runtime.state()
    if runtime.preview_icon():
        layout.template_icon(icon_value=runtime.preview_icon(), scale=PREVIEW_SCALE)
    layout.progress(factor=state.fraction, text=headline(state))
    if state.seconds_per_step > 0 or state.text:
        layout.label(text=f"{state.seconds_per_step:.2f} s per step" if state.seconds_per_step > 0 else state.text)
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
        for number, line in enumerate(runtime.imported()):
            draw_text(layout, line, icon="CHECKMARK" if number == 0 else "ERROR")
        layout.operator("dreamfusion.import_result", text="Import Result Again" if problem is None else "Import Result")
    elif state.status is Status.CANCELLED:
        layout.label(text="Cancelled", icon="INFO")
    entry = history.of_folder(state.folder)
    if entry is not None and entry.is_resumable and not history.is_at_work(state.folder):
        layout.operator("dreamfusion.history_continue", text="Continue Job", icon="PLAY").folder = state.folder


CLASSES = (DREAMFUSION_PT_main, DREAMFUSION_PT_negative_seed, DREAMFUSION_PT_model)
