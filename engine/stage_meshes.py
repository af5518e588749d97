"""The finished mesh of a job, by what it trained."""

from __future__ import annotations

import time

import numpy as np
import torch

from engine.errors import UserError
from engine.extraction import SILHOUETTE_PX, SILHOUETTE_VIEWS, extract_mesh
from engine.job_folder import JobFolder
from engine.meshing.bake import AlbedoFn, bake_albedo
from engine.meshing.cleanup import open_edges, pieces, solid_pieces
from engine.meshing.mesh_stage import CutSurface, MeshResult, MeshStats, ReportFn, textured_mesh
from engine.meshing.raster import silhouettes
from engine.meshing.source_mesh import SourceMesh
from engine.meshing.unwrap import overlap_pixels, unwrap, uv_overlap
from engine.previews import AnyTrainer
from engine.scene.sampling import survey_cameras
from engine.training.surface_model import albedo_of
from engine.training.surface_trainer import SurfaceTrainer
from engine.training.trainer import Trainer

# A UV map of which more than this part is used twice (mirrored or tiled) cannot hold a texture of its own.
MAX_OVERLAP = 0.005


def result_mesh(trainer: AnyTrainer, folder: JobFolder, report: ReportFn) -> MeshResult:
    """Of the averaged parameters. `report` may raise to cancel. Raises UserError."""
    if isinstance(trainer, Trainer):
        return extract_mesh(trainer.trained, trainer.config.mesh, report)
    with torch.no_grad(), trainer.ema.module.colors.frozen():
        if trainer.model.shape_parameters():
            return _of_moved_surface(trainer, report)
        return _of_fixed_surface(trainer, SourceMesh.load(folder.source), report)


def _albedo_fn(trainer: SurfaceTrainer) -> AlbedoFn:
    colors = trainer.ema.module.colors
    return lambda positions: albedo_of(colors, positions)


def _of_moved_surface(trainer: SurfaceTrainer, report: ReportFn) -> MeshResult:
    """The refined surface, cleaned, simplified and unwrapped like one that was cut from a field."""
    report("surface", 0.0)
    surface = trainer.ema.module.surface()
    vertices, faces = surface.vertices.cpu().numpy(), surface.faces.cpu().numpy()
    if not len(faces):
        raise UserError("The surface has vanished.", "Use a smaller --surface.shape-rate.", "empty_field")
    cameras = survey_cameras(SILHOUETTE_VIEWS)
    config = trainer.config.mesh
    kept, kept_faces = solid_pieces(vertices, faces, min_component=config.min_component)
    removed = int(pieces(faces, len(vertices)).max() - pieces(kept_faces, len(kept)).max())
    cut = CutSurface(kept, kept_faces, 0.0, trainer.ema.module.cell, removed)
    wanted = silhouettes(vertices, faces, cameras, SILHOUETTE_PX, SILHOUETTE_PX)
    return textured_mesh(cut, _albedo_fn(trainer), wanted, cameras, config, report=report, device=trainer.device)


def _of_fixed_surface(trainer: SurfaceTrainer, source: SourceMesh, report: ReportFn) -> MeshResult:
    """The source mesh as it is, with the trained color baked at its own UVs where those can hold it, else at new ones."""
    config, started = trainer.config.mesh, time.monotonic()
    report("unwrap", 0.2)
    corner_uvs, normal = source.corner_uvs, source.normal
    if corner_uvs is None or not holds_texture(corner_uvs, config.texture_size):
        corner_uvs, normal = unwrap(source.vertices, source.faces, texture_size=config.texture_size, padding=config.padding)[0], None
    report("bake", 0.5)
    albedo, _ = bake_albedo(
        _albedo_fn(trainer),
        source.vertices,
        source.faces,
        corner_uvs,
        texture_size=config.texture_size,
        supersample=config.supersample,
        device=trainer.device,
        report=lambda fraction: report("bake", 0.5 + 0.5 * fraction),
    )
    stats = MeshStats(
        n_faces=len(source.faces),
        open_edges=open_edges(source.faces),
        uv_overlap=uv_overlap(corner_uvs, config.texture_size),
        black_texels=int((~np.isfinite(albedo).all(axis=-1)).sum()),
        isovalue=0.0,
        silhouette_iou=1.0,  # it is the mesh that was rendered
        seconds=time.monotonic() - started,
    )
    return MeshResult(source.vertices, source.faces, corner_uvs, albedo, stats, normal)


def holds_texture(corner_uvs: np.ndarray[tuple[int, ...], np.dtype[np.float32]], size: int) -> bool:
    """Whether a UV map [F, 3, 2] gives (nearly) every place of the surface a texel of its own inside the picture."""
    if not np.isfinite(corner_uvs).all() or corner_uvs.min() < -1e-4 or corner_uvs.max() > 1 + 1e-4:
        return False
    u, v = corner_uvs[:, 1] - corner_uvs[:, 0], corner_uvs[:, 2] - corner_uvs[:, 0]
    area = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]).sum() / 2
    return bool(area > 0.01) and overlap_pixels(corner_uvs, size)[0] <= MAX_OVERLAP * area * size * size
