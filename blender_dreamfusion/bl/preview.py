"""The picture of the running job for the sidebar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
import bpy.utils.previews
import numpy as np


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
        """Show the file; `key` must differ when its content does. A file that cannot be read keeps the last picture."""
        if not path or key == self._shown or not Path(path).is_file():
            return
        try:
            size, pixels = read_picture(path)
        except RuntimeError:
            return
        if self._pictures is None:
            self._pictures = bpy.utils.previews.new()
        self._pictures.clear()
        # Not `load`: that goes through the desktop's thumbnails, which notice a new content only a second later.
        picture = self._pictures.new(key)
        picture.image_size = size
        picture.image_pixels_float.foreach_set(pixels)
        self._shown = key

    def close(self) -> None:
        if self._pictures is not None:
            bpy.utils.previews.remove(self._pictures)
        self._pictures, self._shown = None, ""


def read_picture(path: str) -> tuple[tuple[int, int], np.ndarray]:
    """Width, height and [W * H * 4] float32 RGBA from the bottom row up, as stored. Raises: RuntimeError if it is no picture."""
    image = bpy.data.images.load(path)
    try:
        if not image.size[0]:
            raise RuntimeError(f"{path} holds no picture")
        pixels = np.empty(4 * image.size[0] * image.size[1], np.float32)
        image.pixels.foreach_get(pixels)
        return tuple(image.size), pixels
    finally:
        bpy.data.images.remove(image)
