"""Where training looks from and how it is lit: the settings. No torch here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import check_interval, check_range
from engine.schedule import Scheduled, check_scheduled


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraConfig:
    """Where training cameras are drawn from. Distances are in world units, the object fits in a ball of radius 0.95."""

    azimuth_deg: tuple[float, float] = (-180.0, 180.0)
    """Lowest and highest azimuth. 0 is the front, 90 the object's left side. -180..180."""
    elevation_deg: tuple[float, float] = (-20.0, 75.0)
    """Lowest and highest elevation. 0 is the horizon, 90 looks straight down. -90..90."""
    radius: tuple[float, float] = (2.75, 3.2)
    """Nearest and farthest distance to the look-at point. 1.2..20."""
    fov_y_deg: tuple[float, float] = (40.0, 40.0)
    """Smallest and largest vertical field of view. 1..120."""
    placement: Literal["stratified", "uniform", "four-view"] = "stratified"
    """How azimuths lie in a batch: one in each equal part of the circle, anywhere, or in groups of four that stand a quarter
    turn apart, with one height, distance, lens and background (MVDream)."""
    uniform_sphere_ratio: float = 0.0
    """Part of the cameras whose direction is uniform on the sphere within the elevation limits, not uniform in angle. 0..1."""
    position_jitter: float = 0.0
    """Cameras are moved by up to half of this along each axis. 0..1."""
    target_jitter: float = 0.0
    """Standard deviation of the look-at point round the origin. 0..1."""
    roll_deg: float = 0.0
    """Standard deviation of the camera's roll. 0..45."""
    progressive: Scheduled = 1.0
    """Part of the angle ranges in use, growing from the front at 15 degrees elevation. 0..1, may be scheduled."""

    front_deg: float = 90.0
    """Full width of what is called the front, and of the back, where a camera gets its nearest view's words alone. 10..170."""
    overhead_deg: float = 60.0
    """Elevation above which that is called overhead, and below whose negative it is called bottom. 0..90."""

    def __post_init__(self) -> None:
        check_interval("camera.azimuth-deg", self.azimuth_deg, -180, 180)
        check_interval("camera.elevation-deg", self.elevation_deg, -90, 90)
        check_interval("camera.radius", self.radius, 1.2, 20)
        check_interval("camera.fov-y-deg", self.fov_y_deg, 1, 120)
        check_range("camera.uniform-sphere-ratio", self.uniform_sphere_ratio, 0, 1)
        check_range("camera.position-jitter", self.position_jitter, 0, 1)
        check_range("camera.target-jitter", self.target_jitter, 0, 1)
        check_range("camera.roll-deg", self.roll_deg, 0, 45)
        check_range("camera.front-deg", self.front_deg, 10, 170)
        check_range("camera.overhead-deg", self.overhead_deg, 0, 90)
        check_scheduled("camera.progressive", self.progressive, 0, 1)

    @property
    def views_per_group(self) -> int:
        """How many neighbouring views of a batch belong together."""
        return 4 if self.placement == "four-view" else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LightConfig:
    """How the training renders are shaded. One directional light per view, drawn near the camera."""

    textureless_ratio: Scheduled = 0.15
    """Part of the steps that show shape alone, white under light. 0..1, may be scheduled."""
    lambertian_ratio: Scheduled = 0.35
    """Part of the steps that show color under light; the rest shows bare color. 0..1, may be scheduled."""
    normal_ratio: Scheduled = 0.0
    """Part of the steps that show the direction of the surface as color, for a shape before its colors. 0..1, may be scheduled."""
    ambient_ratio: tuple[float, float] = (0.35, 0.7)
    """Least and most ambient light of a lit step: 0 is light only, 1 is none. 0..1."""
    spread: float = 0.5
    """Standard deviation of the light's place round the camera, in camera distances. 0..10."""
    lift: float = 0.6
    """How far the light hangs above the camera, in camera distances. -10..10."""
    clay: float = 0.72
    """Brightness of the surface in textureless steps. 1 is white as in DreamFusion; 0.72 is the clay that Toybox knows. 0.1..1."""

    def __post_init__(self) -> None:
        check_scheduled("light.textureless-ratio", self.textureless_ratio, 0, 1)
        check_scheduled("light.lambertian-ratio", self.lambertian_ratio, 0, 1)
        check_scheduled("light.normal-ratio", self.normal_ratio, 0, 1)
        check_interval("light.ambient-ratio", self.ambient_ratio, 0, 1)
        check_range("light.spread", self.spread, 0, 10)
        check_range("light.lift", self.lift, -10, 10)
        check_range("light.clay", self.clay, 0.1, 1)
