"""What a stage made for an object of the scene, back into that object."""

from __future__ import annotations

from collections.abc import Mapping

import bpy
import numpy as np

from ..core.import_plan import ImportPlan
from ..core.results import ResultMesh
from ..core.source_file import SourceError
from .material import build_material, image_of
from .source_object import fits


def find_target(plan: ImportPlan, result: ResultMesh) -> tuple[bpy.types.Object | None, str]:
    """The object that `plan` names, and an empty text; None, and a sentence that says why, where it cannot take the result."""
    obj = bpy.data.objects.get(plan.into_object)
    if obj is None or obj.type != "MESH" or obj.library is not None or obj.data.library is not None:
        return None, f"{plan.into_object} is no mesh of this file any more, so a new object was made."
    if abs(obj.matrix_world.determinant()) < 1e-18:
        return None, f"{obj.name} was scaled to nothing, so a new object was made."
    if plan.only_texture and not _takes(obj, result):
        return None, (
            f"The texture does not fit the UV map of {obj.name}, so a new object was made. A UV map must lie inside the picture, use no "
            "place twice, and stay as it is while the job runs: unwrap the mesh (UV > Smart UV Project), then try again."
        )
    return obj, ""


def _takes(obj: bpy.types.Object, result: ResultMesh) -> bool:
    try:
        return fits(obj, result.corner_uvs)
    except SourceError:
        return False


def put_texture(obj: bpy.types.Object, name: str, images: Mapping[str, bpy.types.Image], *, label: str, roughness: float) -> None:
    """One new material with the images in place of all that the object had. Its relief stays: the shape is the same."""
    mesh = obj.data
    old = mesh.materials[0] if len(mesh.materials) == 1 else None
    relief = image_of(old, "Normal")
    if relief is not None and "normal" not in images:
        images = {**images, "normal": relief}
    material = build_material(name, images, label=label, roughness=roughness)
    mesh.materials.clear()
    mesh.materials.append(material)
    mesh.polygons.foreach_set("material_index", np.zeros(len(mesh.polygons), np.int32))
    mesh.update()
    for slot in obj.material_slots:  # a slot of the object would hide the one of the mesh
        slot.link = "DATA"
