"""The picture of the running job for the sidebar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy.utils.previews


class PanelPreview:
    """One picture at a time, as an icon. The collection is made at the first picture and must be removed with `close`."""

    def __init__(self) -> None:
        self._pictures: Any = None
        self._shown = ""

    @property
    def icon_id(self) -> int:
        """For `layout.template_icon`; 0 = nothing to show (always so without a window)."""
        return int(self._pictures[self._shown].icon_id) if self._shown else 0

    def show(self, path: str, key: str) -> None:
        """Show the file; `key` must differ when its content does. A file that is missing keeps the last picture."""
        if not path or key == self._shown or not Path(path).is_file():
            return
        if self._pictures is None:
            self._pictures = bpy.utils.previews.new()
        self._pictures.clear()
        self._pictures.load(key, path, "IMAGE", True)  # reload: Blender caches pictures by their path
        self._shown = key

    def close(self) -> None:
        if self._pictures is not None:
            bpy.utils.previews.remove(self._pictures)
        self._pictures, self._shown = None, ""
