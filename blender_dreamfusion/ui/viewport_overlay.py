"""The preview drawn over the 3D viewport that it was made for.

A picture belongs to one view. While the user orbits, the viewport shows another view than any picture, so nothing is drawn
until the one for the new view is there: a picture that slides over the scene would tell lies about where the object stands.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np

from ..bl.camera_view import region_view
from ..bl.preview import read_picture
from ..core.view_numbers import View


@dataclass
class _Picture:
    """Linear pixels of the newest picture; the texture is made from them in the first draw, where there is a GPU to make it."""

    path: str
    view: View
    scene_name: str
    size: tuple[int, int]
    pixels: np.ndarray
    texture: Any = None


class _Overlay:
    """What is shown at the moment, and the handler that draws it: there only while something is shown."""

    picture: _Picture | None = None
    handle: Any = None


_overlay = _Overlay()
_BYTES = np.arange(256) / 255
_LINEAR_OF_BYTE = np.where(_BYTES <= 0.04045, _BYTES / 12.92, ((_BYTES + 0.055) / 1.055) ** 2.4).astype(np.float32)


def show(path: str, view: View, scene_name: str) -> None:
    """Draw this picture wherever a viewport of the scene shows `view`. A file that cannot be read keeps the last one."""
    if _overlay.picture is not None and _overlay.picture.path == path:
        return
    try:
        size, pixels = read_picture(path)
    except RuntimeError:
        return
    _overlay.picture = _Picture(path, view, scene_name, size, linear(pixels))
    if _overlay.handle is None:
        _overlay.handle = bpy.types.SpaceView3D.draw_handler_add(_draw, (), "WINDOW", "POST_PIXEL")


def linear(pixels: np.ndarray) -> np.ndarray:
    """[4 * n] float32 RGBA of an 8-bit sRGB picture with linear colours: a viewport encodes whatever is drawn into it."""
    rgba = pixels.reshape(-1, 4)
    colors = _LINEAR_OF_BYTE[(rgba[:, :3] * 255 + 0.5).astype(np.uint8)]
    return np.concatenate([colors, rgba[:, 3:]], axis=1, dtype=np.float32).ravel()


def clear() -> None:
    """Draw nothing any more."""
    if _overlay.handle is not None:
        bpy.types.SpaceView3D.draw_handler_remove(_overlay.handle, "WINDOW")
    _overlay.handle = _overlay.picture = None


def _draw() -> None:
    """Called by Blender for every 3D viewport; must never raise."""
    context, picture = bpy.context, _overlay.picture
    try:
        if picture is None or context.scene.name != picture.scene_name or context.region_data is None:
            return
        if region_view(context.region, context.region_data).resembles(picture.view):
            _draw_over(context.region, picture)
    except Exception:  # noqa: BLE001 - a fault here would come again with every frame
        traceback.print_exc()
        _overlay.picture = None


def _draw_over(region: bpy.types.Region, picture: _Picture) -> None:
    import gpu  # type: ignore[import-not-found]  # not without a window
    from gpu_extras.presets import draw_texture_2d  # type: ignore[import-not-found]

    if picture.texture is None:
        buffer = gpu.types.Buffer("FLOAT", len(picture.pixels), picture.pixels)
        picture.texture = gpu.types.GPUTexture(picture.size, format="RGBA16F", data=buffer)
    gpu.state.blend_set("ALPHA")
    draw_texture_2d(picture.texture, (0, 0), region.width, region.height)
    gpu.state.blend_set("NONE")


CLASSES = ()


def unregister_extra() -> None:
    clear()
