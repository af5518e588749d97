"""A scene of its own for modifiers, bakes and exports: what the user has selected, hidden or set stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import bpy


@contextmanager
def scratch_scene(objects: Sequence[bpy.types.Object]) -> Iterator[bpy.types.Scene]:
    """A scene with exactly `objects`, all selected, the last one active, and the context's scene while the block runs.

    Operators called inside act on it. The scene goes at the end; the objects stay.
    """
    scene = bpy.data.scenes.new("DreamFusion scratch")
    try:
        for obj in objects:
            scene.collection.objects.link(obj)
        view_layer = scene.view_layers[0]
        view_layer.update()
        for obj in objects:
            obj.select_set(True, view_layer=view_layer)
        active = objects[-1]
        view_layer.objects.active = active
        chosen = list(objects)
        with bpy.context.temp_override(
            scene=scene,
            view_layer=view_layer,
            active_object=active,
            object=active,
            selected_objects=chosen,
            selected_editable_objects=chosen,
        ):
            yield scene
    finally:
        bpy.data.scenes.remove(scene)


@contextmanager
def scratch_object(mesh: bpy.types.Mesh) -> Iterator[bpy.types.Object]:
    """An object without transform and modifiers that shows `mesh`; goes at the end, the mesh stays."""
    obj = bpy.data.objects.new("DreamFusion scratch", mesh)
    try:
        yield obj
    finally:
        bpy.data.objects.remove(obj)
