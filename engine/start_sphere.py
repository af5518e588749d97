"""`generate --init sphere`, or `sphere:0.4` with a radius: the field starts with a ball that has a surface.

Without `--init` it starts with a cloud that one can see through (`field.blob-density`), which the first steps may move anywhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.errors import UserError

if TYPE_CHECKING:
    from engine.meshing.source_mesh import SourceMesh

RADIUS = 0.5
MIN_RADIUS, MAX_RADIUS = 0.05, 0.95
# 5120 triangles: its edge is nowhere farther from the ball than a thousandth of the radius.
SUBDIVISIONS = 4


def is_sphere(init: str) -> bool:
    """Whether `--init` asks for a ball rather than names a file or a model."""
    return re.fullmatch(r"sphere(:.*)?", init) is not None


def sphere_mesh(init: str) -> SourceMesh:
    """The ball that `init` asks for, round the middle of the world, without colors. Raises UserError, code "option"."""
    import numpy as np
    import trimesh

    from engine.meshing.source_mesh import SourceMesh

    _, colon, text = init.partition(":")
    try:
        radius = float(text) if colon else RADIUS
    except ValueError:
        radius = float("nan")
    if not MIN_RADIUS <= radius <= MAX_RADIUS:
        what = f"init is {init!r}, but the radius behind sphere: must be a number in {MIN_RADIUS}..{MAX_RADIUS}."
        raise UserError(what, f"Use --init sphere:{RADIUS}.", "option")
    ball = trimesh.creation.icosphere(subdivisions=SUBDIVISIONS, radius=radius)
    return SourceMesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))
