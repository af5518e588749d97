"""Where a new object goes: collection, transform, selection."""

from __future__ import annotations

from collections.abc import Sequence

import bpy

from ..core.import_plan import COLLECTION_NAME


def target_collection(scene: bpy.types.Scene, name: str = COLLECTION_NAME) -> bpy.types.Collection:
    """The collection of that name, linked into the scene; made where it is missing. The scene's own one for its own name."""
    if name == scene.collection.name:
        return scene.collection
    collection = next((found for found in bpy.data.collections if found.name == name and found.library is None), None)
    if collection is None:
        collection = bpy.data.collections.new(name)
    if collection not in scene.collection.children_recursive:
        scene.collection.children.link(collection)
    return collection


def place(obj: bpy.types.Object, location: Sequence[float]) -> None:
    """Identity rotation in Euler XYZ and scale 1: what the user reads in the sidebar is what they can type on."""
    obj.rotation_mode = "XYZ"
    obj.rotation_euler = (0.0, 0.0, 0.0)
    obj.scale = (1.0, 1.0, 1.0)
    obj.location = tuple(location)


def select_only(obj: bpy.types.Object, view_layer: bpy.types.ViewLayer) -> bool:
    """Make `obj` the active and only selected object; False if the view layer does not show it (an excluded collection)."""
    view_layer.update()
    if obj.name not in view_layer.objects:
        return False
    for other in [other for other in view_layer.objects if other.select_get(view_layer=view_layer)]:
        other.select_set(False, view_layer=view_layer)
    obj.select_set(True, view_layer=view_layer)
    view_layer.objects.active = obj
    return True


def blender_units(meters: float, scene: bpy.types.Scene) -> float:
    """A length in the scene's own units (a scene may count in centimetres)."""
    return meters / scene.unit_settings.scale_length
