"""The numbers of a camera or a viewport, read from Blender. Nothing is kept: cameras die on undo and load."""

from __future__ import annotations

from collections.abc import Iterator

import bpy

from ..core.view_numbers import Lens, Placement, View, as_matrix, as_numbers, rigid, window_of_projection
from .mesh import vertex_positions
from .placement import blender_units


class CannotShowError(Exception):
    """Why nothing can be shown from here: a sentence with the fix."""


def lens_of(camera: bpy.types.Camera, render: bpy.types.RenderSettings) -> Lens:
    """Raises: CannotShowError for a panoramic camera."""
    if camera.type not in {"PERSP", "ORTHO"}:
        raise CannotShowError("A panoramic camera has no flat picture. Set its type to Perspective or Orthographic.")
    return Lens(
        orthographic=camera.type == "ORTHO",
        lens_mm=camera.lens,
        ortho_scale=camera.ortho_scale,
        sensor_fit=camera.sensor_fit,
        sensor_width_mm=camera.sensor_width,
        sensor_height_mm=camera.sensor_height,
        shift_x=camera.shift_x,
        shift_y=camera.shift_y,
        width_px=render.resolution_x,
        height_px=render.resolution_y,
        pixel_aspect_x=render.pixel_aspect_x,
        pixel_aspect_y=render.pixel_aspect_y,
    )


def camera_view(scene: bpy.types.Scene) -> View:
    """What the scene's camera sees. Raises: CannotShowError."""
    obj = scene.camera
    if obj is None or obj.type != "CAMERA":
        raise CannotShowError("The scene has no camera. Add one, or make one active with Ctrl+Numpad 0.")
    lens = lens_of(obj.data, scene.render)
    return View(
        camera_to_world=as_numbers(rigid(as_matrix(_flat(obj.matrix_world)))),
        window=lens.window(),
        orthographic=lens.orthographic,
        clip_start=obj.data.clip_start,
        clip_end=obj.data.clip_end,
        size=lens.size,
    )


def region_view(region: bpy.types.Region, region_3d: bpy.types.RegionView3D) -> View:
    """What a 3D viewport shows, also when it looks through a camera."""
    orthographic = region_3d.window_matrix[3][3] > 0.5  # also right for an orthographic camera that is looked through
    window, clip_start, clip_end = window_of_projection(_flat(region_3d.window_matrix), orthographic)
    return View(
        camera_to_world=_flat(region_3d.view_matrix.inverted_safe()),
        window=window,
        orthographic=orthographic,
        clip_start=clip_start,
        clip_end=clip_end,
        size=(float(region.width), float(region.height)),
    )


def viewports(scene: bpy.types.Scene) -> Iterator[tuple[bpy.types.Area, bpy.types.Region, bpy.types.RegionView3D]]:
    """The 3D viewports that show the scene, largest first."""
    areas = [
        area
        for window in bpy.context.window_manager.windows
        if window.scene == scene
        for area in window.screen.areas
        if area.type == "VIEW_3D"
    ]
    for area in sorted(areas, key=lambda area: -area.width * area.height):
        # In quad view the last region is the free one, whose numbers `region_3d` has.
        region = [region for region in area.regions if region.type == "WINDOW"][-1]
        if area.spaces.active.region_3d is not None:
            yield area, region, area.spaces.active.region_3d


def viewport_view(scene: bpy.types.Scene) -> View:
    """What the largest 3D viewport of the scene shows. Raises: CannotShowError."""
    for _, region, region_3d in viewports(scene):
        return region_view(region, region_3d)
    raise CannotShowError("No 3D viewport shows this scene. Open one, or show the preview through the camera.")


def placement_of(
    location: tuple[float, float, float], height_m: float, scene: bpy.types.Scene, replaced: bpy.types.Object | None
) -> Placement:
    """Where the result will stand: at a location of the scene, or in place of the mesh of `replaced`."""
    if replaced is None:
        return Placement.standing_at(location, blender_units(height_m, scene))
    positions = vertex_positions(replaced.data)
    height = float(positions[:, 2].max() - positions[:, 2].min()) if len(positions) else 1.0
    matrix = as_matrix(_flat(replaced.matrix_world))
    matrix[:3, :3] *= height
    return Placement(as_numbers(matrix))


def _flat(matrix) -> tuple[float, ...]:  # type: ignore[no-untyped-def]  # mathutils.Matrix
    return tuple(value for row in matrix for value in row)
