"""How a run is trained: the settings. No torch here, so that `--help` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from engine.errors import UserError, check_range
from engine.schedule import Scheduled, check_scheduled


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderConfig:
    """How training views are rendered."""

    size_px: Scheduled = (0.0, 32.0, 0.35, 32.0, 0.35, 48.0, 0.65, 48.0, 0.65, 64.0)
    """Width and height of a training view, rounded to a multiple of 8. 16..512, may be scheduled."""
    n_samples: int = 48
    """Places on a ray across the box where the field may be asked; empty space is skipped. 8..1024."""
    max_samples: int = 0
    """Exactly so many samples in every step, for memory that is known beforehand and steps that do not wait for the GPU; if a step
    needs more, rays lose their far ends, and the job says so. 0: as many as there are. 0..100000000."""
    occupancy_resolution: int = 48
    """Cells per axis of the grid that remembers empty space. 16..256."""
    occupancy_cascades: int = 1
    """Grids of so many cells inside each other, each half as wide as the one round it: finer cells round the middle, where a step is no
    longer than one of them. More than one asks for cells per axis that 4 divides. 1..4."""
    cone_angle: float = 0.0
    """What a sample's length is at least of its distance from the camera, since a pixel sees wider there, up to two cells of the grid that
    remembers empty space: fewer samples, somewhat coarser. 0: all of one length. 0..0.2."""
    occupancy_every: int = 8
    """Steps between two looks at which space is empty. 1..1000."""
    background: Literal["random", "learned", "mixed", "solid"] = "random"
    """What stands behind the object: one random color per view, a learned surrounding, half of the views each, or always the same."""
    background_color: str = "#ffffff"
    """The color that is always the same, as #rrggbb in hexadecimal."""
    gray_background: bool = False
    """Draw gray backgrounds only, so that no color can hide in them."""

    @property
    def solid_rgb(self) -> tuple[float, float, float]:
        """The colour of a solid background, 0..1."""
        red, green, blue = bytes.fromhex(self.background_color[1:])
        return red / 255, green / 255, blue / 255

    def __post_init__(self) -> None:
        if not re.fullmatch("#[0-9a-fA-F]{6}", self.background_color):
            raise UserError(
                f"render.background-color is {self.background_color!r}, but must be # and six hexadecimal digits.",
                "Use for white --render.background-color #ffffff.",
                "option",
            )
        if self.background == "solid" and self.gray_background:
            raise UserError(
                "render.gray-background draws grays at random, but render.background is solid and draws nothing.",
                "Leave --render.gray-background out.",
                "option",
            )
        check_scheduled("render.size-px", self.size_px, 16, 512)
        check_range("render.n-samples", self.n_samples, 8, 1024)
        check_range("render.max-samples", self.max_samples, 0, 100_000_000)
        check_range("render.occupancy-resolution", self.occupancy_resolution, 16, 256)
        check_range("render.occupancy-cascades", self.occupancy_cascades, 1, 4)
        if self.occupancy_cascades > 1 and self.occupancy_resolution % 4:
            raise UserError(
                f"render.occupancy-cascades is {self.occupancy_cascades}, but 4 does not divide the {self.occupancy_resolution} cells of "
                "render.occupancy-resolution.",
                f"Use --render.occupancy-resolution {self.occupancy_resolution // 4 * 4}.",
                "option",
            )
        check_range("render.cone-angle", self.cone_angle, 0.0, 0.2)
        check_range("render.occupancy-every", self.occupancy_every, 1, 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """How parameters move."""

    method: Literal["adam", "adan"] = "adam"
    """Row of the optimizer table."""
    learning_rate: Scheduled = (0.0, 0.008, 1.0, 0.002)
    """Base rate; a field's parts have their own factors on top. 1e-6..1, may be scheduled."""
    warm_up_steps: int = 20
    """Steps over which the rate rises from nothing. 0..10000."""
    max_grad_norm: float = 0.0
    """Gradients longer than this are cut to it; 0 leaves them. 0..1e6."""
    weight_decay: float = 0.0
    """Pulls what a grid stores towards nothing, beside the gradient: each step takes this times its rate away. 0..10."""

    def __post_init__(self) -> None:
        check_scheduled("optimizer.learning-rate", self.learning_rate, 1e-6, 1)
        check_range("optimizer.warm-up-steps", self.warm_up_steps, 0, 10000)
        check_range("optimizer.max-grad-norm", self.max_grad_norm, 0, 1e6)
        check_range("optimizer.weight-decay", self.weight_decay, 0, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the losses beside the guidance. Each loss is a mean, so a weight means the same at every resolution.

    The guidance loss is a sum over one picture's pixels (some tens to hundreds), hence weights of that size.
    """

    lambda_opacity: Scheduled = (0.0, 0.0, 0.3, 5.0)
    """Against haze and floaters: mean sqrt(opacity^2 + 0.01). 0..1e4, may be scheduled."""
    lambda_entropy: Scheduled = (0.0, 0.0, 0.3, 0.0, 1.0, 600.0)
    """For pixels that are either covered or not: mean binary entropy of the opacity. 0..1e4, may be scheduled."""
    lambda_orientation: Scheduled = 0.0
    """Against surfaces that face away from the camera that sees them; only on lit steps. 0..1e4, may be scheduled."""
    lambda_tv: Scheduled = 0.0
    """For smooth pictures of the opacity: mean squared difference of neighboring pixels. 0..1e4, may be scheduled."""
    lambda_smooth: Scheduled = 200.0
    """Against fur and crumbs: mean difference of opacity and color between near places in space. 0..1e4, may be scheduled."""
    smooth_radius: float = 0.03
    """How near, in world units: standard deviation along each axis. 0.001..1."""
    lambda_grid_tv: Scheduled = 0.0
    """For smooth levels of a dense or hash grid: mean squared difference of what neighboring points store, where something was
    looked at. 0..1e4, may be scheduled."""

    def __post_init__(self) -> None:
        for name in ("lambda_opacity", "lambda_entropy", "lambda_orientation", "lambda_tv", "lambda_smooth", "lambda_grid_tv"):
            check_scheduled("loss." + name.replace("_", "-"), getattr(self, name), 0, 1e4)
        check_range("loss.smooth-radius", self.smooth_radius, 0.001, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceConfig:
    """How a run follows a picture. Without a picture nothing here has an effect."""

    azimuth_deg: float = 0.0
    """From where the picture was taken: 0 is the front, 90 the object's left side. -180..180."""
    elevation_deg: float = 0.0
    """From how high: 0 is the horizon, 90 straight from above. -90..90."""
    fov_y_deg: float = 40.0
    """How much it foreshortens: the field of view that a unit ball fills, 40 from nearby, 15 from far with a long lens. 1..120."""
    object_radius: float = 0.9
    """From the middle of the object's outline to its farthest point, in world units. Less for what is deeper than wide,
    like a car from the front. 0.2..0.98."""
    lambda_rgb: Scheduled = 10_000.0
    """Pull of the picture's colors: mean squared error. 6000 weighs as much as the model does whose pictures have 64 pixels a
    side, under guidance.method image-target. 0..1e6, may be scheduled."""
    lambda_mask: Scheduled = 5_000.0
    """Pull of the picture's outline: mean squared error of the opacity. 0..1e6, may be scheduled."""
    lambda_depth: Scheduled = (0.0, 0.0, 1.0, 100.0)
    """Pull of the picture's depth map, if it has one: one less the correlation. 0..1e6, may be scheduled."""
    lambda_normal: Scheduled = 0.0
    """Pull of the picture's normal map, if it has one: one less the cosine. 0..1e6, may be scheduled."""
    cut_out_model: str = ""
    """An .onnx file (U2-Net, IS-Net, BiRefNet) that cuts the object out of pictures without alpha; needs the package onnxruntime.
    Empty: a plain background is removed."""
    depth_map: Literal["distance", "nearness"] = "distance"
    """What is bright in depth maps: what is far, as in Blender's depth pass, or what is near, as many estimators have it."""
    depth_model: str = ""
    """Folder of a depth estimator (Depth Anything or DPT in transformers' layout) for pictures without a map; empty: none."""
    normal_model: str = ""
    """Folder of a normal estimator (Marigold for normals, in diffusers' layout) for pictures without a map; empty: none."""
    weight: float = 1.0
    """How much the picture counts against further ones. 0.001..1000."""
    guidance_by_angle: Literal["auto", "on", "off"] = "auto"
    """Whether the model says less about views the nearer they are to a picture; auto: if its prompt is the picture (Zero123)."""
    every: int = 1
    """Steps between two looks from the picture's side. 1..1000."""

    def __post_init__(self) -> None:
        check_range("reference.azimuth-deg", self.azimuth_deg, -180, 180)
        check_range("reference.elevation-deg", self.elevation_deg, -90, 90)
        check_range("reference.fov-y-deg", self.fov_y_deg, 1, 120)
        check_range("reference.object-radius", self.object_radius, 0.2, 0.98)
        check_scheduled("reference.lambda-rgb", self.lambda_rgb, 0, 1e6)
        check_scheduled("reference.lambda-mask", self.lambda_mask, 0, 1e6)
        check_scheduled("reference.lambda-depth", self.lambda_depth, 0, 1e6)
        check_scheduled("reference.lambda-normal", self.lambda_normal, 0, 1e6)
        check_range("reference.weight", self.weight, 0.001, 1000)
        check_range("reference.every", self.every, 1, 1000)
        if self.normal_model and self.lambda_normal == 0:
            text = "reference.normal-model has no effect while reference.lambda-normal is 0."
            raise UserError(text, "Raise it, for example --reference.lambda-normal 100, or leave the model out.", "option")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How long, how many views, what is kept."""

    n_steps: int = 300
    """Steps of the run. 1..1000000."""
    batch_size: Scheduled = (0.0, 4.0, 0.65, 4.0, 0.65, 3.0)
    """Views of a step. 1..64, may be scheduled."""
    max_level: Scheduled = (0.0, 0.5, 0.5, 1.0)
    """Part of the field's levels that are open, from coarse to fine. 0..1, may be scheduled."""
    ema_decay: float = 0.95
    """How slowly the averaged field that previews and the mesh use follows the trained one. 0..0.9999."""
    check_every: int = 25
    """Steps between two looks for NaN and collapse. 1..25."""
    checkpoint_every_s: float = 20.0
    """Seconds between two checkpoints; the last two are kept. 1..86400."""
    preview_every_s: float = 5.0
    """Seconds between two preview pictures; 0 makes none. 0..86400."""
    preview_size_px: int = 96
    """Width and height of a preview. 32..1024."""
    restarts: int = 1
    """How often a collapsed run starts again with gentler settings. 0..3."""

    def __post_init__(self) -> None:
        check_range("training.n-steps", self.n_steps, 1, 1_000_000)
        check_scheduled("training.batch-size", self.batch_size, 1, 64)
        check_scheduled("training.max-level", self.max_level, 0, 1)
        check_range("training.ema-decay", self.ema_decay, 0, 0.9999)
        check_range("training.check-every", self.check_every, 1, 25)
        check_range("training.checkpoint-every-s", self.checkpoint_every_s, 1, 86400)
        check_range("training.preview-every-s", self.preview_every_s, 0, 86400)
        check_range("training.preview-size-px", self.preview_size_px, 32, 1024)
        check_range("training.restarts", self.restarts, 0, 3)
