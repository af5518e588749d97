"""The files of a result folder, and what result.json says about the machine."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from engine.config import OutputConfig
from engine.meshing.export import write_obj, write_ply, write_result
from engine.meshing.mesh_stage import MeshResult
from engine.meshing.turntable import render_mesh, write_thumbnail, write_video
from engine.scene.cameras import Cameras, orbit_cameras
from engine.version import ENGINE_VERSION

THUMBNAIL_AZIMUTH_DEG = 30.0
VIEW_ELEVATION_DEG = 20.0
VIEW_FOV_DEG = 40.0
VIEW_RADIUS = 2.95
# A turn takes three seconds, however many frames it has.
TURN_S = 3.0
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "safetensors", "trimesh", "xatlas", "scikit-image", "PyMCubes", "av", "pillow")


def write_result_files(folder: Path, mesh: MeshResult, config: OutputConfig, slug: str, report: Callable[[int, int], None]) -> None:
    """All but result.json, into a folder that exists. `report` gets what is done and how much there is; it may raise."""
    n_frames = config.turntable_frames
    of = n_frames + 2
    write_result(folder, mesh, slug)
    if "obj" in config.format_list():
        write_obj(folder / f"{slug}.obj", mesh, slug)
    if "ply" in config.format_list():
        write_ply(folder / f"{slug}.ply", mesh)
    report(1, of)
    size = config.turntable_size_px
    write_thumbnail(folder / "thumbnail.png", render_mesh(mesh, _cameras([THUMBNAIL_AZIMUTH_DEG]), size, size)[0], size_px=size)
    if not n_frames:
        return
    frames = []
    for i in range(n_frames):
        report(2 + i, of)
        frames.append(render_mesh(mesh, _cameras([i * 360.0 / n_frames]), size, size, supersample=1 if size >= 256 else 2)[0])
    write_video(folder / "turntable.mp4", frames, fps=max(1, round(n_frames / TURN_S)))


def _cameras(azimuths_deg: list[float]) -> Cameras:
    n = len(azimuths_deg)
    return orbit_cameras(
        torch.tensor(azimuths_deg), torch.full((n,), VIEW_ELEVATION_DEG), torch.full((n,), VIEW_RADIUS), torch.full((n,), VIEW_FOV_DEG)
    )


def versions() -> dict[str, str]:
    """Of everything that may change a result; packages that are not there are left out."""
    found = {"engine": ENGINE_VERSION, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_bytes() -> int:
    """Most memory that this process ever held; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
