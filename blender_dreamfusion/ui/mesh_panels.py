"""The sub-panels Mesh & Texture and Asset. Draws read properties and the selection only."""

from __future__ import annotations

import bpy

from ..bl.mesh import triangle_count
from ..core.engine_options import engine_options
from .drawing import SubPanel, draw_text
from .option_panels import draw_option

# The engine's options that an artist thinks of first; all others are in Advanced.
ENGINE_OPTIONS = ("mesh.target_faces", "mesh.texture_size", "mesh.normal_map")


class DREAMFUSION_PT_mesh(SubPanel, bpy.types.Panel):
    bl_label = "Mesh & Texture"
    bl_order = 50

    def draw(self, context: bpy.types.Context) -> None:
        layout, importing = self.layout, context.scene.dreamfusion.importing
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column(align=True)
        for key in ENGINE_OPTIONS:
            draw_option(column, context.scene.dreamfusion, engine_options()[key])
        column = layout.column()
        column.prop(importing, "roughness")
        column = layout.column()
        column.prop(importing, "shading")
        if importing.shading == "AUTO":
            column.prop(importing, "sharp_angle_deg")
        column.prop(importing, "quads")
        if importing.quads:
            column.prop(importing, "quad_faces")
        column.prop(importing, "lods")
        column = layout.column()
        column.prop(importing, "replace")
        column.prop_search(importing, "collection", bpy.data, "collections", results_are_suggestions=True)


class DREAMFUSION_PT_object(SubPanel, bpy.types.Panel):
    """What can be done with a mesh that is in the scene, generated or not."""

    bl_label = "Selected Object"
    bl_order = 55

    def draw(self, context: bpy.types.Context) -> None:
        layout, importing, active = self.layout, context.scene.dreamfusion.importing, context.active_object
        if active is None or active.type != "MESH":
            layout.label(text="Select a mesh object first")
            return
        layout.use_property_split = True
        layout.use_property_decorate = False
        draw_text(layout, f"{active.name}: {triangle_count(active.data):,} triangles")
        column = layout.column(align=True)
        column.operator("dreamfusion.new_texture", icon="TEXTURE")
        column.operator("dreamfusion.refine_shape", icon="MOD_REMESH")
        column.operator("dreamfusion.start_from_mesh", icon="MESH_DATA")
        layout.operator("dreamfusion.make_lods")
        column = layout.column(align=True)
        column.prop(importing, "decimate_faces")
        column.operator("dreamfusion.decimate").target_faces = importing.decimate_faces
        column = layout.column(align=True)
        column.prop(importing, "quad_faces")
        column.operator("dreamfusion.make_quads").quad_faces = importing.quad_faces
        layout.operator("dreamfusion.replace_mesh")
        layout.operator_menu_enum("dreamfusion.export", "file_format", text="Export")


class DREAMFUSION_PT_asset(SubPanel, bpy.types.Panel):
    bl_label = "Asset"
    bl_order = 60

    def draw_header(self, context: bpy.types.Context) -> None:
        self.layout.prop(context.scene.dreamfusion.asset, "mark", text="")

    def draw(self, context: bpy.types.Context) -> None:
        layout, asset = self.layout, context.scene.dreamfusion.asset
        layout.use_property_split = True
        layout.use_property_decorate = False
        for name in ("catalog", "tags", "author", "licence"):
            layout.prop(asset, name)
        layout.operator("dreamfusion.mark_asset")


CLASSES = (DREAMFUSION_PT_mesh, DREAMFUSION_PT_object, DREAMFUSION_PT_asset)
