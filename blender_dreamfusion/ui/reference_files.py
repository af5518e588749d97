"""Reference pictures as files that the engine reads: images of the .blend, or paths."""

from __future__ import annotations

from pathlib import Path

import bpy

from ..bl.picture_files import write_picture
from ..core.protocol import messages
from . import runtime

# What the engine reads.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def file_of(settings: bpy.types.PropertyGroup) -> str:
    """Absolute path of a file with the scene's reference image, "" if there is none. Raises as `picture_file`."""
    return picture_file(settings.reference_image, settings.reference_path)


def further_views(settings: bpy.types.PropertyGroup) -> tuple[messages.FurtherView, ...]:
    """The scene's pictures from other sides. Raises: ValueError with a sentence if one is empty or the first is missing; OSError."""
    views = []
    for number, view in enumerate(settings.further_views, 2):
        path = picture_file(view.image, view.path)
        if not path:
            raise ValueError(f"Reference picture {number} is empty. Choose an image for it, or remove it from the list.")
        views.append(messages.FurtherView(image=path, azimuth_deg=view.azimuth_deg, elevation_deg=view.elevation_deg, weight=view.weight))
    if views and not (settings.reference_image or settings.reference_path):
        raise ValueError("There are pictures from other sides, but none from the front. Choose the first reference image.")
    return tuple(views)


def picture_file(image: bpy.types.Image | None, path: str) -> str:
    """Absolute path of a file with `image`, else `path` itself; "" if there is neither.

    An image without a readable file of its own (painted, packed, changed, another format) is written to the data folder.
    Raises: ValueError with a sentence for the user; OSError if that cannot be written.
    """
    if image is None:
        return checked_path(bpy.path.abspath(path)) if path else ""
    own = Path(bpy.path.abspath(image.filepath, library=image.library)) if image.filepath else None
    is_whole = image.source == "FILE" and not image.is_dirty and not image.packed_files
    if is_whole and own and own.suffix.lower() in SUFFIXES and own.is_file():
        return str(own.resolve())
    return str(write_picture(image, runtime.data_folder() / "references"))


def checked_path(path: str) -> str:
    """`path` itself. Raises: ValueError if no picture that the engine reads can be there."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} is no picture that can be a reference. Use a PNG, JPEG or WebP file.")
    if not Path(path).is_file():
        raise ValueError(f"The reference image {path} is not there. Choose another one.")
    return str(Path(path).resolve())
