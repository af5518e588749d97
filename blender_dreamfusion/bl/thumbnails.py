"""Small pictures of finished jobs as icons, read by Blender itself in the background when they are first drawn."""

from __future__ import annotations

from typing import Any

import bpy
import bpy.utils.previews

# Beyond this all are let go of and read again as they are drawn: a long history must not fill the memory.
MAX_PICTURES = 400


class Thumbnails:
    """Icons by the path of their file. The collection is made at the first picture and must be removed with `close`."""

    def __init__(self) -> None:
        self._pictures: Any = None

    def icon_id(self, path: str) -> int:
        """For `template_icon`, or as `icon_value` of a label; 0 = none (always so without a window).

        Names the file only: Blender reads it later, beside the drawing. So this may be called from a draw.
        """
        if not path or bpy.app.background:
            return 0
        if self._pictures is None:
            self._pictures = bpy.utils.previews.new()
        if path not in self._pictures:
            if len(self._pictures) >= MAX_PICTURES:
                self._pictures.clear()
            self._pictures.load(path, path, "IMAGE")
        return int(self._pictures[path].icon_id)

    def close(self) -> None:
        if self._pictures is not None:
            bpy.utils.previews.remove(self._pictures)
        self._pictures = None
