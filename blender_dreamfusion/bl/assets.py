"""Mark a generated object as an asset: preview, catalogue, tags, author, licence, description."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bpy
import numpy as np

from ..core.asset_catalogs import catalog_id, library_root

# What Blender itself draws previews at.
PREVIEW_PX = 256


def mark_asset(
    obj: bpy.types.Object,
    *,
    thumbnail: Path | None,
    description: str = "",
    catalog: str = "",
    tags: Sequence[str] = (),
    author: str = "",
    licence: str = "",
) -> list[str]:
    """Mark `obj`; returns what could not be done, as sentences with the fix. `thumbnail`: PNG for the preview; None leaves it."""
    obj.asset_mark()
    data = obj.asset_data
    data.description = description
    data.author = author
    data.license = licence
    for tag in tags:
        data.tags.new(tag, skip_if_exists=True)
    notes = []
    if thumbnail is None or not _show_preview(obj, thumbnail):
        notes.append("The asset has no preview picture. Make one in the Asset Browser: Asset, Preview.")
    if catalog:
        notes += _put_into(obj, catalog)
    return notes


def _put_into(obj: bpy.types.Object, catalog: str) -> list[str]:
    if not bpy.data.filepath:
        return [f"The asset is not in the catalog {catalog} yet: the file has no folder. Save it, then mark the object again."]
    libraries = [Path(bpy.path.abspath(library.path)) for library in bpy.context.preferences.filepaths.asset_libraries if library.path]
    try:
        obj.asset_data.catalog_id = catalog_id(library_root(Path(bpy.data.filepath), libraries), catalog)
    except (OSError, ValueError) as error:
        return [f"The asset is not in the catalog {catalog} ({error}). Assign it in the Asset Browser."]
    return []


def _show_preview(obj: bpy.types.Object, thumbnail: Path) -> bool:
    """Whether the PNG could be shown. Not the operator for it: that one needs a window."""
    if not thumbnail.is_file():
        return False
    try:
        image = bpy.data.images.load(str(thumbnail), check_existing=False)
    except RuntimeError:
        return False
    try:
        if not image.size[0]:
            return False
        longest = max(image.size)
        if longest > PREVIEW_PX:
            image.scale(*(max(1, side * PREVIEW_PX // longest) for side in image.size))
        pixels = np.empty(4 * image.size[0] * image.size[1], np.float32)
        image.pixels.foreach_get(pixels)
        preview = obj.preview_ensure()
        preview.image_size = tuple(image.size)
        preview.image_pixels_float.foreach_set(pixels)
        return True
    finally:
        bpy.data.images.remove(image)
