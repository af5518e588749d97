"""What a stage trains: the color of a mesh that stays, or color and shape of one that moves.

Shapes: V vertices, F faces, M positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.errors import UserError
from engine.fields.field import RadianceField
from engine.meshing.cleanup import solid_pieces
from engine.meshing.signed_distance import signed_distance
from engine.meshing.tetrahedra import MAX_OFFSET, TetLattice, bcc_lattice, marching_tetrahedra
from engine.training.surface_render import Surface

# Cells between the object and the end of its lattice: how far it may grow.
MARGIN_CELLS = 3
# Loose pieces smaller than this share of the largest one do not come along to a finer lattice.
MIN_PIECE = 0.01


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

    def fitting(self, tensors: dict[str, Tensor], resolution: int, cell: float) -> SurfaceModel:
        """A model that can load the state `tensors` of one with this resolution and cell; its surface is not yet anything."""
        return self


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


class DeformableSurface(SurfaceModel):
    """The zero level of values at the points of a tetrahedral lattice, points that may move a little: any closed shape.

    Values are in cells, signed distances at the start. Magic3D (2211.10440), section 4.2, refines its mesh this way; lattice and
    marching are our own.
    """

    def __init__(self, box: Tensor, resolution: int, cell: float, colors: RadianceField, device: torch.device) -> None:
        """Empty, on a lattice over box [2, 3] whose cubes are about `cell` wide; see `of_mesh`."""
        super().__init__()
        self.colors = colors
        self.resolution = resolution
        self.cell = cell
        lattice = bcc_lattice(box[0].cpu(), box[1].cpu(), round(float((box[1] - box[0]).max()) / cell))
        points, tets, is_border = (part.to(device) for part in (lattice.points, lattice.tets, lattice.is_border))
        self._lattice = TetLattice(points, tets, is_border, lattice.spacing)
        self.box: Tensor
        self.register_buffer("box", box.to(device))  # where the lattice lies: a checkpoint must say
        self.values = nn.Parameter(torch.ones(len(lattice.points), device=device))
        self.offsets = nn.Parameter(torch.zeros(len(lattice.points), 3, device=device))

    @classmethod
    def of_mesh(
        cls, vertices: NDArray[np.floating], faces: NDArray[np.integer], resolution: int, colors: RadianceField, device: torch.device
    ) -> DeformableSurface:
        """The surface of a mesh, vertices [V, 3] and faces [F, 3]. Raises UserError if it encloses nothing."""
        box = torch.from_numpy(np.stack([vertices.min(axis=0), vertices.max(axis=0)]).astype(np.float32))
        cell = float((box[1] - box[0]).max()) / resolution
        margin = MARGIN_CELLS * cell
        model = cls((box + torch.tensor([[-margin], [margin]])).clamp(-1, 1), resolution, cell, colors, device)
        distance = signed_distance(vertices, faces, resolution=resolution + resolution // 4, margin_cells=MARGIN_CELLS + 2)
        model.values.data = distance.at(model._lattice.points) / model._lattice.spacing
        return model

    def surface(self) -> Surface:
        lattice = self._lattice
        points = lattice.points + MAX_OFFSET * lattice.spacing * torch.tanh(self.offsets)
        values = torch.where(lattice.is_border, self.values.detach().abs() + 1e-3, self.values)  # so that the surface is closed
        return Surface(*marching_tetrahedra(points, values, lattice.tets))

    def shape_parameters(self) -> list[nn.Parameter]:
        return [self.values, self.offsets]

    def refined(self, resolution: int) -> SurfaceModel | None:
        """Distances are measured anew, so values far from the surface are right again; loose crumbs stay behind."""
        if resolution == self.resolution:
            return None
        with torch.no_grad():
            surface = self.surface()
        if not len(surface.faces):
            raise UserError("The surface has vanished.", "Use a smaller --surface.shape-rate.", "empty_field")
        vertices, faces = solid_pieces(surface.vertices.cpu().numpy(), surface.faces.cpu().numpy(), min_component=MIN_PIECE)
        return DeformableSurface.of_mesh(vertices, faces, resolution, self.colors, self.values.device)

    def fitting(self, tensors: dict[str, Tensor], resolution: int, cell: float) -> SurfaceModel:
        return DeformableSurface(tensors["box"], resolution, cell, self.colors, self.values.device)
