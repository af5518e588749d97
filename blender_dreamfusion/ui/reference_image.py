"""The reference image: any image of the .blend, a file, or a picture dropped on the 3D view."""

import bpy

from ..core.engine_options import engine_options
from .drawing import SubPanel, draw_text
from .option_panels import draw_option
from .reference_files import SUFFIXES, checked_path
from .reference_views import FIRST_OPTIONS, draw_views


class DREAMFUSION_OT_set_reference(bpy.types.Operator):
    """Make this picture the reference image of the next job"""

    bl_idname = "dreamfusion.set_reference"
    bl_label = "DreamFusion Reference"
    bl_options = {"REGISTER", "UNDO"}

    filepath: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="File", description="A PNG, JPEG or WebP picture", subtype="FILE_PATH", options={"SKIP_SAVE"}
    )
    filter_glob: bpy.props.StringProperty(default=";".join(f"*{suffix}" for suffix in SUFFIXES), options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if self.filepath:  # dropped
            return self.execute(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            path = checked_path(bpy.path.abspath(self.filepath))
            context.scene.dreamfusion.reference_image = bpy.data.images.load(path, check_existing=True)
        except (ValueError, RuntimeError) as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}


class DREAMFUSION_FH_reference(bpy.types.FileHandler):
    bl_idname = "DREAMFUSION_FH_reference"
    bl_label = "DreamFusion Reference"
    bl_import_operator = "dreamfusion.set_reference"
    bl_file_extensions = ";".join(SUFFIXES)

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D"


class DREAMFUSION_PT_reference(SubPanel, bpy.types.Panel):
    bl_label = "Reference Image"
    bl_order = 30

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.dreamfusion
        if settings.reference_image is not None:
            layout.template_ID_preview(settings, "reference_image", open="image.open", rows=3, cols=6)
        else:
            layout.template_ID(settings, "reference_image", open="image.open")
            if settings.reference_path:
                layout.prop(settings, "reference_path", text="")
        if settings.reference_image is None and not settings.reference_path:
            draw_text(layout, "A picture of the object from the front. It can also be dropped on the 3D view.")
            if not settings.further_views:
                return
        column = layout.column(align=True)
        column.use_property_split = True
        column.use_property_decorate = False
        for key in FIRST_OPTIONS:
            draw_option(column, settings, engine_options()[key])
        draw_views(layout, settings)


CLASSES = (DREAMFUSION_OT_set_reference, DREAMFUSION_FH_reference, DREAMFUSION_PT_reference)
