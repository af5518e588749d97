"""Coarser versions of a mesh: decimated to a target, and LODs. UVs, materials and sharp edges are kept."""

from __future__ import annotations

from collections.abc import Sequence

import bpy

from ..core.naming import with_suffix
from .mesh import swap_mesh, triangle_count
from .scratch import scratch_object, scratch_scene

# On a coarser copy: which one it is, so that a second run exchanges it instead of adding another.
LOD = "dreamfusion_lod"


class MeshError(Exception):
    """A mesh that cannot be worked on; the text is a sentence with the fix."""


def decimated(mesh: bpy.types.Mesh, n_triangles: int) -> bpy.types.Mesh:
    """A new mesh with about `n_triangles` triangles (more where fewer are impossible), made by edge collapse."""
    share = n_triangles / max(1, triangle_count(mesh))
    if share >= 1:
        return mesh.copy()
    return with_modifier(mesh, "DECIMATE", ratio=share)


def with_modifier(mesh: bpy.types.Mesh, kind: str, **settings: object) -> bpy.types.Mesh:
    """A new mesh: `mesh` as one modifier makes it."""
    with scratch_object(mesh) as obj:
        modifier = obj.modifiers.new(kind, kind)
        for name, value in settings.items():
            setattr(modifier, name, value)
        with scratch_scene([obj]) as scene:
            depsgraph = scene.view_layers[0].depsgraph
            return bpy.data.meshes.new_from_object(obj.evaluated_get(depsgraph), preserve_all_data_layers=True, depsgraph=depsgraph)


def decimate_object(obj: bpy.types.Object, n_triangles: int) -> int:
    """Exchange the mesh of `obj` for one with about `n_triangles` triangles. Returns how many it has now.

    Raises: MeshError if the object is no mesh or has no more triangles than that.
    """
    require_mesh(obj)
    before = triangle_count(obj.data)
    if n_triangles >= before:
        raise MeshError(f"{obj.name} has only {before:,} triangles. Choose a target below that.")
    name = obj.data.name
    mesh = decimated(obj.data, n_triangles)
    swap_mesh(obj, mesh)
    mesh.name = name
    return triangle_count(mesh)


def make_lods(obj: bpy.types.Object, shares: Sequence[float], view_layer: bpy.types.ViewLayer) -> list[bpy.types.Object]:
    """Copies of `obj` named _LOD1, _LOD2, ... with these shares (0..1) of its triangles, where `obj` is, in its collections.

    They are hidden in the view layer and in renders, for all stand in one place; export takes them along. Copies that are there
    already get the new mesh.
    Raises: MeshError if the object is no mesh.
    """
    require_mesh(obj)
    n_triangles = triangle_count(obj.data)
    lods = []
    for number, share in enumerate(shares, start=1):
        name = with_suffix(obj.name, f"_LOD{number}")
        mesh = decimated(obj.data, max(4, round(share * n_triangles)))
        lod = bpy.data.objects.get(name)
        if lod is not None and lod.get(LOD) == number:
            old, lod.data = lod.data, mesh
            if old.users == 0:
                bpy.data.meshes.remove(old)
        else:
            lod = _copy(obj, mesh, name)
            lod[LOD] = number
        mesh.name = name
        lod.hide_render = True
        view_layer.update()
        if lod.name in view_layer.objects:
            lod.hide_set(True, view_layer=view_layer)
        lods.append(lod)
    return lods


def lods_of(obj: bpy.types.Object) -> list[bpy.types.Object]:
    """The coarser copies of `obj` that `make_lods` made, finest first."""
    found = (bpy.data.objects.get(with_suffix(obj.name, f"_LOD{number}")) for number in range(1, 10))
    return [lod for lod in found if lod is not None and LOD in lod]


def require_mesh(obj: bpy.types.Object | None) -> None:
    """Raise MeshError unless `obj` is a mesh object with faces that may be changed here."""
    if obj is None or obj.type != "MESH":
        raise MeshError("No mesh object is active. Click one in the viewport first.")
    if obj.library is not None or obj.data.library is not None:
        raise MeshError(f"{obj.name} is linked from another file. Make it local first: Object, Relations, Make Local.")
    if not obj.data.polygons:
        raise MeshError(f"{obj.name} has no faces.")


def _copy(obj: bpy.types.Object, mesh: bpy.types.Mesh, name: str) -> bpy.types.Object:
    copy = obj.copy()
    copy.data = mesh
    copy.name = name
    if copy.asset_data is not None:
        copy.asset_clear()
    for collection in obj.users_collection:
        collection.objects.link(copy)
    return copy
