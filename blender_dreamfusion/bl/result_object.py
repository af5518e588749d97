"""From a result folder to an object in the scene. Usable from a script without the interface."""

import time
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import bpy

from ..core import results
from ..core.import_plan import ImportPlan
from ..core.naming import slug
from . import placement
from .assets import mark_asset
from .derived_meshes import make_lods
from .material import build_material, load_textures
from .mesh import build_mesh, shade, swap_mesh, triangle_count, vertex_positions
from .provenance import PROVENANCE_PREFIX, replaceable
from .quads import make_quads
from .source_object import to_local
from .stage_result import find_target, put_texture

PROVENANCE = (
    "prompt",
    "negative",
    "model",
    "model_title",
    "model_licence",
    "preset",
    "seed",
    "guidance",
    "guidance_scale",
    "steps_done",
    "engine",
    "baked_light",
)
# What result.json says of light and shade in the colors, in the line about a new object.
BAKED_LIGHT_TEXTS = {"no": "no baked-in light", "some": "some baked-in light", "yes": "baked-in light"}


class Imported(NamedTuple):
    """The new object and what to tell the user about it."""

    obj: bpy.types.Object
    n_faces: int
    open_edges: int
    is_visible: bool
    texture_px: int
    baked_light: str
    """A key of BAKED_LIGHT_TEXTS; something else where it is not known (an engine of another version)."""
    removed_pieces: int
    lods: tuple[bpy.types.Object, ...]
    seconds: float
    folder: Path
    notes: tuple[str, ...]
    """What could not be done, in sentences with the fix."""

    @property
    def summary(self) -> str:
        """What was made, how long it took and where the files are."""
        return f"{self.made}, in {self.seconds:.1f} s from {self.folder}"

    @property
    def made(self) -> str:
        """Name, triangles, whether it is closed, and so on, for a panel."""
        parts = [f"{self.n_faces:,} triangles", "watertight" if self.open_edges == 0 else f"{self.open_edges:,} open edges"]
        if self.removed_pieces:
            parts.append(f"{self.removed_pieces:,} loose pieces left out")
        if self.texture_px:
            parts.append(f"{self.texture_px} px texture")
        if self.baked_light in BAKED_LIGHT_TEXTS:
            parts.append(BAKED_LIGHT_TEXTS[self.baked_light])
        if self.lods:
            parts.append(f"{len(self.lods)} LODs (hidden)")
        if not self.is_visible:
            names = ", ".join(collection.name for collection in self.obj.users_collection)
            parts.append(f"not shown, for its collection {names} is excluded from the view layer")
        return f"{self.obj.name}: {', '.join(parts)}"


def import_result(folder: Path, plan: ImportPlan | None = None, *, scene: bpy.types.Scene, view_layer: bpy.types.ViewLayer) -> Imported:
    """Build the object of a result folder as `plan` says: bottom centre at its location, front -Y, identity rotation, scale 1.

    It becomes active and the only selected one. Nothing is left behind if it fails. An object that was to be replaced and is gone,
    or is none of ours, stays as it is: a new one is made and the notes say so.
    Raises: results.ResultError (a sentence with the fix).
    """
    plan = plan or ImportPlan()
    started = time.monotonic()
    result = results.read_result(folder)
    target, notes = _target(plan, result)
    if target is not None and plan.only_texture:
        obj, open_edges = target, results.open_edge_count(results.welded(result.vertices, result.faces, result.corner_uvs)[1])
        put_texture(obj, _stem(result, folder), _textures(result, folder, plan), label=_label(result), roughness=plan.roughness)
    elif target is not None:
        mesh, open_edges = _build(result, folder, plan, scene, target)
        obj = target
        swap_mesh(obj, mesh)
        mesh.name = _stem(result, folder)  # free now, if the old mesh had it
    else:
        mesh, open_edges = _build(result, folder, plan, scene, None)
        obj = bpy.data.objects.new(mesh.name, mesh)
        placement.place(obj, plan.location)
        placement.target_collection(scene, plan.collection).objects.link(obj)
    _write_provenance(obj, result, folder)
    if plan.quads:
        notes += make_quads(obj, plan.quad_faces)
    lods = make_lods(obj, plan.lods, view_layer) if plan.lods else []
    if plan.mark_asset:
        notes += mark_asset(
            obj,
            thumbnail=folder / "thumbnail.png",
            description=result.title,
            catalog=plan.catalog,
            tags=plan.tags,
            author=plan.author,
            licence=plan.licence,
        )
    is_visible = placement.select_only(obj, view_layer)
    return Imported(
        obj=obj,
        n_faces=triangle_count(obj.data),
        open_edges=open_edges,
        is_visible=is_visible,
        texture_px=results.png_width(result.textures["albedo"]) if "albedo" in result.textures else 0,
        baked_light=str(result.setting("baked_light", "")),
        removed_pieces=pieces if isinstance(pieces := result.setting("removed_pieces", 0), int) else 0,
        lods=tuple(lods),
        seconds=time.monotonic() - started,
        folder=folder,
        notes=tuple(notes),
    )


def _build(
    result: results.ResultMesh, folder: Path, plan: ImportPlan, scene: bpy.types.Scene, target: bpy.types.Object | None
) -> tuple[bpy.types.Mesh, int]:
    """The mesh with its material, and how many of its edges are open. Raises: results.ResultError, with nothing left behind."""
    vertices, faces, corner_uvs = results.welded(result.vertices, result.faces, result.corner_uvs)
    if len(faces) == 0:
        raise results.ResultError(f"The mesh in {folder} has no area. {results.REPEAT_FIX}")
    vertices = _settled(vertices, plan, scene, target)
    faces, corner_uvs = results.outward(vertices, faces, corner_uvs)
    stem, images = _stem(result, folder), _textures(result, folder, plan)
    mesh = build_mesh(stem, vertices, faces, corner_uvs)
    shade(mesh, plan.shading, plan.sharp_angle_deg)
    mesh.materials.append(build_material(stem, images, label=_label(result), roughness=plan.roughness))
    return mesh, results.open_edge_count(faces)


def _settled(vertices: results.Floats, plan: ImportPlan, scene: bpy.types.Scene, target: bpy.types.Object | None) -> results.Floats:
    """Places in the object's own space: a new object's, or those of the object whose mesh is exchanged."""
    if target is not None and not plan.into_object:
        return results.standing(vertices, results.extent(vertex_positions(target.data)))
    vertices = results.standing(vertices, placement.blender_units(plan.height_m, scene))
    return vertices if target is None else to_local(target, vertices, plan.location)


def _stem(result: results.ResultMesh, folder: Path) -> str:
    return slug(result.title or folder.parent.name)


def _label(result: results.ResultMesh) -> str:
    return f"Generated by DreamFusion: {result.title}"


def _textures(result: results.ResultMesh, folder: Path, plan: ImportPlan) -> dict[str, bpy.types.Image]:
    """The packed pictures by what they hold. Raises: results.ResultError."""
    # The normal map holds directions against smooth shading; on flat or split normals it would draw the facets it should hide.
    files = {kind: path for kind, path in result.textures.items() if kind != "normal" or plan.shading == "SMOOTH"}
    try:
        return load_textures(_stem(result, folder), files)
    except RuntimeError as error:  # a picture that Blender cannot decode
        raise results.ResultError(f"A texture in {folder} cannot be loaded ({error}). {results.REPEAT_FIX}") from error


def _target(plan: ImportPlan, result: results.ResultMesh) -> tuple[bpy.types.Object | None, list[str]]:
    """The object that the result goes into (None: a new one), and a sentence where it was to go into one and cannot."""
    if plan.into_object:
        target, why_not = find_target(plan, result)
        return target, [why_not] if why_not else []
    target = replaceable(plan.replace_object)
    if plan.replace_object and target is None:
        return None, [f"{plan.replace_object} is no generated object of this file any more, so a new one was made."]
    return target, []


def _write_provenance(obj: bpy.types.Object, result: results.ResultMesh, folder: Path) -> None:
    for name in [name for name in obj.keys() if name.startswith(PROVENANCE_PREFIX)]:
        del obj[name]  # of the mesh that was here before
    for name, value in {**provenance(result), "job": folder.parent.name, "date": made_on(folder)}.items():
        obj[PROVENANCE_PREFIX + name] = value


def made_on(folder: Path) -> str:
    """The day on which the result was finished, as 2026-11-01."""
    return f"{datetime.fromtimestamp((folder / 'mesh.npz').stat().st_mtime):%Y-%m-%d}"


def provenance(result: results.ResultMesh) -> dict[str, Any]:
    """What result.json says about where the mesh comes from, as far as custom properties can hold it."""
    values = {name: result.setting(name) for name in PROVENANCE}
    # Blender's integers have 32 bits and raise beyond.
    return {
        name: str(value) if isinstance(value, int) and abs(value) >= 1 << 31 else value
        for name, value in values.items()
        if isinstance(value, (str, int, float)) and value != ""
    }
