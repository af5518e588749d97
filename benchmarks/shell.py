"""What rays meet that look at a thin ball's shell: the samples that kernels are timed on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.rendering.march import PackedSamples, march
from engine.rendering.occupancy import OccupancyGrid
from engine.scene.cameras import camera_rays, orbit_cameras

STEP_SIZE = 2 * math.sqrt(3) / 512


def shell_rays(device: torch.device, cascades: int = 1) -> tuple[Tensor, Tensor, OccupancyGrid, float]:
    """Rays of four views of 64 px, and a 128^3 grid in which a thin ball's shell is occupied."""
    occupancy = OccupancyGrid(128, cascades)
    occupancy.update(lambda x: (x.norm(dim=-1) - 0.6).abs().lt(0.02).float(), 0, torch.Generator().manual_seed(0))
    angles = torch.tensor([0.0, 90.0, 180.0, 270.0])
    cameras = orbit_cameras(angles, torch.full((4,), 20.0), torch.full((4,), 2.9), torch.full((4,), 40.0))
    rays_o, rays_d = camera_rays(cameras, 64, 64)
    return rays_o.to(device), rays_d.to(device), occupancy.to(device), STEP_SIZE


def shell_samples(device: torch.device) -> tuple[PackedSamples, Tensor]:
    """Samples and their positions [M, 3]."""
    rays_o, rays_d, occupancy, step_size = shell_rays(device)
    samples = march(rays_o, rays_d, occupancy, step_size)
    t_mids = (samples.t_starts + samples.t_ends) / 2
    return samples, rays_o[samples.ray_indices] + t_mids[:, None] * rays_d[samples.ray_indices]
