"""What the mesh of a job is to be like and what happens with it in the scene: settings, and the sub-panels for them."""

from typing import Any

import bpy

from ..bl.mesh import release_replaced, triangle_count
from ..bl.result_object import is_generated
from ..core.import_plan import COLLECTION_NAME, DEFAULT_ROUGHNESS, LOD_SHARES, ImportPlan
from .ids import TAB

SHADING_ITEMS = (
    ("SMOOTH", "Smooth", "One rounded surface; the normal map needs this"),
    ("FLAT", "Flat", "Every triangle shows; the normal map is left out"),
    ("AUTO", "Smooth by Angle", "Smooth with sharp edges where faces meet at a larger angle; the normal map is left out"),
)
TEXTURE_SIZES = (
    ("PRESET", "From Quality", "What the quality preset says"),
    *((str(size), f"{size} px", f"A square picture with {size} pixels a side") for size in (256, 512, 1024, 2048, 4096)),
)


class DREAMFUSION_PG_importing(bpy.types.PropertyGroup):
    target_faces: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Triangles", description="Triangles of the finished mesh, at most; 0 takes what the quality preset says",
        min=0, max=5_000_000, soft_max=200_000, step=1000,
    )  # fmt: skip
    texture_size: bpy.props.EnumProperty(name="Texture", description="Size of the baked pictures", items=TEXTURE_SIZES)  # type: ignore[valid-type]
    normal_map: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Normal Map", description="Bake the relief that the finished mesh is too coarse for into a normal map", default=True
    )
    roughness: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Roughness",
        description="Of the whole material. There is no roughness map: the engine learns colors only, not how they shine",
        default=DEFAULT_ROUGHNESS, min=0.0, max=1.0, subtype="FACTOR",
    )  # fmt: skip
    shading: bpy.props.EnumProperty(name="Shading", description="How light runs over the faces", items=SHADING_ITEMS)  # type: ignore[valid-type]
    sharp_angle_deg: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Angle (°)", description="Edges whose faces meet at a larger angle stay sharp", default=40.0, min=0.0, max=180.0, precision=0
    )
    collection: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Collection", description="Where new objects go; made where it is missing", default=COLLECTION_NAME
    )
    replace: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Result",
        description="What a finished job does",
        items=(
            ("NEW", "New Object", "Adds an object"),
            ("REPLACE", "Into Selected", "Exchanges the mesh of the generated object that is active when the job starts; "
             "its transform, height, modifiers and collections stay"),
        ),
    )  # fmt: skip
    lods: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="LODs", description="Also make copies with 50, 25 and 10 % of the triangles, named _LOD1 to _LOD3 and hidden"
    )
    quads: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Quads", description="Rebuild the surface from quads and bake its textures anew (takes some seconds)"
    )
    quad_faces: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Quad Count", description="About how many quads", default=4000, min=100, soft_max=50_000, max=500_000
    )
    decimate_faces: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Triangles", description="What Decimate brings the selected mesh down to", default=2000, min=4, soft_max=200_000
    )


class DREAMFUSION_PG_asset(bpy.types.PropertyGroup):
    mark: bpy.props.BoolProperty(name="Mark as Asset", description="Mark every new object as an asset, with its preview")  # type: ignore[valid-type]
    catalog: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Catalog", description="Path of the asset catalog, as in Props/Kitchen; added where it is missing. Empty: none"
    )
    tags: bpy.props.StringProperty(name="Tags", description="With commas between")  # type: ignore[valid-type]
    author: bpy.props.StringProperty(name="Author", description="Who is named as the author of the asset")  # type: ignore[valid-type]
    licence: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="License", description="License of the asset. That of the diffusion model may limit it: see the object's custom properties"
    )

    def arguments(self) -> dict[str, Any]:
        """As `bl.assets.mark_asset` and ImportPlan call them."""
        tags = tuple(tag for tag in (tag.strip() for tag in self.tags.split(",")) if tag)
        return {"catalog": self.catalog.strip(), "tags": tags, "author": self.author.strip(), "licence": self.licence.strip()}


def scene_plan(context: bpy.types.Context, file_count: int = 0) -> ImportPlan:
    """What the scene's panels say about the next result, fixed now: the cursor and the selection may change while a job runs."""
    scene = context.scene
    settings, importing, asset = scene.dreamfusion, scene.dreamfusion.importing, scene.dreamfusion.asset
    active = context.view_layer.objects.active
    return ImportPlan(
        location=tuple(scene.cursor.location) if settings.place == "CURSOR" else (0.0, 0.0, 0.0),
        height_m=settings.height_m,
        scene_name=scene.name,
        file_count=file_count,
        collection=importing.collection.strip() or COLLECTION_NAME,
        replace_object=active.name if importing.replace == "REPLACE" and is_generated(active) else "",
        shading=importing.shading,
        sharp_angle_deg=importing.sharp_angle_deg,
        roughness=importing.roughness,
        quads=importing.quads,
        quad_faces=importing.quad_faces,
        lods=LOD_SHARES if importing.lods else (),
        mark_asset=asset.mark,
        **asset.arguments(),
    )


def engine_overrides(importing: DREAMFUSION_PG_importing) -> dict[str, str]:
    """The engine settings that differ from the quality preset, by name."""
    overrides = {}
    if importing.target_faces:
        overrides["mesh.target_faces"] = str(max(32, importing.target_faces))
    if importing.texture_size != "PRESET":
        overrides["mesh.texture_size"] = importing.texture_size
    if not importing.normal_map:
        overrides["mesh.normal_map"] = "false"
    return overrides


class _SubPanel:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = TAB
    bl_options = {"DEFAULT_CLOSED"}


class DREAMFUSION_PT_mesh(_SubPanel, bpy.types.Panel):
    bl_label = "Mesh & Texture"
    bl_parent_id = "DREAMFUSION_PT_main"
    bl_order = 50

    def draw(self, context: bpy.types.Context) -> None:
        layout, importing = self.layout, context.scene.dreamfusion.importing
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        column.prop(importing, "target_faces")
        column.prop(importing, "texture_size")
        column.prop(importing, "normal_map")
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


class DREAMFUSION_PT_object(_SubPanel, bpy.types.Panel):
    bl_label = "Selected Object"
    bl_parent_id = "DREAMFUSION_PT_mesh"
    bl_order = 51

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        active = context.active_object
        return active is not None and active.type == "MESH"

    def draw(self, context: bpy.types.Context) -> None:
        layout, importing, active = self.layout, context.scene.dreamfusion.importing, context.active_object
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.label(text=f"{active.name}: {triangle_count(active.data):,} triangles")
        layout.operator("dreamfusion.make_lods")
        column = layout.column(align=True)
        column.prop(importing, "decimate_faces")
        column.operator("dreamfusion.decimate").target_faces = importing.decimate_faces
        column = layout.column(align=True)
        column.prop(importing, "quad_faces")
        column.operator("dreamfusion.make_quads").quad_faces = importing.quad_faces
        layout.operator("dreamfusion.replace_mesh")
        layout.operator_menu_enum("dreamfusion.export", "file_format", text="Export")


class DREAMFUSION_PT_asset(_SubPanel, bpy.types.Panel):
    bl_label = "Asset"
    bl_parent_id = "DREAMFUSION_PT_main"
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


@bpy.app.handlers.persistent
def _before_save(*_arguments: object) -> None:
    release_replaced()


def register_extra() -> None:
    bpy.app.handlers.save_pre.append(_before_save)


def unregister_extra() -> None:
    bpy.app.handlers.save_pre.remove(_before_save)


CLASSES = (DREAMFUSION_PG_importing, DREAMFUSION_PG_asset, DREAMFUSION_PT_mesh, DREAMFUSION_PT_object, DREAMFUSION_PT_asset)
