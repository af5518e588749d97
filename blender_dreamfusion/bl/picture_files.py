"""Images of the .blend as PNG files, whatever they were made of."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import bpy
import numpy as np

from ..core.naming import slug


def write_picture(image: bpy.types.Image, folder: Path) -> Path:
    """The image as PNG, named by its content so that a waiting job finds it unchanged. Raises: ValueError (a sentence), OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{os.getpid()}.partial.png"
    _save(image, partial)
    path = folder / f"{slug(image.name, 40)}-{hashlib.sha256(partial.read_bytes()).hexdigest()[:12]}.png"
    partial.replace(path)
    return path


def png_bytes(image: bpy.types.Image) -> bytes:
    """The image as PNG. Raises: ValueError (a sentence), OSError."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "picture.png"
        _save(image, path)
        return path.read_bytes()


def _save(image: bpy.types.Image, path: Path) -> None:
    if image.source not in {"FILE", "GENERATED"} or not all(image.size):
        fix = "Save it as a picture (Image > Save As) and choose that one."
        raise ValueError(f"The image {image.name} cannot be used: it is no still picture, or is not loaded. {fix}")
    copy = _copied(image)  # saving must not change the artist's own image
    try:
        copy.file_format = "PNG"
        copy.save(filepath=str(path))
    except RuntimeError as error:
        raise ValueError(
            f"The image {image.name} could not be written ({str(error).strip()}). Save it as a PNG and choose that."
        ) from error
    finally:
        bpy.data.images.remove(copy)


def _copied(image: bpy.types.Image) -> bpy.types.Image:
    """A new image with the same pixels; Image.copy() forgets what was painted."""
    copy = bpy.data.images.new(image.name, *image.size, alpha=True, float_buffer=image.is_float)
    copy.colorspace_settings.name = image.colorspace_settings.name
    pixels = np.empty(4 * image.size[0] * image.size[1], np.float32)
    image.pixels.foreach_get(pixels)
    copy.pixels.foreach_set(pixels)
    return copy
