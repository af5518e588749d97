"""What happens with a finished mesh in the scene: the settings, and the plan that a job takes from them."""

from typing import Any

import bpy

from ..bl.mesh import release_replaced
from ..bl.provenance import is_generated
from ..core.import_plan import COLLECTION_NAME, DEFAULT_ROUGHNESS, LOD_SHARES, ImportPlan

SHADING_ITEMS = (
    ("SMOOTH", "Smooth", "One rounded surface; the normal map needs this"),
    ("FLAT", "Flat", "Every triangle shows; the normal map is left out"),
    ("AUTO", "Smooth by Angle", "Smooth with sharp edges where faces meet at a larger angle; the normal map is left out"),
)


class DREAMFUSION_PG_importing(bpy.types.PropertyGroup):
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


@bpy.app.handlers.persistent
def _before_save(*_arguments: object) -> None:
    release_replaced()


def register_extra() -> None:
    bpy.app.handlers.save_pre.append(_before_save)


def unregister_extra() -> None:
    bpy.app.handlers.save_pre.remove(_before_save)


CLASSES = (DREAMFUSION_PG_importing, DREAMFUSION_PG_asset)
