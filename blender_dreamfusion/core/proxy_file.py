"""The light mesh that the engine sends while it trains. numpy only; what comes out is safe to build from."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .results import Floats, Ints

# Blender replaces a mesh of this size in some 0.1 s; the engine sends a tenth of it.
MAX_FACES = 100_000


class ProxyMesh(NamedTuple):
    """vertices [V, 3] float32 in the object's frame (origin at the bottom centre, height 1); faces [F, 3] int32, counter-clockwise
    from outside; colors [V, 3] float32 in [0, 1], sRGB-encoded."""

    vertices: Floats
    faces: Ints
    colors: Floats


def read_proxy(path: Path) -> ProxyMesh:
    """Raises: ValueError, OSError if the file is no such mesh (or gone: the engine keeps only the last few)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            vertices, faces, colors = (np.asarray(archive[name]) for name in ("vertices", "faces", "colors"))
    except (KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no light mesh: {error}") from error
    fits = vertices.ndim == 2 and vertices.shape[1] == 3 and colors.shape == vertices.shape and faces.ndim == 2 and faces.shape[1] == 3
    if not fits or vertices.dtype.kind != "f" or colors.dtype.kind != "f" or faces.dtype.kind not in "iu":
        raise ValueError(f"{path} is no light mesh: its arrays have other shapes")
    if not 0 < len(faces) <= MAX_FACES or faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"{path} is no light mesh: {len(faces)} faces, or one that names a vertex which is not there")
    if not (np.isfinite(vertices).all() and np.isfinite(colors).all()):
        raise ValueError(f"{path} is no light mesh: it holds numbers that are not finite")
    return ProxyMesh(vertices.astype(np.float32), faces.astype(np.int32), colors.astype(np.float32).clip(0, 1))
