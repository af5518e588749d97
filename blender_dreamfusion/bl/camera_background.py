"""The preview as a background image of a camera, drawn in front of everything. Needs no window.

What is ours carries a mark in the data itself, so that it is found again after undo, load, deletion or renaming.
"""

from __future__ import annotations

from pathlib import Path

import bpy

from .camera_view import CannotShowError

MARK = "dreamfusion_preview"
# On a camera whose background images were switched off: they are again when ours goes.
HIDDEN_MARK = "dreamfusion_backgrounds_hidden"
NAME = "DreamFusion Preview"


def show(camera: bpy.types.Camera, path: str, *, registered: bool = True) -> None:
    """Show the picture exactly over the camera's frame; `registered` False hides it while it belongs to another view.

    Does little if it is shown already. Raises: CannotShowError.
    """
    if camera.library is not None:
        raise CannotShowError(f"{camera.name} belongs to a linked file. Make it local, or choose another camera.")
    entry = _entry_of(camera)
    if entry is None:
        clear()
        if not camera.show_background_images:
            camera[HIDDEN_MARK] = True
        entry = camera.background_images.new()
        entry.image = _load(path)
        entry.display_depth = "FRONT"
        # Stretched, whole pixels of a small picture cannot shift it by a letterbox of theirs.
        entry.frame_method = "STRETCH"
        entry.alpha, entry.scale, entry.rotation, entry.offset = 1.0, 1.0, 0.0, (0.0, 0.0)
        entry.show_expanded = False
    elif entry.image.filepath != path and Path(path).is_file():
        entry.image.filepath = path
        entry.image.reload()
        entry.image.size[0]  # reads the file now: it is gone when a hidden viewport would first draw it
    camera.show_background_images = True
    if entry.show_background_image != registered:
        entry.show_background_image = registered


def clear() -> None:
    """Take the preview out of every camera, and leave them as they were."""
    for camera in bpy.data.cameras:
        for entry in [entry for entry in camera.background_images if _is_ours(entry.image)]:
            camera.background_images.remove(entry)
        if HIDDEN_MARK in camera:
            camera.show_background_images = False
            del camera[HIDDEN_MARK]
    for image in [image for image in bpy.data.images if _is_ours(image)]:
        bpy.data.images.remove(image)


def _entry_of(camera: bpy.types.Camera) -> bpy.types.CameraBackgroundImage | None:
    return next((entry for entry in camera.background_images if _is_ours(entry.image)), None)


def _is_ours(image: bpy.types.Image | None) -> bool:
    return image is not None and MARK in image


def _load(path: str) -> bpy.types.Image:
    try:
        image = bpy.data.images.load(path)
    except RuntimeError as error:
        raise CannotShowError(f"The preview {path} cannot be read. The next one will be tried.") from error
    image.name = NAME
    image[MARK] = True
    image.size[0]  # as above
    return image
