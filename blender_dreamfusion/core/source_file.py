"""A mesh on its way to the engine: a binary glTF with places, corner UVs and one picture. numpy only, no bpy.

Not through Blender's exporters: those may be switched off, take their scene from the window and change the order of triangles,
by which a new texture is found to fit the mesh that it is for.

Shapes: V vertices, F triangles.
"""

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .results import Floats, Ints

# What the engine draws several times a second on a CPU; it refuses more.
MAX_TRIANGLES = 500_000
_MAGIC, _VERSION, _JSON, _BIN = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
_FLOAT, _ARRAY_BUFFER = 5126, 34962


class SourceError(ValueError):
    """A mesh that no job can start from; the text is a sentence with the fix."""


class Source(NamedTuple):
    """Triangles as they stand in the world: Z up, front -Y, the middle of the bottom at the origin."""

    vertices: Floats
    """[V, 3]"""
    faces: Ints
    """[F, 3], counter-clockwise seen from outside."""
    corner_uvs: Floats | None
    """[F, 3, 2], origin bottom left; None without a UV map."""
    bottom: tuple[float, float, float]
    """Where the origin is in the scene."""
    height: float
    """Along Z, in the scene's own units."""


def check_source(source: Source, name: str) -> None:
    """Raises: SourceError if the mesh called `name` is none that a job can start from."""
    if not len(source.faces):
        raise SourceError(f"{name} has no faces. Choose a mesh with a surface.")
    if len(source.faces) > MAX_TRIANGLES:
        raise SourceError(f"{name} has {len(source.faces):,} triangles, but at most {MAX_TRIANGLES:,} can be worked on. Decimate it first.")
    if not np.isfinite(source.vertices).all():
        raise SourceError(f"{name} has vertices at places that are no numbers. Clean it up (Mesh > Clean Up), then try again.")
    if source.height <= 1e-6 * float(np.ptp(source.vertices, axis=0).max()):
        raise SourceError(f"{name} is flat. Stand it up, or give it some thickness (the modifier Solidify), then try again.")


def write_source(source: Source, picture: bytes | None, folder: Path) -> Path:
    """The source as a .glb named by its content, so that a waiting job finds it unchanged. `picture`: a PNG at its UVs.

    Raises: OSError.
    """
    data = glb(source, picture)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.glb"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{path.name}.{os.getpid()}.partial"
        partial.write_bytes(data)
        partial.replace(path)
    return path


def glb(source: Source, picture: bytes | None) -> bytes:
    """Every corner a vertex of its own, in the order of the faces; the engine makes one of those in one place."""
    x, y, z = np.moveaxis(source.vertices[source.faces].reshape(-1, 3), 1, 0)
    places = np.stack([x, z, -y], axis=1).astype("<f4")  # glTF is Y up
    parts = [places.tobytes()]
    accessors: list[dict[str, Any]] = [_accessor(0, len(places), "VEC3", places)]
    attributes = {"POSITION": 0}
    if source.corner_uvs is not None:
        u, v = np.moveaxis(source.corner_uvs.reshape(-1, 2), 1, 0)
        uvs = np.stack([u, 1 - v], axis=1).astype("<f4")  # glTF's pictures begin at the top
        parts.append(uvs.tobytes())
        accessors.append(_accessor(1, len(uvs), "VEC2", uvs))
        attributes["TEXCOORD_0"] = 1
    primitive: dict[str, Any] = {"attributes": attributes}
    document: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
    }
    if source.corner_uvs is not None:
        primitive["material"] = 0  # readers leave the UVs of a mesh without material alone
        document["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.5, 0.5, 1.0], "metallicFactor": 0}}]
    if picture is not None and source.corner_uvs is not None:
        document["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0}}]
        document["textures"] = [{"source": 0}]
        document["images"] = [{"bufferView": len(parts), "mimeType": "image/png"}]
        parts.append(picture)
    return _packed(document, parts)


def _accessor(view: int, count: int, kind: str, values: np.ndarray) -> dict[str, Any]:
    bounds = {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
    return {"bufferView": view, "componentType": _FLOAT, "count": count, "type": kind, **bounds}


def _packed(document: dict[str, Any], parts: list[bytes]) -> bytes:
    """The two chunks of a .glb; every part begins at a multiple of four bytes."""
    body, views = b"", []
    for number, part in enumerate(parts):
        target = {"target": _ARRAY_BUFFER} if number < len(document["accessors"]) else {}
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(part), **target})
        body += part + b"\0" * (-len(part) % 4)
    document = {**document, "bufferViews": views, "buffers": [{"byteLength": len(body)}]}
    text = json.dumps(document, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    header = struct.pack("<III", _MAGIC, _VERSION, 12 + 8 + len(text) + 8 + len(body))
    return b"".join([header, struct.pack("<II", len(text), _JSON), text, struct.pack("<II", len(body), _BIN), body])
