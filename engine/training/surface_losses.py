"""Losses on the shape of a triangle mesh. Each is a mean, so that its weight means the same at every resolution.

Shapes: V vertices, F faces, E edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.rendering.surface_pixels import face_normals
from engine.training.surface_render import Surface


def normal_consistency_loss(surface: Surface) -> Tensor:
    """Mean over edges of 1 - cos of the angle between the normals of its two faces, in 0..2; 0 for a plane.

    Triangles without area have no normal and count as a right angle.
    """
    normals = F.normalize(face_normals(surface.vertices, surface.faces), dim=-1, eps=1e-12)
    first, second = surface.edges.faces.unbind(dim=1)
    inner = first != second
    return (1 - (normals[first[inner]] * normals[second[inner]]).sum(-1)).mean() if bool(inner.any()) else normals.sum() * 0


def laplacian_loss(surface: Surface, cell: float) -> Tensor:
    """Mean over vertices of the distance to the mean of the neighbours, in cells of `cell` world units.

    Source: the uniform Laplacian as in Nealen et al., "Laplacian mesh optimization" (2006), its length instead of its square.
    """
    if not len(surface.vertices):
        return surface.vertices.sum()
    ends = torch.cat([surface.edges.ends, surface.edges.ends.flip(1)])
    total = torch.zeros_like(surface.vertices).index_add(0, ends[:, 0], surface.vertices[ends[:, 1]])
    count = torch.bincount(ends[:, 0], minlength=len(surface.vertices)).clamp(min=1)
    away = (total / count[:, None] - surface.vertices) / cell
    return (away.square().sum(-1) + 1e-12).sqrt().mean()
