"""The preview drawn over the 3D viewport that it was made for.

A picture belongs to one view. While the user orbits, the viewport shows another view than any picture, so nothing is drawn
until the one for the new view is there: a picture that slides over the scene would tell lies about where the object stands.
"""

from __future__ import annotations

import traceback
from typing import Any

import bpy
import numpy as np

from ..bl.camera_view import region_view
from ..bl.preview import read_picture
from ..core.view_numbers import View

FRAGMENT_SOURCE = """
void main()
{
  color = texture(picture, uv);
  if (srgbTarget) {
    vec3 dark = color.rgb / 12.92;
    vec3 bright = pow((color.rgb + 0.055) / 1.055, vec3(2.4));
    color.rgb = mix(dark, bright, step(vec3(0.04045), color.rgb));
  }
}
"""


class _Picture:
    """Pixels of the newest picture; the texture is made from them in the first draw, where there is a GPU to make it."""

    def __init__(self, path: str, view: View, scene_name: str, size: tuple[int, int], pixels: np.ndarray) -> None:
        self.path = path
        self.view = view
        self.scene_name = scene_name
        self.size = size
        self.pixels = pixels
        self.texture: Any = None


class _Overlay:
    """What is shown at the moment, and the handler that draws it: there only while something is shown."""

    picture: _Picture | None = None
    handle: Any = None
    shader: Any = None
    batch: Any = None


_overlay = _Overlay()


def show(path: str, view: View, scene_name: str) -> None:
    """Draw this picture wherever a viewport of the scene shows `view`. A file that cannot be read keeps the last one."""
    if _overlay.picture is not None and _overlay.picture.path == path:
        return
    try:
        size, pixels = read_picture(path)
    except RuntimeError:
        return
    _overlay.picture = _Picture(path, view, scene_name, size, pixels)
    if _overlay.handle is None:
        _overlay.handle = bpy.types.SpaceView3D.draw_handler_add(_draw, (), "WINDOW", "POST_PIXEL")


def clear() -> None:
    """Draw nothing any more."""
    if _overlay.handle is not None:
        bpy.types.SpaceView3D.draw_handler_remove(_overlay.handle, "WINDOW")
    _overlay.handle = _overlay.picture = _overlay.shader = _overlay.batch = None


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
    """Over the whole region, whose edges are those of the view's window."""
    import gpu  # type: ignore[import-not-found]  # not without a window

    if _overlay.shader is None:
        _overlay.shader, _overlay.batch = _sheet()
    if picture.texture is None:
        buffer = gpu.types.Buffer("FLOAT", len(picture.pixels), picture.pixels)
        picture.texture = gpu.types.GPUTexture(picture.size, format="RGBA8", data=buffer)
    gpu.state.blend_set("ALPHA")
    _overlay.shader.bind()
    _overlay.shader.uniform_sampler("picture", picture.texture)
    _overlay.batch.draw(_overlay.shader)
    gpu.state.blend_set("NONE")


def _sheet() -> tuple[Any, Any]:
    """Shader and batch of a rectangle over the whole region.

    Not Blender's own image shader, for which a picture would be too bright in one version or too dark in the other: 4.x
    encodes what is drawn into a viewport as sRGB, 5.2 does not. `srgbTarget` is set by Blender and says so.
    """
    import gpu
    from gpu_extras.batch import batch_for_shader  # type: ignore[import-not-found]

    between = gpu.types.GPUStageInterfaceInfo("dreamfusion_preview")
    between.smooth("VEC2", "uv")
    info = gpu.types.GPUShaderCreateInfo()
    info.vertex_in(0, "VEC2", "pos")
    info.vertex_out(between)
    info.push_constant("BOOL", "srgbTarget")
    info.sampler(0, "FLOAT_2D", "picture")
    info.fragment_out(0, "VEC4", "color")
    info.vertex_source("void main() { uv = pos * 0.5 + 0.5; gl_Position = vec4(pos, 0.0, 1.0); }")
    info.fragment_source(FRAGMENT_SOURCE)
    shader = gpu.shader.create_from_info(info)
    return shader, batch_for_shader(shader, "TRI_STRIP", {"pos": ((-1, -1), (1, -1), (-1, 1), (1, 1))})


CLASSES = ()


def unregister_extra() -> None:
    clear()
