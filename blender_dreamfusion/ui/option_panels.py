"""Every engine option as a row of a panel: the right widget, the engine's own words as tooltip, a way back to the preset.

Only what differs from the preset is stored, as text, in the scene's collection `options`. The widgets are properties without
storage of their own that read and write that collection; Blender takes their ranges and tooltips from the engine's table.
"""

from collections.abc import Callable
from typing import Any

import bpy

from ..core.engine_options import EngineOption, engine_options, fault, found, groups, number_text, numbers, value_of
from .drawing import SubPanel, draw_text

# These have a place of their own in another panel.
SHOWN_ELSEWHERE = frozenset({"guidance.guidance_scale"})
TRUE_WORDS = ("true", "yes", "on", "1")


class DREAMFUSION_PG_option(bpy.types.PropertyGroup):
    """An engine option that differs from the preset; `name` is its key, as in "training.n_steps"."""

    value: bpy.props.StringProperty(name="Value", description="As it would be typed on a command line")  # type: ignore[valid-type]


def changed_options(settings: bpy.types.PropertyGroup) -> dict[str, str]:
    """The options that the user changed, by key. Those of another version of the engine are left out."""
    return {item.name: item.value for item in settings.options if item.name in engine_options()}


def option_text(settings: bpy.types.PropertyGroup, option: EngineOption) -> str:
    """What the engine will be told, or would take by itself."""
    return value_of(option.key, settings.preset, {option.key: item.value} if (item := settings.options.get(option.key)) else {})


def differs(settings: bpy.types.PropertyGroup, option: EngineOption) -> bool:
    """Whether the value is not the preset's. A stored one may have become so by a change of the preset."""
    return option_text(settings, option) != option.values[settings.preset.lower()]


def set_option(settings: bpy.types.PropertyGroup, option: EngineOption, text: str) -> None:
    """Store a value; the preset's own, or nothing, takes the option out of the store."""
    text = text.strip() if option.kind == "text" else "".join(text.split())
    if text == option.values[settings.preset.lower()] or (not text and option.kind != "text"):
        reset_option(settings, option.key)
        return
    item = settings.options.get(option.key)
    if item is None:
        item = settings.options.add()
        item.name = option.key
    item.value = text


def reset_option(settings: bpy.types.PropertyGroup, key: str) -> None:
    index = settings.options.find(key)
    if index >= 0:
        settings.options.remove(index)


def _as_number(text: str) -> float:
    try:
        return numbers(text)[0]
    except ValueError:
        return 0.0


def _as_pair(text: str) -> tuple[float, ...]:
    try:
        return (*numbers(text), 0.0)[:2]
    except ValueError:
        return (0.0, 0.0)


def _property(option: EngineOption) -> Any:
    """A Blender property that shows and changes the stored text."""

    def get(read: Callable[[str], Any]) -> Callable[[Any], Any]:
        return lambda group: read(option_text(group.id_data.dreamfusion, option))

    def put(write: Callable[[Any], str]) -> Callable[[Any, Any], None]:
        return lambda group, value: set_option(group.id_data.dreamfusion, option, write(value))

    about = {"name": option.label, "description": option.help.rstrip("."), "options": set()}
    bounds = {name: bound for name, bound in (("min", option.low), ("max", option.high)) if bound is not None}
    if option.kind == "bool":
        return bpy.props.BoolProperty(
            **about, get=get(lambda text: text.lower() in TRUE_WORDS), set=put(lambda value: "true" if value else "false")
        )
    if option.kind == "int":
        bounds = {name: int(bound) for name, bound in bounds.items()}
        return bpy.props.IntProperty(**about, **bounds, get=get(lambda text: int(_as_number(text))), set=put(str))
    if option.kind == "float":
        digits = 1 if option.key.endswith("_deg") else 3
        return bpy.props.FloatProperty(**about, **bounds, precision=digits, get=get(_as_number), set=put(number_text))
    if option.kind == "word":
        items = [(word, word.replace("-", " ").replace("_", " ").title(), "") for word in option.words]
        return bpy.props.EnumProperty(
            **about,
            items=items,
            get=get(lambda text: option.words.index(text) if text in option.words else 0),
            set=put(lambda index: option.words[index]),
        )
    if option.kind == "pair":
        return bpy.props.FloatVectorProperty(
            **about, **bounds, size=2, get=get(_as_pair), set=put(lambda pair: ",".join(number_text(value) for value in pair))
        )
    return bpy.props.StringProperty(**about, get=get(str), set=put(str))


DREAMFUSION_PG_engine = type(
    "DREAMFUSION_PG_engine",
    (bpy.types.PropertyGroup,),
    {
        "__doc__": "Every engine option: what the preset or the user says.",
        "__module__": __name__,
        "__annotations__": {option.attribute: _property(option) for option in engine_options().values()},
    },
)


class DREAMFUSION_OT_reset_options(bpy.types.Operator):
    """Take the preset's value again"""

    bl_idname = "dreamfusion.reset_options"
    bl_label = "Reset to Preset"
    bl_options = {"REGISTER", "UNDO", "INTERNAL"}

    key: bpy.props.StringProperty(name="Option", description="Left out: all options", options={"SKIP_SAVE", "HIDDEN"})  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.dreamfusion
        if self.key:
            reset_option(settings, self.key)
        else:
            settings.options.clear()
        return {"FINISHED"}


class DREAMFUSION_PT_advanced(SubPanel, bpy.types.Panel):
    bl_label = "Advanced"
    bl_order = 70

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.dreamfusion
        search = context.window_manager.dreamfusion.option_search
        row = layout.row(align=True)
        row.prop(context.window_manager.dreamfusion, "option_search", text="", icon="VIEWZOOM", placeholder="Search")
        n_changed = sum(differs(settings, option) for option in engine_options().values())
        if n_changed:
            layout.operator("dreamfusion.reset_options", text=f"Reset All ({n_changed} changed)", icon="LOOP_BACK")
        options = [option for option in engine_options().values() if option.key not in SHOWN_ELSEWHERE]
        if search.strip():
            draw_found(layout, settings, found(search, options))
        else:
            draw_groups(layout, settings, options)


def draw_found(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup, options: list[EngineOption]) -> None:
    """The hits of a search, under the names of their groups."""
    if not options:
        draw_text(layout, "No option has these words", icon="INFO")
    for group in dict.fromkeys(option.group for option in options):
        column = layout.column(align=True)
        column.label(text=group.capitalize())
        for option in options:
            if option.group == group:
                draw_option(column, settings, option)


def draw_groups(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup, options: list[EngineOption]) -> None:
    """All options, folded by group."""
    for group in groups():
        members = [option for option in options if option.group == group]
        n_changed = sum(differs(settings, option) for option in members)
        header, body = layout.panel(f"dreamfusion_options_{group}", default_closed=True)
        header.label(text=group.capitalize() + (f" ({n_changed} changed)" if n_changed else ""))
        if body is not None:
            column = body.column(align=True)
            for option in members:
                draw_option(column, settings, option)


def draw_option(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup, option: EngineOption) -> None:
    """One row: name, value, and the arrow back to the preset where the value differs from it."""
    text = option_text(settings, option)
    row = layout.row(align=True)
    wrong = fault(option, text)
    row.alert = bool(wrong)
    if option.kind in ("bool", "int", "float"):
        row.prop(settings.engine, option.attribute)
    else:  # Blender would leave a third of the width to the name
        split = row.split(factor=0.38 if option.kind == "pair" else 0.5, align=True)
        split.label(text=option.label)
        split.row(align=True).prop(settings.engine, option.attribute, text="")
    if differs(settings, option):
        row.operator("dreamfusion.reset_options", text="", icon="LOOP_BACK").key = option.key
    if wrong:
        draw_text(layout, wrong, icon="ERROR")


CLASSES = (DREAMFUSION_PG_option, DREAMFUSION_PG_engine, DREAMFUSION_OT_reset_options, DREAMFUSION_PT_advanced)
