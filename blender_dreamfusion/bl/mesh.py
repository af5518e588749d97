"""Mesh data-blocks from arrays. Knows no file format."""

from __future__ import annotations

import math

import bpy
import numpy as np

from ..core.naming import with_suffix
from ..core.results import Floats, Ints

UV_LAYER = "UVMap"
# Marks a mesh that another one has taken the place of; it is kept until the file is saved.
REPLACED = "dreamfusion_replaced"


def build_mesh(name: str, vertices: Floats, faces: Ints, corner_uvs: Floats) -> bpy.types.Mesh:
    """A new mesh of triangles, shaded smooth.

    Args:
        vertices: [V, 3] float32, object space.
        faces: [F, 3] int32, counter-clockwise seen from outside.
        corner_uvs: [F, 3, 2] float32, origin bottom left.
    `validate` runs at the end; what it had to drop is missing from the mesh.
    """
    n_faces = len(faces)
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(vertices))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(vertices, np.float32).ravel())
    mesh.loops.add(3 * n_faces)
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces, np.int32).ravel())
    mesh.polygons.add(n_faces)
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * n_faces, 3, dtype=np.int32))
    layer = mesh.uv_layers.new(name=UV_LAYER)
    layer.uv.foreach_set("vector", np.ascontiguousarray(corner_uvs, np.float32).ravel())
    mesh.update(calc_edges=True)
    mesh.validate()
    shade(mesh, "SMOOTH")
    return mesh


def shade(mesh: bpy.types.Mesh, shading: str, sharp_angle_deg: float = 180.0) -> None:
    """SMOOTH, FLAT, or AUTO: smooth, but edges whose faces meet at more than `sharp_angle_deg` (0..180) stay sharp."""
    mesh.polygons.foreach_set("use_smooth", np.full(len(mesh.polygons), shading != "FLAT"))
    if shading == "AUTO":
        mesh.set_sharp_from_angle(angle=math.radians(sharp_angle_deg))
    mesh.update()


def vertex_positions(mesh: bpy.types.Mesh) -> Floats:
    """[V, 3] float32, object space."""
    flat = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", flat)
    return flat.reshape(-1, 3)


def triangle_count(mesh: bpy.types.Mesh) -> int:
    """Triangles that the mesh has once every polygon is split into some: a polygon of n corners counts n - 2."""
    return len(mesh.loops) - 2 * len(mesh.polygons)


def swap_mesh(obj: bpy.types.Object, mesh: bpy.types.Mesh) -> None:
    """Give `obj` another mesh; transform, modifiers, collections and its name stay.

    An old mesh that nobody else uses gets a fake user, so that an edited one can be had back until the file is saved
    (`release_replaced`).
    """
    old = obj.data
    obj.data = mesh
    if old.users == 0:
        old[REPLACED] = True
        old.use_fake_user = True
        old.name = with_suffix(old.name, "_old")


def release_replaced() -> None:
    """Before a save: meshes kept by `swap_mesh` lose their fake user and do not go into the file."""
    for mesh in [mesh for mesh in bpy.data.meshes if REPLACED in mesh]:
        del mesh[REPLACED]
        mesh.use_fake_user = False
