"""Blender's file of asset catalogues, blender_assets.cats.txt: find one by its path, or add it. No bpy."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

CATALOGS_FILE = "blender_assets.cats.txt"
HEADER = """# This is an Asset Catalog Definition file for Blender.
#
# Empty lines and lines starting with `#` will be ignored.
# The first non-ignored line should be the version indicator.
# Other lines are of the format "UUID:catalog/path/for/assets:simple catalog name"

VERSION 1

"""


def library_root(blend_file: Path, libraries: Iterable[Path]) -> Path:
    """The folder whose catalogues hold for a .blend: the asset library that it lies in, else its own folder."""
    inside = [library for library in libraries if library in blend_file.parents]
    return max(inside, key=lambda library: len(library.parts), default=blend_file.parent)


def clean_path(catalog: str) -> str:
    """ " Props / Kitchen/" as "Props/Kitchen"; colons would end the path inside the file."""
    return "/".join(part for part in (part.strip() for part in catalog.replace(":", "-").split("/")) if part)


def catalog_id(folder: Path, catalog: str) -> str:
    """The id of the catalogue with that path in `folder`; added to the file where it is missing.

    Raises: OSError if the file cannot be read or written; ValueError if the path is empty or the file is of another version.
    """
    path = clean_path(catalog)
    if not path:
        raise ValueError("the catalog has no name")
    file = folder / CATALOGS_FILE
    text = file.read_text(encoding="utf-8") if file.exists() else HEADER
    for line in text.splitlines():
        if line.startswith("VERSION") and line.split()[1:] != ["1"]:
            raise ValueError(f"{file} is of a version this add-on does not know ({line})")
        parts = line.split(":")
        if not line.startswith("#") and len(parts) >= 2 and parts[1] == path:
            return parts[0].strip()
    new_id = str(uuid.uuid4())
    line = f"{new_id}:{path}:{path.replace('/', '-')}\n"
    partial = file.with_name(f"{CATALOGS_FILE}.{os.getpid()}.partial")
    partial.write_text(text + ("" if text.endswith("\n") else "\n") + line, encoding="utf-8")
    partial.replace(file)
    return new_id
