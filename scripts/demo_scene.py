"""A neutral stage for one object: floor, soft light, a camera on a turning rig; and a picture of it from four sides."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bpy
import numpy as np
from mathutils import Vector

AZIMUTHS_DEG = (25.0, 115.0, 205.0, 295.0)
ELEVATION_DEG = 22.0
# With this elevation and lens the horizon stays above the picture: nothing but floor behind the object.
FOV_DEG = 30.0
MARGIN = 1.0
FLOOR_COLOR = (0.62, 0.61, 0.60, 1.0)
RIG_NAME = "View"


def dress_scene(obj: bpy.types.Object) -> None:
    """Floor, world, key light and camera for `obj`, which stays where it is. The rig turns round the middle of the object."""
    scene = bpy.context.scene
    corners = [obj.matrix_world @ Vector(corner) for corner in obj.bound_box]
    low = Vector([min(corner[axis] for corner in corners) for axis in range(3)])
    high = Vector([max(corner[axis] for corner in corners) for axis in range(3)])
    center, radius = (low + high) / 2, (high - low).length / 2
    _floor(scene, low.z, 60 * radius)
    _world(scene)
    rig = bpy.data.objects.new(RIG_NAME, None)
    rig.location = center
    rig.hide_viewport = True
    scene.collection.objects.link(rig)
    scene.camera = _camera(scene, rig, MARGIN * radius / math.sin(math.radians(FOV_DEG / 2)), radius)
    _key_light(scene, rig, radius)
    turn_view(AZIMUTHS_DEG[0])


def turn_view(azimuth_deg: float) -> None:
    """0 = from the front (-Y), 90 = from +X."""
    bpy.data.objects[RIG_NAME].rotation_euler = (0.0, 0.0, math.radians(azimuth_deg))
    bpy.context.view_layer.update()


def render_views(path: Path, *, tile_px: int, n_samples: int) -> None:
    """Four Cycles pictures from the rig's four sides in one row, as a PNG."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = n_samples
    scene.cycles.use_denoising = True
    scene.cycles.seed = 0
    # One object on a floor: two bounces are seen, more only cost time; denoising takes care of the rest.
    scene.cycles.max_bounces = 3
    scene.cycles.caustics_reflective = scene.cycles.caustics_refractive = False
    scene.view_settings.view_transform = "Standard"
    scene.render.resolution_x = scene.render.resolution_y = tile_px
    scene.render.resolution_percentage = 100
    scene.render.image_settings.file_format = "PNG"
    tiles = []
    with tempfile.TemporaryDirectory() as folder:
        for number, azimuth_deg in enumerate(AZIMUTHS_DEG):
            turn_view(azimuth_deg)
            scene.render.filepath = str(Path(folder) / f"{number}.png")
            with quiet_stdout():
                bpy.ops.render.render(write_still=True)
            tiles.append(_pixels(scene.render.filepath))
    turn_view(AZIMUTHS_DEG[0])
    _save_png(np.concatenate(tiles, axis=1), path)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Cycles writes a hundred lines for each picture on the C library's stdout, which only the file descriptor can stop."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _floor(scene: bpy.types.Scene, height: float, size: float) -> None:
    mesh = bpy.data.meshes.new("Floor")
    corners = [(-size, -size, height), (size, -size, height), (size, size, height), (-size, size, height)]
    mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
    material = bpy.data.materials.new("Floor")
    if material.node_tree is None:
        material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = FLOOR_COLOR
    shader.inputs["Roughness"].default_value = 0.9
    mesh.materials.append(material)
    scene.collection.objects.link(bpy.data.objects.new("Floor", mesh))


def _world(scene: bpy.types.Scene) -> None:
    world = bpy.data.worlds.new("Soft Light")
    if world.node_tree is None:
        world.use_nodes = True
    background = next(node for node in world.node_tree.nodes if node.type == "BACKGROUND")
    background.inputs["Color"].default_value = (0.95, 0.97, 1.0, 1.0)
    background.inputs["Strength"].default_value = 0.5
    scene.world = world


def _camera(scene: bpy.types.Scene, rig: bpy.types.Object, distance: float, radius: float) -> bpy.types.Object:
    data = bpy.data.cameras.new("Camera")
    data.angle = math.radians(FOV_DEG)
    data.clip_start, data.clip_end = 0.01 * radius, 500 * radius
    camera = bpy.data.objects.new("Camera", data)
    elevation = math.radians(ELEVATION_DEG)
    camera.location = (0.0, -distance * math.cos(elevation), distance * math.sin(elevation))
    camera.rotation_euler = (math.pi / 2 - elevation, 0.0, 0.0)
    camera.parent = rig
    scene.collection.objects.link(camera)
    return camera


def _key_light(scene: bpy.types.Scene, rig: bpy.types.Object, radius: float) -> None:
    """Turns with the camera, so that no side of the object is shown in the dark."""
    data = bpy.data.lights.new("Key", "SUN")
    data.energy, data.angle = 1.4, math.radians(20)
    light = bpy.data.objects.new("Key", data)
    light.location = (-2 * radius, -3 * radius, 4 * radius)
    light.rotation_euler = (math.radians(42), 0.0, math.radians(-35))
    light.parent = rig
    scene.collection.objects.link(light)


def _pixels(path: str) -> np.ndarray:
    """[H, W, 4] float32 as stored in the file, first row at the bottom."""
    image = bpy.data.images.load(path)
    image.colorspace_settings.name = "Non-Color"
    width, height = image.size
    flat = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(flat)
    bpy.data.images.remove(image)
    return flat.reshape(height, width, 4)


def _save_png(pixels: np.ndarray, path: Path) -> None:
    height, width = pixels.shape[:2]
    image = bpy.data.images.new("render", width, height)
    image.colorspace_settings.name = "Non-Color"
    image.pixels.foreach_set(np.ascontiguousarray(pixels, np.float32).ravel())
    image.filepath_raw, image.file_format = str(path), "PNG"
    image.save()
    bpy.data.images.remove(image)
