"""A surface of quads instead of triangles: voxel remesh, QuadriFlow, a new UV map, and textures baked over from the old surface."""

from __future__ import annotations

import math

import bpy
import numpy as np

from ..core.import_plan import DEFAULT_ROUGHNESS
from ..core.naming import with_suffix
from .derived_meshes import decimated, require_mesh, with_modifier
from .material import build_material, image_of, pack
from .mesh import shade, swap_mesh, triangle_count, vertex_positions
from .scratch import scratch_object, scratch_scene

# Voxel faces per quad: QuadriFlow wants a surface much finer than what it makes, and drops thin parts of a coarse one.
VOXELS_PER_QUAD = 8
# Voxels along the longest side, whatever the target: below, handles melt; above, it takes minutes.
VOXELS = (48, 256)
UV_ANGLE_DEG = 66.0
UV_MARGIN = 0.004
DEFAULT_TEXTURE_PX = 1024


class _RefusedError(Exception):
    """One stage did not work; the text says which and why."""


def make_quads(obj: bpy.types.Object, n_quads: int) -> list[str]:
    """Exchange the mesh of `obj` for about `n_quads` quads with one new material.

    Where that does not work (QuadriFlow refuses a surface that is not closed, Cycles is switched off) the mesh is decimated to as
    many triangles instead, with its UV map and material. Returns what could not be done, as sentences.
    Raises: MeshError if the object is no mesh.
    """
    require_mesh(obj)
    old = obj.data
    name = old.name
    try:
        mesh = _quad_mesh(old, n_quads)
    except _RefusedError as refusal:
        if triangle_count(old) <= 2 * n_quads:
            return [f"No quads were made: {refusal}. The mesh stays as it is."]
        swap_mesh(obj, decimated(old, 2 * n_quads))
        obj.data.name = name
        return [f"No quads were made: {refusal}. The mesh was decimated to {triangle_count(obj.data):,} triangles instead."]
    swap_mesh(obj, mesh)
    mesh.name = name
    return []


def _quad_mesh(old: bpy.types.Mesh, n_quads: int) -> bpy.types.Mesh:
    """The finished mesh. Raises: _RefusedError, with nothing left behind."""
    if not hasattr(bpy.types.Scene, "cycles"):
        raise _RefusedError("the textures cannot be baked, for the add-on Cycles is switched off in the preferences")
    mesh = with_modifier(old, "REMESH", mode="VOXEL", voxel_size=voxel_size(old, n_quads))
    images: dict[str, bpy.types.Image] = {}
    try:
        with scratch_object(mesh) as low:
            with scratch_scene([low]):
                _quadriflow(low, n_quads)
                _unwrap(low)
            shade(mesh, "SMOOTH")
            material = old.materials[0] if old.materials else None
            images = _bake(old, low, image_of(material, "Base Color"))
    except _RefusedError:
        bpy.data.meshes.remove(mesh)
        raise
    roughness = _roughness(material)
    mesh.materials.clear()
    mesh.materials.append(build_material(old.name, images, label=f"Baked from {material.name}" if material else "", roughness=roughness))
    return mesh


def voxel_size(mesh: bpy.types.Mesh, n_quads: int) -> float:
    """Edge of a voxel, in object units, so that the remeshed surface has VOXELS_PER_QUAD faces a quad."""
    longest = float(np.ptp(vertex_positions(mesh), axis=0).max())
    area = sum(polygon.area for polygon in mesh.polygons)
    wanted = math.sqrt(area / (VOXELS_PER_QUAD * max(1, n_quads)))
    return min(max(wanted, longest / VOXELS[1]), longest / VOXELS[0])


def _quadriflow(low: bpy.types.Object, n_quads: int) -> None:
    """Remesh `low`. What the operator returns is not to be trusted: 4.2 says FINISHED when it refuses."""
    before = len(low.data.polygons)
    try:
        bpy.ops.object.quadriflow_remesh(mode="FACES", target_faces=n_quads)
    except RuntimeError as error:
        raise _RefusedError(f"QuadriFlow refused the surface ({str(error).strip()})") from error
    if len(low.data.polygons) == before:
        raise _RefusedError("QuadriFlow refused the surface, which has holes or folds")


def _unwrap(low: bpy.types.Object) -> None:
    """A new UV map by angle. Inside another operator Blender looks for the edited object in the window, so it is named."""
    try:
        bpy.ops.object.mode_set(mode="EDIT")
        try:
            with bpy.context.temp_override(edit_object=low):
                bpy.ops.mesh.select_all(action="SELECT")
                bpy.ops.uv.smart_project(angle_limit=math.radians(UV_ANGLE_DEG), island_margin=UV_MARGIN)
        finally:
            bpy.ops.object.mode_set(mode="OBJECT")
    except RuntimeError as error:
        raise _RefusedError(f"the new surface could not be unwrapped ({str(error).strip()})") from error
    if not low.data.uv_layers:
        raise _RefusedError("the new surface could not be unwrapped")


def _bake(old: bpy.types.Mesh, low: bpy.types.Object, texture: bpy.types.Image | None) -> dict[str, bpy.types.Image]:
    """Color and normals of `old` on the UV map of `low`, as packed images of the old texture's size."""
    size = texture.size[0] if texture is not None and texture.size[0] else DEFAULT_TEXTURE_PX
    images = {
        kind: bpy.data.images.new(with_suffix(old.name, f"_{kind}"), size, size, alpha=False, is_data=kind == "normal")
        for kind in ("albedo", "normal")
    }
    receiver = bpy.data.materials.new("DreamFusion scratch")
    if receiver.node_tree is None:
        receiver.use_nodes = True
    node = receiver.node_tree.nodes.new("ShaderNodeTexImage")
    receiver.node_tree.nodes.active = node
    low.data.materials.clear()
    low.data.materials.append(receiver)
    reach = 0.02 * float(np.linalg.norm(np.ptp(vertex_positions(old), axis=0)))
    common = {
        "use_selected_to_active": True,
        "cage_extrusion": reach,
        "max_ray_distance": 2 * reach,
        "margin": size,  # the whole gutter, so that mip-maps and filters never meet black
        "margin_type": "EXTEND",
        "use_clear": True,
    }
    try:
        with scratch_object(old) as high, scratch_scene([high, low]) as scene:
            scene.render.engine = "CYCLES"
            scene.cycles.device = "CPU"
            scene.cycles.samples = 4
            node.image = images["albedo"]
            bpy.ops.object.bake(type="DIFFUSE", pass_filter={"COLOR"}, **common)
            node.image = images["normal"]
            bpy.ops.object.bake(type="NORMAL", normal_space="TANGENT", **common)
    except RuntimeError as error:
        for image in images.values():
            bpy.data.images.remove(image)
        raise _RefusedError(f"the textures could not be baked ({str(error).strip()})") from error
    finally:
        bpy.data.materials.remove(receiver)
    for image in images.values():
        pack(image)
    return images


def _roughness(material: bpy.types.Material | None) -> float:
    tree = material.node_tree if material is not None else None
    shader = next((node for node in tree.nodes if node.type == "BSDF_PRINCIPLED"), None) if tree is not None else None
    return float(shader.inputs["Roughness"].default_value) if shader is not None else DEFAULT_ROUGHNESS
