"""The whole mesh stage: a field goes in, a textured, watertight mesh comes out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import UserError
from engine.meshing.bake import AlbedoFn, bake_albedo, seen_depth, vertex_normals
from engine.meshing.cleanup import decimate, open_edges, pieces, smooth, solid_pieces
from engine.meshing.isosurface import COARSE_RESOLUTION, WORLD_BOX, DensityFn, occupied_box, sample_lattice, surface_of_lattice
from engine.meshing.isovalue import field_silhouettes, isovalue_of_lattice
from engine.meshing.mesh_config import MeshConfig
from engine.meshing.normal_map import bake_normals
from engine.meshing.raster import iou, silhouettes
from engine.meshing.unwrap import unwrap, uv_overlap
from engine.scene.cameras import Cameras

ReportFn = Callable[[str, float], None]
"""Called with what is being done ("surface", "simplify", "unwrap", "bake") and the fraction 0..1 of the whole stage."""


@dataclass(frozen=True)
class MeshStats:
    """What can be measured of a finished mesh.

    Attributes:
        n_faces: triangles.
        open_edges: edges with one face; 0 = watertight.
        uv_overlap: sub-texels in more than one UV triangle.
        black_texels: texels that neither baking nor filling wrote.
        isovalue: density at which the surface was cut.
        silhouette_iou: of the finished mesh against the field, over all views given, 0..1.
        seconds: wall time of the stage.
        removed_pieces: loose pieces that were too small to keep, or inside another.
    """

    n_faces: int
    open_edges: int
    uv_overlap: int
    black_texels: int
    isovalue: float
    silhouette_iou: float
    seconds: float
    removed_pieces: int = 0


@dataclass(frozen=True)
class MeshResult:
    """A finished mesh.

    Attributes:
        vertices: [V, 3] float32, world space, Z up, front -Y.
        faces: [F, 3] int32, counter-clockwise seen from outside.
        corner_uvs: [F, 3, 2] float32 in [0, 1], origin bottom left.
        albedo: [S, S, 3] float32 in [0, 1], sRGB-encoded, rows from the top.
        normal: [S, S, 3] float32 in [0, 1], tangent-space normals (n + 1) / 2 for smooth shading, rows from the top; None without.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    corner_uvs: NDArray[np.float32]
    albedo: NDArray[np.float32]
    stats: MeshStats
    normal: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class CutSurface:
    """A cleaned, closed surface before smoothing and simplification.

    Attributes:
        vertices: [V, 3] float32. faces: [F, 3] int32.
        isovalue: density at which it was cut; 0 for one that was not cut from a density.
        cell: lattice spacing in world units.
        removed_pieces: loose pieces that were too small to keep, or inside another.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    isovalue: float
    cell: float
    removed_pieces: int


def _no_report(phase: str, fraction: float) -> None:
    """Nobody listens."""


def make_mesh(
    density_at: DensityFn,
    albedo_at: AlbedoFn,
    opacity: Tensor,
    cameras: Cameras,
    config: MeshConfig | None = None,
    *,
    report: ReportFn = _no_report,
    device: torch.device | str = "cpu",
) -> MeshResult:
    """Cut, clean, simplify, unwrap and bake.

    Args:
        density_at: positions [M, 3] float32 on `device` to densities [M] per world unit; the object lies in [-1, 1]^3.
        albedo_at: positions [M, 3] to colors [M, 3] in [0, 1], sRGB-encoded.
        opacity: [V, H, W] float32, the field's opacity through the pixel centres of `cameras`; 64 px and 8 views are enough.
        cameras: the V cameras of `opacity`.
        report: may raise to cancel.
    Raises: UserError if the field has no surface or is not finite.
    """
    config = config or MeshConfig()
    if opacity.ndim != 3 or opacity.shape[0] != len(cameras):
        raise ValueError(f"opacity must be [{len(cameras)}, H, W] for {len(cameras)} cameras, got {list(opacity.shape)}")
    started = time.monotonic()
    report("surface", 0.0)
    surface = _surface(density_at, opacity, cameras, config, report, device)
    wanted = field_silhouettes(opacity)
    mesh = textured_mesh(surface, albedo_at, wanted, cameras, config, density_at=density_at, report=report, device=device)
    return dataclasses.replace(mesh, stats=dataclasses.replace(mesh.stats, seconds=time.monotonic() - started))


def textured_mesh(
    surface: CutSurface,
    albedo_at: AlbedoFn,
    wanted: NDArray[np.bool_],
    cameras: Cameras,
    config: MeshConfig,
    *,
    density_at: DensityFn | None = None,
    report: ReportFn = _no_report,
    device: torch.device | str = "cpu",
) -> MeshResult:
    """Smooth, simplify, unwrap and bake a closed surface.

    Args:
        wanted: [V, H, W], what the V cameras should see of it; only measured.
        density_at: the field it was cut from, to read colors where rays would see them; None reads them on the surface.
    """
    started = time.monotonic()
    report("simplify", 0.4)
    fine = smooth(surface.vertices, surface.faces, config.smoothing)
    vertices, faces = decimate(fine, surface.faces, config.target_faces)
    report("unwrap", 0.5)
    corner_uvs, _ = unwrap(vertices, faces, texture_size=config.texture_size, padding=config.padding)
    report("bake", 0.8)
    inset = None
    if config.inset and density_at is not None:
        inset = seen_depth(density_at, vertices, vertex_normals(vertices, faces), surface.cell, device=device)
    albedo, _ = bake_albedo(
        albedo_at,
        vertices,
        faces,
        corner_uvs,
        texture_size=config.texture_size,
        supersample=config.supersample,
        inset=inset,
        device=device,
        report=lambda fraction: report("bake", 0.8 + 0.15 * fraction),
    )
    normal = None
    if config.normal_map and len(faces) < len(surface.faces):
        normal = bake_normals(vertices, faces, corner_uvs, fine, surface.faces, texture_size=config.texture_size, cell=surface.cell)
    report("bake", 1.0)
    stats = MeshStats(
        n_faces=len(faces),
        open_edges=open_edges(faces),
        uv_overlap=uv_overlap(corner_uvs, config.texture_size),
        black_texels=int((~np.isfinite(albedo).all(axis=-1)).sum()),
        isovalue=surface.isovalue,
        removed_pieces=surface.removed_pieces,
        silhouette_iou=iou(silhouettes(vertices, faces, cameras, *wanted.shape[1:]), wanted),
        seconds=time.monotonic() - started,
    )
    return MeshResult(vertices, faces, corner_uvs, albedo, stats, normal)


def _surface(
    density_at: DensityFn, opacity: Tensor, cameras: Cameras, config: MeshConfig, report: ReportFn, device: torch.device | str
) -> CutSurface:
    coarse = sample_lattice(density_at, resolution=COARSE_RESOLUTION, aabb=np.array(WORLD_BOX), device=device)
    highest = float(coarse.densities.max())
    if not highest > 0:
        raise UserError("The field is empty: it has no density anywhere.", "Start again with another --seed.", "empty_field")
    guess = config.isovalue or isovalue_of_lattice(coarse, opacity, cameras, n_evaluations=0).isovalue
    # Parts thinner than a coarse cell leave only a trace on the coarse lattice, hence the low value.
    box = occupied_box(coarse, min(guess / 4, highest / 2))
    report("surface", 0.1)
    fine = sample_lattice(density_at, resolution=config.resolution, aabb=box, device=device)
    report("surface", 0.2)
    isovalue = config.isovalue or isovalue_of_lattice(fine, opacity, cameras, min_component=config.min_component).isovalue
    raw_vertices, raw_faces = surface_of_lattice(fine, isovalue)
    vertices, faces = solid_pieces(raw_vertices, raw_faces, min_component=config.min_component)
    removed = pieces(raw_faces, len(raw_vertices)).max() - pieces(faces, len(vertices)).max()
    return CutSurface(vertices, faces, isovalue, fine.spacing, int(removed))
