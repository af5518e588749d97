"""The surface where the density passes a value, as a closed triangle mesh.

The density is sampled on a lattice twice: coarsely over the whole world box to find where something is, then finely over
that box alone. Marching cubes runs on the logarithm of the density, which for a field with an exponential or softplus
activation is nearly linear across the surface, so that the cut is smooth where the density itself rises steeply.

Shapes: X Y Z lattice points per axis, V vertices, F faces.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import UserError

DensityFn = Callable[[Tensor], Tensor]
"""Maps positions [M, 3] float32 to densities [M] float32 >= 0 per world unit."""

WORLD_BOX = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
COARSE_RESOLUTION = 48
# Densities below this are air: a ray across the whole world box (length 2 sqrt 3) would be 3 % opaque.
MIN_DENSITY = 1e-2
# The logarithm is cut this far from the isovalue on both sides. A field that jumps from nothing to a lot within one cell is
# then cut about half way, where the whole logarithm would put the surface almost at the inner lattice point.
LOG_RANGE = 3.0


@dataclass(frozen=True)
class Lattice:
    """Densities on a regular lattice of cubic cells.

    Attributes:
        densities: [X, Y, Z] float32.
        origin: [3] float64, world position of densities[0, 0, 0].
        spacing: edge of a cell in world units.
    """

    densities: NDArray[np.float32]
    origin: NDArray[np.float64]
    spacing: float

    @property
    def aabb(self) -> NDArray[np.float64]:
        """[2, 3], lowest and highest lattice point."""
        return np.stack([self.origin, self.origin + self.spacing * (np.array(self.densities.shape) - 1)])


def query(at: Callable[[Tensor], Tensor], positions: Tensor, device: torch.device | str, chunk: int = 1 << 18) -> Tensor:
    """Ask a field at positions [M, 3] in chunks, without gradients. Returns its answers on the CPU, float32."""
    with torch.no_grad():
        parts = [at(part.to(device)).float().cpu() for part in positions.split(chunk)]
    return torch.cat(parts) if parts else at(positions.to(device)).float().cpu()


def sample_lattice(density_at: DensityFn, *, resolution: int, aabb: NDArray[np.floating], device: torch.device | str = "cpu") -> Lattice:
    """Densities on a lattice with `resolution` cells along the longest side of aabb [2, 3]; cells are cubes."""
    low, high = np.asarray(aabb, np.float64)
    spacing = float((high - low).max() / resolution)
    shape = np.maximum(np.ceil((high - low) / spacing - 1e-9).astype(int), 1) + 1
    # Where cells do not divide a side evenly the lattice grows on both sides alike.
    origin = (low + high) / 2 - spacing * (shape - 1) / 2
    axes = [torch.from_numpy(origin[i] + spacing * np.arange(shape[i])).float() for i in range(3)]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    densities = query(density_at, positions, device).reshape(tuple(shape)).numpy()
    if not np.isfinite(densities).all():
        raise UserError(
            f"The field has {int((~np.isfinite(densities)).sum())} densities that are not finite, so no mesh can be cut from it.",
            "Resume from the last checkpoint or start again with another --seed.",
            "field_not_finite",
        )
    return Lattice(densities, origin, spacing)


def occupied_box(lattice: Lattice, isovalue: float, margin_cells: int = 2) -> NDArray[np.float64]:
    """Box [2, 3] round all lattice points denser than isovalue, a margin added, cut to the lattice. UserError if there are none."""
    inside = lattice.densities > isovalue
    if not inside.any():
        raise _empty(float(lattice.densities.max()), isovalue)
    box = np.empty((2, 3))
    for axis in range(3):
        hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        box[:, axis] = lattice.origin[axis] + lattice.spacing * np.array([hit[0] - margin_cells, hit[-1] + margin_cells])
    limits = lattice.aabb
    return np.clip(box, limits[0], limits[1])


def _empty(highest: float, isovalue: float) -> UserError:
    return UserError(
        f"The field is empty: its highest density is {highest:.3g}, the surface would be cut at {isovalue:.3g}.",
        "Train for more steps, or start again with another --seed.",
        "empty_field",
    )


def _marching_cubes(volume: NDArray[np.float32], level: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    if importlib.util.find_spec("mcubes") is not None:
        import mcubes

        vertices, faces = mcubes.marching_cubes(volume, level)
    else:  # PyMCubes has no wheel for Python 3.13
        vertices, faces = _skimage_cubes(volume, level)
    return np.asarray(vertices, np.float64), np.asarray(faces, np.int64)


def _skimage_cubes(volume: NDArray[np.float32], level: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from skimage.measure import marching_cubes

    vertices, faces, _, _ = marching_cubes(volume, level, allow_degenerate=True)
    return np.asarray(vertices, np.float64), np.asarray(faces, np.int64)


def signed_volume(vertices: NDArray[np.floating], faces: NDArray[np.integer]) -> float:
    """Volume enclosed by a closed mesh, positive if faces are counter-clockwise seen from outside."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def surface_of_lattice(lattice: Lattice, isovalue: float) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cut the lattice at isovalue > 0.

    Returns:
        vertices [V, 3] float32 in world space, faces [F, 3] int32, counter-clockwise from outside. Closed: beyond the lattice
        there is nothing, so an object that touches its border gets a wall there.
    Raises: UserError if no lattice point is denser than isovalue.
    """
    if not isovalue > 0:
        raise ValueError(f"isovalue must be > 0, got {isovalue}")
    if not (lattice.densities > isovalue).any():
        raise _empty(float(lattice.densities.max()), isovalue)
    volume = np.log(np.maximum(lattice.densities, 1e-30)) - np.log(isovalue)
    volume = np.clip(volume, -LOG_RANGE, LOG_RANGE).astype(np.float32)
    # A value exactly on the level would put several vertices on one lattice point and leave faces without area.
    volume[np.abs(volume) < 1e-3] = -1e-3
    volume = np.pad(volume, 1, constant_values=-LOG_RANGE)
    vertices, faces = _marching_cubes(volume, 0.0)
    world = lattice.origin + (vertices - 1) * lattice.spacing
    if signed_volume(world, faces) < 0:  # the two libraries disagree about which side is outside
        faces = faces[:, ::-1]
    return world.astype(np.float32), np.ascontiguousarray(faces, np.int32)


def extract(
    density_at: DensityFn, *, resolution: int, isovalue: float, aabb: NDArray[np.floating] | None = None, device: torch.device | str = "cpu"
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The surface density = isovalue as a closed mesh.

    Args:
        resolution: cells along the longest side of the object (not of the world).
        aabb: [2, 3] box to look in; None finds it by a coarse pass over the world box [-1, 1]^3.
    Returns, raises: as `surface_of_lattice`.
    """
    if aabb is None:
        coarse = sample_lattice(density_at, resolution=COARSE_RESOLUTION, aabb=np.array(WORLD_BOX), device=device)
        aabb = occupied_box(coarse, min(isovalue / 4, float(coarse.densities.max()) / 2))
    return surface_of_lattice(sample_lattice(density_at, resolution=resolution, aabb=aabb, device=device), isovalue)
