"""The reference image: any image of the .blend, a file, or a picture dropped on the 3D view."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import bpy
import numpy as np

from ..core.naming import slug
from . import runtime
from .drawing import SubPanel, draw_text

# What the engine reads.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def file_of(settings: bpy.types.PropertyGroup) -> str:
    """Absolute path of a file with the scene's reference image, "" if there is none.

    An image without a readable file of its own (painted, packed, changed, another format) is written to the data folder.
    Raises: ValueError with a sentence for the user; OSError if that cannot be written.
    """
    image = settings.reference_image
    if image is None:
        return checked_path(bpy.path.abspath(settings.reference_path)) if settings.reference_path else ""
    path = Path(bpy.path.abspath(image.filepath, library=image.library)) if image.filepath else None
    if (
        image.source == "FILE"
        and not image.is_dirty
        and not image.packed_files
        and path
        and path.suffix.lower() in SUFFIXES
        and path.is_file()
    ):
        return str(path.resolve())
    return str(_written(image, runtime.data_folder() / "references"))


def checked_path(path: str) -> str:
    """`path` itself. Raises: ValueError if no picture that the engine reads can be there."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no picture that can be a reference. Use a PNG, JPEG or WebP file.")
    if not Path(path).is_file():
        raise ValueError(f"The reference image {path} is not there. Choose another one.")
    return str(Path(path).resolve())


def _written(image: bpy.types.Image, folder: Path) -> Path:
    """The image as PNG, named by its content so that a waiting job finds it unchanged. Raises: ValueError, OSError."""
    if image.source not in {"FILE", "GENERATED"} or not all(image.size):
        fix = "Save it as a picture (Image > Save As) and choose that one."
        raise ValueError(f"The image {image.name} cannot be a reference: it is no still picture, or is not loaded. {fix}")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{os.getpid()}.partial.png"
    copy = _copied(image)  # saving must not change the artist's own image
    try:
        copy.file_format = "PNG"
        copy.save(filepath=str(partial))
    except RuntimeError as error:
        raise ValueError(
            f"The image {image.name} could not be written ({str(error).strip()}). Save it as a PNG and choose that."
        ) from error
    finally:
        bpy.data.images.remove(copy)
    path = folder / f"{slug(image.name, 40)}-{hashlib.sha256(partial.read_bytes()).hexdigest()[:12]}.png"
    partial.replace(path)
    return path


def _copied(image: bpy.types.Image) -> bpy.types.Image:
    """A new image with the same pixels; Image.copy() forgets what was painted."""
    copy = bpy.data.images.new(image.name, *image.size, alpha=True, float_buffer=image.is_float)
    copy.colorspace_settings.name = image.colorspace_settings.name
    pixels = np.empty(4 * image.size[0] * image.size[1], np.float32)
    image.pixels.foreach_get(pixels)
    copy.pixels.foreach_set(pixels)
    return copy


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
            return
        layout.template_ID(settings, "reference_image", open="image.open")
        if settings.reference_path:
            layout.prop(settings, "reference_path", text="")
        else:
            draw_text(layout, "A picture of the object from the front. It can also be dropped on the 3D view.")


CLASSES = (DREAMFUSION_OT_set_reference, DREAMFUSION_FH_reference, DREAMFUSION_PT_reference)
