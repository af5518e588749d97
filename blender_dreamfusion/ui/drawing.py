"""What several panels draw with."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

import bpy

from ..core.wrapping import wrapped
from .ids import TAB

# About what fits into the default sidebar.
WRAP_CHARS = 38

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
    """Several labels, since one label does not wrap. With an icon, all lines begin behind it."""
    column = layout.column(align=True)
    width = n_chars if icon == "NONE" else n_chars - 3
    following = "NONE" if icon == "NONE" else "BLANK1"
    for number, line in enumerate(wrapped(text, width)):
        column.label(text=line, icon=icon if number == 0 else following)


def never_raises(draw: Callable[..., None]) -> Callable[..., None]:
    """For `draw` and `draw_header`: a fault becomes a line in the panel and one traceback on the console, not one per frame."""

    @functools.wraps(draw)
    def guarded(self: Any, context: bpy.types.Context) -> None:
        try:
            draw(self, context)
        except Exception as error:  # noqa: BLE001 - the last door before Blender's own loop
            key = f"{draw.__qualname__}: {type(error).__name__}: {error}"
            if key not in _reported:
                _reported.add(key)
                traceback.print_exc()
            self.layout.label(text="A fault in the add-on; see the console", icon="ERROR")

    return guarded
