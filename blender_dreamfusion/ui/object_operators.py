"""Operators on results and generated objects: import, replace, LODs, decimate, quads, asset, export. Each calls one function."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bpy

from ..bl.export_files import EXPORTERS, ExportError, export_objects, reason_against
from ..bl.mesh import triangle_count
from ..bl.provenance import PROVENANCE_PREFIX, is_generated
from ..core.deferred import Deferred
from ..core.import_plan import LOD_SHARES, ImportPlan
from ..core.naming import slug
from . import preferences, runtime
from .drawing import refuse
from .import_settings import SHADING_ITEMS, scene_plan

if TYPE_CHECKING:
    from ..bl import assets, derived_meshes, quads, result_object
    from ..core import results
else:  # a Blender that is only opened imports no mesh
    assets, derived_meshes, quads = Deferred("..bl.assets"), Deferred("..bl.derived_meshes"), Deferred("..bl.quads")
    result_object, results = Deferred("..bl.result_object"), Deferred(".results")

# Kept values of the last call would silently change the next one.
SKIP = {"SKIP_SAVE"}
HIDDEN = {"SKIP_SAVE", "HIDDEN"}
# Fields of an import plan that the import operator takes one by one.
PLANNED = (
    "scene_name",
    "location",
    "height_m",
    "collection",
    "replace_object",
    "shading",
    "sharp_angle_deg",
    "roughness",
    "quads",
    "quad_faces",
    "lods",
    "mark_asset",
)


class _Importing:
    """What the two operators that read a result folder share."""

    def _read(self: Any, context: bpy.types.Context, plan: ImportPlan) -> set[str]:
        folder = bpy.path.abspath(self.folder) if self.folder else runtime.state().result_folder
        if not folder:
            return _refuse(self, "There is no finished job yet. Generate an object first, or name a result folder.")
        if not leave_mode(context):
            return _refuse(self, "Blender is in a mode that cannot be left. Go to Object Mode, then import again.")
        scene = bpy.data.scenes.get(plan.scene_name) or context.scene
        view_layer = context.view_layer if scene == context.scene else scene.view_layers[0]
        try:
            imported = result_object.import_result(Path(folder), plan, scene=scene, view_layer=view_layer)
        except (results.ResultError, OSError) as error:
            return _refuse(self, str(error))
        runtime.note_import((imported.made, *imported.notes))
        for note in imported.notes:
            self.report({"WARNING"}, note)
        self.report({"INFO"}, f"Imported {imported.summary}")
        return {"FINISHED"}


class DREAMFUSION_OT_import_result(_Importing, bpy.types.Operator):
    """Bring the finished object of a job into the scene"""

    bl_idname = "dreamfusion.import_result"
    bl_label = "Import Result"
    bl_options = {"REGISTER", "UNDO"}

    folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Result Folder", description="Left out: the result of the last job", subtype="DIR_PATH", options=HIDDEN
    )
    plan: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Plan",
        description="An import plan as JSON, which all that is left out here is taken from; left out: the panel",
        options=HIDDEN,
    )
    scene_name: bpy.props.StringProperty(options=HIDDEN)  # type: ignore[valid-type]
    location: bpy.props.FloatVectorProperty(  # type: ignore[valid-type]
        name="Location", description="Where the middle of its bottom stands", subtype="TRANSLATION", size=3, options=SKIP
    )
    height_m: bpy.props.FloatProperty(name="Height (m)", description="Height in meters", default=1.0, min=0.001, options=SKIP)  # type: ignore[valid-type]
    collection: bpy.props.StringProperty(name="Collection", description="Made where it is missing", options=SKIP)  # type: ignore[valid-type]
    replace_object: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Into", description="Name of a generated object that gets the new mesh; empty: a new object", options=SKIP
    )
    shading: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Shading", description="How light runs over the faces", items=SHADING_ITEMS, options=SKIP
    )
    sharp_angle_deg: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Angle (°)", description="Sharper edges stay sharp with Smooth by Angle", default=40.0, min=0.0, max=180.0, options=SKIP
    )
    roughness: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Roughness", description="Of the whole material", min=0.0, max=1.0, subtype="FACTOR", options=SKIP
    )
    quads: bpy.props.BoolProperty(name="Quads", description="Rebuild the surface from quads", options=SKIP)  # type: ignore[valid-type]
    quad_faces: bpy.props.IntProperty(name="Quad Count", description="About how many", default=4000, min=100, options=SKIP)  # type: ignore[valid-type]
    lods: bpy.props.BoolProperty(name="LODs", description="Copies with 50, 25 and 10 % of the triangles", options=SKIP)  # type: ignore[valid-type]
    mark_asset: bpy.props.BoolProperty(name="Mark as Asset", description="With its preview", options=SKIP)  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            base = ImportPlan.from_json(json.loads(self.plan)) if self.plan else scene_plan(context)
        except ValueError as error:
            return _refuse(self, f"The import plan cannot be read ({error}). Leave it out to take what the panel says.")
        plan = base._replace(**self._given(base))
        for name in PLANNED:  # what was used shows in the redo panel, and stays when one value is changed there
            setattr(self, name, bool(plan.lods) if name == "lods" else getattr(plan, name))
        return self._read(context, plan)

    def _given(self, base: ImportPlan) -> dict[str, Any]:
        """What the caller set, as fields of a plan."""
        values = {name: getattr(self, name) for name in PLANNED if self.properties.is_property_set(name)}
        if "location" in values:
            values["location"] = tuple(values["location"])
        if "lods" in values:
            values["lods"] = (base.lods or LOD_SHARES) if values["lods"] else ()
        return values


def leave_mode(context: bpy.types.Context) -> bool:
    """Go to Object Mode; whether that worked."""
    if context.mode == "OBJECT" or context.active_object is None:
        return True
    try:
        bpy.ops.object.mode_set(mode="OBJECT")
    except RuntimeError:
        return False
    return True


class _OnActiveMesh:
    """Operators that change the active mesh object."""

    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls: Any, context: bpy.types.Context) -> bool:
        active = context.active_object
        if active is None or active.type != "MESH":
            return refuse(cls, "Select a mesh object first")
        return True

    def execute(self: Any, context: bpy.types.Context) -> set[str]:
        if not leave_mode(context):
            return _refuse(self, "Blender is in a mode that cannot be left. Go to Object Mode, then try again.")
        try:
            return self.change(context, context.active_object)
        except (derived_meshes.MeshError, ExportError, OSError) as error:
            return _refuse(self, str(error))


class DREAMFUSION_OT_replace_mesh(_OnActiveMesh, _Importing, bpy.types.Operator):
    """Exchange the mesh of the active generated object for a job's result; transform, height, modifiers and collections stay"""

    bl_idname = "dreamfusion.replace_mesh"
    bl_label = "Replace Mesh with Last Result"
    folder: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Result Folder", description="Left out: the result of the last job", subtype="DIR_PATH", options=HIDDEN
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not is_generated(context.active_object):
            return refuse(cls, "Select an object that was generated here")
        return True

    def change(self, context: bpy.types.Context, active: bpy.types.Object) -> set[str]:
        return self._read(context, scene_plan(context)._replace(replace_object=active.name, quads=False, lods=(), mark_asset=False))


class DREAMFUSION_OT_make_lods(_OnActiveMesh, bpy.types.Operator):
    """Make hidden copies with 50, 25 and 10 % of the triangles, named _LOD1 to _LOD3"""

    bl_idname = "dreamfusion.make_lods"
    bl_label = "Make LODs"

    def change(self, context: bpy.types.Context, active: bpy.types.Object) -> set[str]:
        lods = derived_meshes.make_lods(active, LOD_SHARES, context.view_layer)
        self.report({"INFO"}, "Made, hidden: " + ", ".join(f"{lod.name} ({triangle_count(lod.data):,} triangles)" for lod in lods))
        return {"FINISHED"}


class DREAMFUSION_OT_decimate(_OnActiveMesh, bpy.types.Operator):
    """Bring the mesh down to a number of triangles; UV map and materials are kept"""

    bl_idname = "dreamfusion.decimate"
    bl_label = "Decimate"
    target_faces: bpy.props.IntProperty(name="Triangles", description="At most so many", default=2000, min=4, options=SKIP)  # type: ignore[valid-type]

    def change(self, _context: bpy.types.Context, active: bpy.types.Object) -> set[str]:
        reached = derived_meshes.decimate_object(active, self.target_faces)
        if reached > 1.1 * self.target_faces:
            self.report({"WARNING"}, f"{active.name} cannot lose more without breaking apart: it has {reached:,} triangles now")
        else:
            self.report({"INFO"}, f"{active.name} has {reached:,} triangles now")
        return {"FINISHED"}


class DREAMFUSION_OT_make_quads(_OnActiveMesh, bpy.types.Operator):
    """Rebuild the surface from quads, with a new UV map and textures baked over from the old surface"""

    bl_idname = "dreamfusion.make_quads"
    bl_label = "Make Quads"
    quad_faces: bpy.props.IntProperty(name="Quad Count", description="About how many", default=4000, min=100, soft_max=50_000, options=SKIP)  # type: ignore[valid-type]

    def change(self, _context: bpy.types.Context, active: bpy.types.Object) -> set[str]:
        notes = quads.make_quads(active, self.quad_faces)
        for note in notes:
            self.report({"WARNING"}, note)
        if not notes:
            self.report({"INFO"}, f"{active.name} has {len(active.data.polygons):,} faces now")
        return {"FINISHED"}


class DREAMFUSION_OT_mark_asset(_OnActiveMesh, bpy.types.Operator):
    """Mark the active object as an asset, with the panel's catalog, tags, author and license"""

    bl_idname = "dreamfusion.mark_asset"
    bl_label = "Mark Selected as Asset"

    def change(self, context: bpy.types.Context, active: bpy.types.Object) -> set[str]:
        job = str(active.get(PROVENANCE_PREFIX + "job", ""))
        thumbnail = preferences.jobs_folder(context) / job / "result" / "thumbnail.png" if job else None
        description = str(active.get(PROVENANCE_PREFIX + "prompt", ""))
        notes = assets.mark_asset(active, thumbnail=thumbnail, description=description, **context.scene.dreamfusion.asset.arguments())
        for note in notes:
            self.report({"WARNING"}, note)
        self.report({"INFO"}, f"{active.name} is an asset")
        return {"FINISHED"}


class DREAMFUSION_OT_export(_OnActiveMesh, bpy.types.Operator):
    """Write the active object to a file for another program"""

    bl_idname = "dreamfusion.export"
    bl_label = "Export"
    bl_options = {"REGISTER"}

    filepath: bpy.props.StringProperty(name="File", description="Where it is written", subtype="FILE_PATH", options=SKIP)  # type: ignore[valid-type]
    file_format: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Format",
        description="Which programs can read it",
        items=[(name, exporter.label, exporter.note) for name, exporter in EXPORTERS.items()],
        options=SKIP,
    )
    with_lods: bpy.props.BoolProperty(name="With LODs", description="Also the copies _LOD1, _LOD2 and so on", options=SKIP)  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        reason = reason_against(self.file_format)
        if reason:
            return _refuse(self, reason)
        self.filepath = bpy.path.abspath(f"//{slug(context.active_object.name)}{EXPORTERS[self.file_format].suffixes[0]}")
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def change(self, _context: bpy.types.Context, active: bpy.types.Object) -> set[str]:
        if not self.filepath:
            return _refuse(self, "No file was named. Give a filepath.")
        objects = [*(derived_meshes.lods_of(active) if self.with_lods else []), active]
        files = export_objects(objects, Path(bpy.path.abspath(self.filepath)), self.file_format)
        self.report({"INFO"}, "Wrote " + ", ".join(str(file) for file in files))
        return {"FINISHED"}


def _refuse(operator: bpy.types.Operator, text: str) -> set[str]:
    operator.report({"ERROR"}, text)
    return {"CANCELLED"}


CLASSES = (
    DREAMFUSION_OT_import_result,
    DREAMFUSION_OT_replace_mesh,
    DREAMFUSION_OT_make_lods,
    DREAMFUSION_OT_decimate,
    DREAMFUSION_OT_make_quads,
    DREAMFUSION_OT_mark_asset,
    DREAMFUSION_OT_export,
)
