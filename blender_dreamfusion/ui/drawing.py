"""What several panels draw with."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import bpy

from ..core.wrapping import wrapped
from .ids import TAB

# About what fits into the default sidebar.
WRAP_CHARS = 38
# Lines of a text stand closer than rows of buttons.
LINE_SCALE = 0.8

FAULT = "A fault in the add-on; see the console"
OUR_ROOT = __name__.rpartition(".")[0].rpartition(".")[0]

_reported: set[str] = set()


class SidebarPanel:
    """Where all panels of the add-on are."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = TAB


class SubPanel(SidebarPanel):
    """A closed part of the main panel."""

    bl_parent_id = "DREAMFUSION_PT_main"
    bl_options = {"DEFAULT_CLOSED"}


def draw_text(layout: bpy.types.UILayout, text: str, *, icon: str = "NONE", n_chars: int = WRAP_CHARS) -> None:
    """Several labels, close together, since one label does not wrap. With an icon, all lines begin behind it."""
    column = layout.column(align=True)
    column.scale_y = LINE_SCALE
    width = n_chars if icon == "NONE" else n_chars - 3
    following = "NONE" if icon == "NONE" else "BLANK1"
    for number, line in enumerate(wrapped(text, width)):
        column.label(text=line, icon=icon if number == 0 else following)


def refuse(operator: Any, why: str) -> bool:
    """For a poll: no, and the button's tooltip says why."""
    operator.poll_message_set(why)
    return False


def guarded(cls: type) -> type:
    """`cls` with draws and polls of ours that never raise: a fault is told once, not with every frame, and counts as "no" in a poll.

    Blender 4.2 prints an exception of a poll and then runs the operator all the same.
    """
    for name in ("draw", "draw_header", "draw_header_preset"):
        _replace(cls, name, _safe_draw)
    _replace(cls, "draw_item", _safe_draw_item)
    for name in ("poll", "poll_drop"):
        _replace(cls, name, _safe_poll)
    return cls


def _replace(cls: type, name: str, guard: Callable[[Any], Any]) -> None:
    """Blender's own methods (of PresetPanel, AddPresetBase) stay as they are."""
    owner = next((base for base in cls.__mro__ if name in vars(base)), None)
    if owner is not None and owner.__module__.startswith(OUR_ROOT):
        setattr(cls, name, guard(vars(owner)[name]))


def _tell_once(place: str, error: Exception) -> None:
    key = f"{place}: {type(error).__name__}: {error}"
    if key not in _reported:
        _reported.add(key)
        traceback.print_exc()


# Blender counts the arguments, so each kind of method has a guard of its own.
def _safe_draw(draw: Callable[..., None]) -> Callable[..., None]:
    def safe(self: Any, context: bpy.types.Context) -> None:
        try:
            draw(self, context)
        except Exception as error:  # noqa: BLE001 - the last door before Blender's own loop
            _tell_once(draw.__qualname__, error)
            self.layout.label(text=FAULT, icon="ERROR")

    return safe


def _safe_draw_item(draw_item: Callable[..., None]) -> Callable[..., None]:
    def safe(self, context, layout, data, item, icon, active_data, active_property, index=0, flt_flag=0):  # type: ignore[no-untyped-def]
        try:
            draw_item(self, context, layout, data, item, icon, active_data, active_property, index, flt_flag)
        except Exception as error:  # noqa: BLE001 - as above
            _tell_once(draw_item.__qualname__, error)
            layout.label(text=FAULT, icon="ERROR")

    return safe


def _safe_poll(poll: Any) -> Any:
    function = poll.__func__

    def safe(cls: Any, context: bpy.types.Context) -> bool:
        try:
            return bool(function(cls, context))
        except Exception as error:  # noqa: BLE001 - as above
            _tell_once(function.__qualname__, error)
            if issubclass(cls, bpy.types.Operator):
                return refuse(cls, FAULT)
            return False

    return classmethod(safe)
