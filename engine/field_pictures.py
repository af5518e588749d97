"""Pictures of a trained field: turning videos of its colour, depth, normals and bare shape, and six fixed views.

Shapes: V views, S = side in pixels. Images are float32 in [0, 1], sRGB-encoded, rows from the top.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.config import PICTURE_KINDS, OutputConfig
from engine.meshing.export import write_png
from engine.meshing.turntable import write_video
from engine.result_files import TURN_S, VIEW_ELEVATION_DEG, VIEW_FOV_DEG, VIEW_RADIUS
from engine.scene.cameras import Cameras, orbit_cameras
from engine.training.trained import TrainedField

# Azimuth and elevation in degrees. From above the object's front is at the lower edge, from below at the upper one.
SIX_VIEWS = {"front": (0, 0), "left": (90, 0), "back": (180, 0), "right": (-90, 0), "top": (0, 90), "bottom": (0, -90)}
# The least light of a bare shape: what faces away from the camera keeps its edges.
AMBIENT_RATIO = 0.25

ReportFn = Callable[[int, int], None]
"""Called with how many pictures are done and how many there are; may raise to cancel."""


def field_picture(trained: TrainedField, cameras: Cameras, size: int, kind: str) -> NDArray[np.float32]:
    """[V, S, S, 3] of one kind.

    color: bare colour over white. textureless: white under a light at the camera, over white. normals: (n + 1) / 2 in world axes
    over mid-gray. depth: 1 at the nearest place that a unit ball round the origin has, 0 at its farthest and where nothing is,
    so that all frames of a turn share one scale; for cameras that look at the origin.
    Raises: ValueError for another kind.
    """
    if kind == "color":
        image = trained.picture(cameras, size, size).image
    elif kind == "textureless":
        image = trained.picture(cameras, size, size, shading="textureless", ambient_ratio=AMBIENT_RATIO).image
    elif kind == "normals":
        found = trained.picture(cameras, size, size, with_normals=True).normal_image
        assert found is not None
        image = found
    elif kind == "depth":
        seen = trained.picture(cameras, size, size)
        distance = seen.depth / seen.opacity.clamp(min=1e-3)
        nearest = cameras.positions.norm(dim=-1).to(distance)[:, None, None] - 1.0
        visible = torch.where(seen.opacity < 1e-3, 0.0, seen.opacity)
        image = ((1.0 - (distance - nearest) / 2.0).clamp(0, 1) * visible)[..., None].expand(-1, -1, -1, 3)
    else:
        raise ValueError(f"kind is {kind!r}, but must be one of {', '.join(PICTURE_KINDS)}")
    return image.clamp(0, 1).cpu().numpy()


def write_turns(folder: Path, trained: TrainedField, kinds: Sequence[str], n_frames: int, size: int, report: ReportFn) -> None:
    """turntable-KIND.mp4 for each kind, one turn. Raises OSError."""
    of = len(kinds) * n_frames
    for i, kind in enumerate(kinds):
        frames = []
        for k in range(n_frames):
            report(i * n_frames + k, of)
            frames.append(field_picture(trained, _camera(k * 360.0 / n_frames, VIEW_ELEVATION_DEG), size, kind)[0])
        if frames:
            write_video(folder / f"turntable-{kind}.mp4", frames, fps=max(1, round(n_frames / TURN_S)))


def write_six_views(folder: Path, trained: TrainedField, kinds: Sequence[str], size: int) -> None:
    """VIEW-KIND.png for each of SIX_VIEWS and each kind. Raises OSError."""
    for view, (azimuth, elevation) in SIX_VIEWS.items():
        for kind in kinds:
            write_png(folder / f"{view}-{kind}.png", field_picture(trained, _camera(azimuth, elevation), size, kind)[0])


def write_wanted_pictures(folder: Path, trained: TrainedField, config: OutputConfig, report: ReportFn) -> None:
    """What the settings ask for beside the turntable of the mesh. Raises OSError."""
    size = config.turntable_size_px
    write_turns(folder, trained, config.field_video_list(), config.turntable_frames, size, report)
    if config.six_views:
        write_six_views(folder, trained, ("color",), size)


def _camera(azimuth_deg: float, elevation_deg: float) -> Cameras:
    values = (azimuth_deg, elevation_deg, VIEW_RADIUS, VIEW_FOV_DEG)
    return orbit_cameras(*(torch.tensor([float(value)]) for value in values))
