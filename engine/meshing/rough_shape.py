"""The object as it is now, roughly and quickly: where it stands in the field, and a light mesh to look at.

The same steps as the mesh stage (a cut with the silhouettes of the field, loose pieces removed) on a lattice of a few
thousand points, so that what is shown while training stands where the finished mesh will stand.

Shapes: V vertices, F faces, N pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.meshing.bake import AlbedoFn, seen_depth, vertex_normals
from engine.meshing.cleanup import solid_pieces
from engine.meshing.isosurface import DensityFn, query, sample_lattice, surface_of_lattice
from engine.meshing.isovalue import isovalue_of_lattice
from engine.scene.cameras import Cameras

# A hundredth of the height is the accuracy of the cut then, and some 5,000 triangles, which Blender replaces in milliseconds.
ROUGH_RESOLUTION = 40


@dataclass(frozen=True)
class RoughShape:
    """vertices [V, 3] float32 in world space; faces [F, 3] int32, counter-clockwise from outside; cell, the lattice spacing."""

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    cell: float

    @property
    def foot(self) -> NDArray[np.float32]:
        """[3], middle of the bottom of the bounding box: the origin of the imported object."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        return np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)

    @property
    def height(self) -> float:
        """Extent along Z in world units."""
        return float(np.ptp(self.vertices[:, 2]))

    def standing(self) -> NDArray[np.float32]:
        """The vertices in the object's frame: `foot` is the origin, `height` is 1."""
        return (self.vertices - self.foot) / self.height


def rough_shape(
    density_at: DensityFn,
    opacity: Tensor,
    cameras: Cameras,
    aabb: NDArray[np.floating],
    *,
    isovalue: float = 0.0,
    min_component: float = 0.01,
    device: torch.device | str = "cpu",
) -> RoughShape:
    """Cut the field inside the box aabb [2, 3].

    Args:
        opacity: [N, H, W] float32, the field's opacity through the pixel centres of `cameras`; 32 px and 6 views are enough.
        isovalue: density of the cut; 0 takes the one whose silhouettes are those of `opacity`.
        min_component: as `solid_pieces`.
    Raises: UserError while there is nothing to be seen.
    """
    lattice = sample_lattice(density_at, resolution=ROUGH_RESOLUTION, aabb=aabb, device=device)
    cut = isovalue or isovalue_of_lattice(lattice, opacity, cameras, n_evaluations=0).isovalue
    vertices, faces = solid_pieces(*surface_of_lattice(lattice, cut), min_component=min_component)
    return RoughShape(vertices, faces, lattice.spacing)


def rough_colors(
    density_at: DensityFn, albedo_at: AlbedoFn, shape: RoughShape, *, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """[V, 3] float32 in [0, 1], sRGB-encoded: what a ray into the surface sees at each vertex."""
    normals = vertex_normals(shape.vertices, shape.faces)
    depth = seen_depth(density_at, shape.vertices, normals, shape.cell / 2, device=device)
    colors = query(albedo_at, torch.from_numpy(shape.vertices - depth[:, None] * normals), device)
    return colors.clamp(0, 1).numpy()
