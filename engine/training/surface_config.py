"""What the stages after the field can be told: refining a mesh, and its texture. No torch here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import check_range
from engine.schedule import Scheduled, check_scheduled


@dataclass(frozen=True, kw_only=True, slots=True)
class SurfaceConfig:
    """How `refine` and `texture` treat the mesh they start from. Without effect on `generate`."""

    colors: Literal["auto", "source", "gray"] = "auto"
    """What color the surface starts with: the source's own, gray, or its own only where the prompt stays what it was."""
    resolution: Scheduled = (0.0, 28.0, 0.5, 28.0, 0.5, 44.0)
    """Cells of the tetrahedral lattice along the longest side of the object; refine only. 8..160, may be scheduled."""
    shape_rate: float = 0.1
    """How fast the shape learns, as a share of optimizer.learning-rate; refine only. 0..10."""
    lambda_normal: Scheduled = 200.0
    """For smooth surfaces: mean of 1 - cos over the angles between neighboring triangles; refine only. 0..1e6, may be scheduled."""
    lambda_laplacian: Scheduled = 200.0
    """For even triangles: mean distance of a vertex from the middle of its neighbors, in cells; refine only. 0..1e6, may be scheduled."""

    def __post_init__(self) -> None:
        check_scheduled("surface.resolution", self.resolution, 8, 160)
        check_range("surface.shape-rate", self.shape_rate, 0, 10)
        check_scheduled("surface.lambda-normal", self.lambda_normal, 0, 1e6)
        check_scheduled("surface.lambda-laplacian", self.lambda_laplacian, 0, 1e6)
