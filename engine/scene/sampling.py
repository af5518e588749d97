"""Random training cameras and lights. Every draw comes from the generator that the caller owns (on the CPU).

Shapes: B cameras.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from engine.scene.cameras import Cameras, orbit_cameras
from engine.scene.scene_config import CameraConfig, LightConfig
from engine.schedule import scheduled

# Where a progressive run starts: the usual picture of a thing, seen from the front and a little from above.
PROGRESSIVE_CENTER_DEG = (0.0, 15.0)
# From here all of the world's box but its corners is seen.
SURVEY_RADIUS, SURVEY_FOV_DEG = 2.95, 40.0
SURVEY_ELEVATIONS_DEG = (0.0, 35.0, -15.0, 60.0)


def survey_cameras(n: int) -> Cameras:
    """`n` cameras all round, on several heights, on the CPU: by which field and mesh are compared."""
    azimuth = torch.arange(n) * (360.0 / n) - 180
    elevation = torch.tensor(SURVEY_ELEVATIONS_DEG).repeat((n + 3) // 4)[:n]
    return orbit_cameras(azimuth, elevation, torch.full((n,), SURVEY_RADIUS), torch.full((n,), SURVEY_FOV_DEG))


def sample_cameras(config: CameraConfig, n: int, step: int, n_steps: int, *, generator: torch.Generator) -> Cameras:
    """`n` training cameras for this step, on the CPU.

    Stratified placement draws one azimuth in each of n equal parts of the range, the parts turned together by a random
    amount if the range is the whole circle: so that a batch always sees the object from all round. Four-view placement draws
    one camera for each group of four and turns it three times by a quarter (MVDream, 2308.16512).

    Raises: ValueError if `n` is not a multiple of `config.views_per_group`.
    """
    if config.views_per_group > 1:
        return _grouped(config, n, step, n_steps, generator)
    part = scheduled(config.progressive, step, n_steps)
    azimuth_low, azimuth_high = _shrunk(config.azimuth_deg, PROGRESSIVE_CENTER_DEG[0], part)
    elevation_low, elevation_high = _shrunk(config.elevation_deg, PROGRESSIVE_CENTER_DEG[1], part)

    def uniform(count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    place = torch.rand(n, generator=generator)
    if config.placement == "stratified":
        place = (torch.arange(n) + place) / n
        if azimuth_high - azimuth_low >= 360:
            place = place + torch.rand(1, generator=generator)
    azimuth = azimuth_low + (azimuth_high - azimuth_low) * place
    in_angle = uniform(n, elevation_low, elevation_high)
    sines = uniform(n, math.sin(math.radians(elevation_low)), math.sin(math.radians(elevation_high)))
    on_sphere = torch.rand(n, generator=generator) < config.uniform_sphere_ratio
    elevation = torch.where(on_sphere, torch.rad2deg(torch.asin(sines.clamp(-1, 1))), in_angle)
    cameras = orbit_cameras(azimuth, elevation, uniform(n, *config.radius), uniform(n, *config.fov_y_deg))
    if config.position_jitter or config.target_jitter or config.roll_deg:
        cameras = _jittered(cameras, config, generator)
    return cameras


def _grouped(config: CameraConfig, n: int, step: int, n_steps: int, generator: torch.Generator) -> Cameras:
    """Groups of cameras, each a first one and its turns about the world's Z by equal parts of the circle."""
    size = config.views_per_group
    if n % size:
        raise ValueError(f"a batch of {n} views is not made of groups of {size}")
    alone = dataclasses.replace(config, placement="stratified")
    firsts = sample_cameras(alone, n // size, step, n_steps, generator=generator)
    turns = torch.arange(size) * (2 * math.pi / size)
    turn = torch.eye(4).repeat(size, 1, 1)  # [size, 4, 4]
    turn[:, 0, 0], turn[:, 0, 1] = turns.cos(), -turns.sin()
    turn[:, 1, 0], turn[:, 1, 1] = turns.sin(), turns.cos()
    turned = torch.einsum("vij,gjk->gvik", turn, firsts.camera_to_world).flatten(0, 1)
    return Cameras(turned, firsts.window.repeat_interleave(size, dim=0), firsts.orthographic)


def sample_lights(config: LightConfig, cameras: Cameras, *, generator: torch.Generator) -> Tensor:
    """[B, 3] float32 unit: from the surface towards the light, a normal draw round a place above each camera.

    Near the camera, so that most of what is seen is lit: DreamFusion (2209.14988), appendix A.2; above it, as light mostly is.
    """
    toward = torch.nn.functional.normalize(cameras.positions, dim=-1)
    offsets = torch.randn(len(cameras), 3, generator=generator) * config.spread
    offsets[:, 2] += config.lift
    return torch.nn.functional.normalize(toward + offsets, dim=-1)


def _shrunk(interval: tuple[float, float], center: float, part: float) -> tuple[float, float]:
    center = min(max(center, interval[0]), interval[1])
    return center + (interval[0] - center) * part, center + (interval[1] - center) * part


def _jittered(cameras: Cameras, config: CameraConfig, generator: torch.Generator) -> Cameras:
    n = len(cameras)
    position = cameras.positions + (torch.rand(n, 3, generator=generator) - 0.5) * config.position_jitter
    target = torch.randn(n, 3, generator=generator) * config.target_jitter
    roll = torch.deg2rad(torch.randn(n, generator=generator) * config.roll_deg)[:, None]
    back = torch.nn.functional.normalize(position - target, dim=-1)
    right = cameras.camera_to_world[:, :3, 0]  # stays meaningful straight above, where world up does not
    right = torch.nn.functional.normalize(right - (right * back).sum(-1, keepdim=True) * back, dim=-1)
    up = torch.linalg.cross(back, right)
    right, up = right * roll.cos() + up * roll.sin(), up * roll.cos() - right * roll.sin()
    camera_to_world = cameras.camera_to_world.clone()
    camera_to_world[:, :3] = torch.stack([right, up, back, position], dim=-1)
    return Cameras(camera_to_world, cameras.window, cameras.orthographic)
