"""Mesh data-blocks from arrays. Knows no file format."""

from __future__ import annotations

import bpy
import numpy as np

from ..core.results import Floats, Ints

UV_LAYER = "UVMap"


def build_mesh(name: str, vertices: Floats, faces: Ints, corner_uvs: Floats, *, smooth: bool = True) -> bpy.types.Mesh:
    """A new mesh of triangles.

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
    mesh.polygons.foreach_set("use_smooth", np.full(n_faces, smooth))
    layer = mesh.uv_layers.new(name=UV_LAYER)
    layer.uv.foreach_set("vector", np.ascontiguousarray(corner_uvs, np.float32).ravel())
    mesh.update(calc_edges=True)
    mesh.validate()
    return mesh


def vertex_positions(mesh: bpy.types.Mesh) -> Floats:
    """[V, 3] float32, object space."""
    flat = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", flat)
    return flat.reshape(-1, 3)
