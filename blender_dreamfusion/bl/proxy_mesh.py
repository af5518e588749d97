"""The light mesh of the running job, standing in the scene where the result will stand.

It carries a mark in the data itself, so that it is found again after undo, load or renaming. It is neither rendered nor selected.
"""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix

from ..core.proxy_file import ProxyMesh
from ..core.view_numbers import Placement, as_matrix
from .camera_background import MARK, NAME

COLOR_LAYER = "Color"


def show(scene: bpy.types.Scene, proxy: ProxyMesh, placement: Placement) -> bpy.types.Object:
    """Put the mesh into the scene, in place of the one before."""
    obj = next((obj for obj in bpy.data.objects if MARK in obj and obj.type == "MESH" and obj.mode == "OBJECT"), None)
    if obj is None or scene not in obj.users_scene:
        clear()
        mesh = bpy.data.meshes.new(NAME)
        mesh[MARK] = True
        mesh.materials.append(_material())
        obj = bpy.data.objects.new(NAME, mesh)
        obj[MARK] = True
        scene.collection.objects.link(obj)
        obj.hide_select = obj.hide_render = True
    _fill(obj.data, proxy)
    obj.matrix_world = Matrix(as_matrix(placement.object_to_world).tolist())
    return obj


def clear() -> None:
    """Remove it, with its mesh and its material."""
    for obj in [obj for obj in bpy.data.objects if MARK in obj]:
        bpy.data.objects.remove(obj)
    for mesh in [mesh for mesh in bpy.data.meshes if MARK in mesh]:
        bpy.data.meshes.remove(mesh)
    for material in [material for material in bpy.data.materials if MARK in material]:
        bpy.data.materials.remove(material)


def _fill(mesh: bpy.types.Mesh, proxy: ProxyMesh) -> None:
    """In place: a mesh exchanged each time would leave one behind in every undo step."""
    n_faces = len(proxy.faces)
    mesh.clear_geometry()
    mesh.vertices.add(len(proxy.vertices))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(proxy.vertices, np.float32).ravel())
    mesh.loops.add(3 * n_faces)
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(proxy.faces, np.int32).ravel())
    mesh.polygons.add(n_faces)
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * n_faces, 3, dtype=np.int32))
    mesh.polygons.foreach_set("use_smooth", np.ones(n_faces, bool))
    layer = mesh.color_attributes.new(COLOR_LAYER, "BYTE_COLOR", "POINT")
    rgba = np.concatenate([proxy.colors, np.ones((len(proxy.colors), 1), np.float32)], axis=1)
    layer.data.foreach_set("color_srgb", np.ascontiguousarray(rgba, np.float32).ravel())
    mesh.update(calc_edges=True)
    mesh.validate()
    mesh.color_attributes.active_color = mesh.color_attributes[COLOR_LAYER]
    # What Solid shading shows; the other modes show the colours of the vertices.
    linear = np.mean(proxy.colors, axis=0) ** 2.2
    mesh.materials[0].diffuse_color = (*linear.tolist(), 1.0)


def _material() -> bpy.types.Material:
    material = bpy.data.materials.new(NAME)
    material[MARK] = True
    if material.node_tree is None:  # up to 4.5
        material.use_nodes = True
    tree = material.node_tree
    shader = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    color = tree.nodes.new("ShaderNodeAttribute")
    color.attribute_name = COLOR_LAYER
    color.location = (-240, 300)
    tree.links.new(color.outputs["Color"], shader.inputs["Base Color"])
    return material
