"""What a stage trains: the color of a mesh that stays, or color and shape of one that moves.

Shapes: V vertices, F faces, M positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.fields.field import RadianceField
from engine.training.surface_render import Surface


class SurfaceModel(nn.Module, ABC):
    """A surface and its color.

    Attributes:
        colors: the field whose albedo is the surface's color; its density has no meaning here.
        cell: what a step of the shape is measured by, world units.
        resolution: cells along the longest side of the object; 0 for a shape without a lattice.
    """

    colors: RadianceField
    cell: float
    resolution: int

    @abstractmethod
    def surface(self) -> Surface:
        """As it is now, differentiable in the parameters."""

    def shape_parameters(self) -> list[nn.Parameter]:
        """What moves the surface; empty if it stays."""
        return []

    def refined(self, resolution: int) -> SurfaceModel | None:
        """The same surface and color on a lattice of another resolution; None if this model has that one already."""
        return None


def albedo_of(colors: RadianceField, positions: Tensor) -> Tensor:
    """Albedo [M, 3] at positions [M, 3]: what the field says, without its density."""
    albedo = colors(positions)[1]
    assert isinstance(albedo, Tensor)
    return albedo


class FixedSurface(SurfaceModel):
    """A mesh that stays, vertices [V, 3] and faces [F, 3] in world space: only its color is trained."""

    def __init__(self, vertices: NDArray[np.floating], faces: NDArray[np.integer], colors: RadianceField, device: torch.device) -> None:
        super().__init__()
        self.colors = colors
        self.resolution = 0
        self._surface = Surface(
            torch.from_numpy(np.asarray(vertices, np.float32)).to(device), torch.from_numpy(np.asarray(faces, np.int64)).to(device)
        )
        self.cell = float(np.ptp(vertices, axis=0).max()) / 40

    def surface(self) -> Surface:
        return self._surface
