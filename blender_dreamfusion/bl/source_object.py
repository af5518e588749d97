"""From a mesh object of the scene to what a job can start from."""

from __future__ import annotations

import bpy
import numpy as np

from ..core.results import Floats, Ints
from ..core.source_file import Source, SourceError
from .material import image_of
from .picture_files import png_bytes


def read_source(obj: bpy.types.Object, *, with_modifiers: bool = True) -> Source:
    """The triangles of a mesh object as they stand in the scene, with or without its modifiers.

    Raises: SourceError if the object shows no mesh.
    """
    shown = obj.evaluated_get(bpy.context.evaluated_depsgraph_get()) if with_modifiers else obj
    mesh = shown.to_mesh()
    try:
        if mesh is None or not len(mesh.vertices):
            raise SourceError(f"{obj.name} has no faces. Choose a mesh with a surface.")
        local, faces, corner_uvs = _triangles(mesh)
    finally:
        shown.to_mesh_clear()
    matrix = np.array(obj.matrix_world, np.float64)
    if np.linalg.det(matrix[:3, :3]) < 0:  # mirrored: what was outside would be inside
        faces, corner_uvs = faces[:, ::-1], corner_uvs[:, ::-1] if corner_uvs is not None else None
    world = local @ matrix[:3, :3].T + matrix[:3, 3]
    low, high = world.min(axis=0), world.max(axis=0)
    bottom = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    x, y, z = (float(value) for value in bottom)
    return Source((world - bottom).astype(np.float32), faces, corner_uvs, (x, y, z), float(high[2] - low[2]))


def _triangles(mesh: bpy.types.Mesh) -> tuple[Floats, Ints, Floats | None]:
    """Vertices [V, 3], triangles [F, 3] and their corner UVs [F, 3, 2] in the map that renders use."""
    mesh.calc_loop_triangles()
    n_faces = len(mesh.loop_triangles)
    places = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", places)
    faces, loops = np.empty(3 * n_faces, np.int32), np.empty(3 * n_faces, np.int32)
    mesh.loop_triangles.foreach_get("vertices", faces)
    mesh.loop_triangles.foreach_get("loops", loops)
    layer = next((layer for layer in mesh.uv_layers if layer.active_render), None)
    corner_uvs = None
    if layer is not None:
        uvs = np.empty(2 * len(mesh.loops), np.float32)
        layer.uv.foreach_get("vector", uvs)
        corner_uvs = uvs.reshape(-1, 2)[loops].reshape(-1, 3, 2)
    return places.reshape(-1, 3), faces.reshape(-1, 3), corner_uvs


def color_picture(obj: bpy.types.Object) -> bytes | None:
    """The picture that colors the whole object, as PNG; None where several materials or none do."""
    materials = [material for material in obj.data.materials if material is not None]
    image = image_of(materials[0], "Base Color") if len(materials) == 1 else None
    if image is None or image.source not in {"FILE", "GENERATED"} or not all(image.size):
        return None
    return png_bytes(image)


def fits(obj: bpy.types.Object, corner_uvs: Floats) -> bool:
    """Whether a texture for these corner UVs [F, 3, 2] is one for the object as it is now."""
    own = read_source(obj).corner_uvs
    return own is not None and own.shape == corner_uvs.shape and bool(np.allclose(own, corner_uvs, atol=1e-4))


def to_local(obj: bpy.types.Object, vertices: Floats, bottom: tuple[float, float, float]) -> Floats:
    """Places [V, 3] round `bottom` in the scene as places in the object's own space."""
    world = vertices.astype(np.float64) + np.array(bottom)
    inverse = np.linalg.inv(np.array(obj.matrix_world, np.float64))
    return (world @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.float32)
