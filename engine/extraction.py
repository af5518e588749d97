"""From a trained field to its mesh: at the end of a job, and again later with other settings."""

from __future__ import annotations

import torch

from engine.meshing.mesh_config import MeshConfig
from engine.meshing.mesh_stage import MeshResult, ReportFn, make_mesh
from engine.scene.sampling import survey_cameras
from engine.training.trained import TrainedField

# Views by which the isovalue is chosen and the mesh is judged.
SILHOUETTE_VIEWS = 12
SILHOUETTE_PX = 96


def extract_mesh(trained: TrainedField, config: MeshConfig, report: ReportFn) -> MeshResult:
    """The mesh of the averaged field. `report` may raise to cancel. Raises UserError if there is nothing."""
    cameras, field = survey_cameras(SILHOUETTE_VIEWS), trained.field
    with torch.no_grad(), field.frozen():
        opacity = trained.picture(cameras, SILHOUETTE_PX, SILHOUETTE_PX).opacity.cpu()
        return make_mesh(
            field.density,
            lambda positions: field(positions)[1],
            opacity,
            cameras,
            config,
            report=report,
            device=trained.device,
        )
