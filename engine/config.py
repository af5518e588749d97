"""The settings of a job: one frozen dataclass per component, presets, overrides as text, JSON. No torch here.

Order: the preset's values first, then the user's, which always win. Nothing changes a config during a run.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError, check_range
from engine.fields.field_config import FieldConfig
from engine.guidance.guidance_config import GuidanceConfig
from engine.meshing.mesh_config import MeshConfig
from engine.options import field_docs, from_json, parse_value, to_json, to_text
from engine.protocol import JobRequest
from engine.scene.scene_config import CameraConfig, LightConfig
from engine.schedule import scheduled
from engine.training.training_config import (
    LossConfig,
    OptimizerConfig,
    ReferenceConfig,
    RenderConfig,
    TrainingConfig,
)

# CLIP's text encoders read 77 tokens, about 300 letters; beyond a few lines nothing is read and something else is meant.
MAX_PROMPT_LETTERS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """Which files the result folder gets beside those that Blender imports."""

    turntable_frames: int = 36
    """Frames of turntable.mp4, one turn; 0 makes none. 0..720."""
    turntable_size_px: int = 192
    """Width and height of the turntable and the thumbnail. 32..2048."""
    formats: str = "glb"
    """Further mesh files, with commas between: glb, obj, ply."""

    def __post_init__(self) -> None:
        check_range("output.turntable-frames", self.turntable_frames, 0, 720)
        check_range("output.turntable-size-px", self.turntable_size_px, 32, 2048)
        for word in self.format_list():
            if word not in ("glb", "obj", "ply"):
                raise UserError(f"output.formats holds {word!r}, but knows glb, obj and ply.", "Use --output.formats glb,obj.", "option")

    def format_list(self) -> tuple[str, ...]:
        return tuple(word.strip() for word in self.formats.split(",") if word.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """All settings of a run. A preset is one of these."""

    camera: CameraConfig = dataclasses.field(default_factory=CameraConfig)
    light: LightConfig = dataclasses.field(default_factory=LightConfig)
    render: RenderConfig = dataclasses.field(default_factory=RenderConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    reference: ReferenceConfig = dataclasses.field(default_factory=ReferenceConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        n_steps = self.training.n_steps
        for step in range(0, n_steps, max(1, n_steps // 100)):
            low, high = (scheduled(end, step, n_steps) for end in (self.guidance.t_low, self.guidance.t_high))
            if low > high:
                raise UserError(
                    f"At step {step} guidance.t-low is {low:g}, but must not exceed guidance.t-high, which is {high:g}.",
                    "Leave --guidance.t-low out to take the preset's value.",
                    "option",
                )


# What a preset changes against the defaults, as a user would type it. "draft" IS the defaults.
PRESETS: dict[str, dict[str, str]] = {
    "draft": {},
    "standard": {
        "training.n_steps": "1500",
        "training.preview_size_px": "128",
        "training.checkpoint_every_s": "60",
        "render.size_px": "0,32,0.3,32,0.3,64",
        "render.n_samples": "64",
        "render.occupancy_resolution": "64",
        "output.turntable_size_px": "384",
        "output.turntable_frames": "72",
    },
    "high": {
        "training.n_steps": "6000",
        "training.preview_size_px": "192",
        "training.checkpoint_every_s": "120",
        "render.size_px": "0,64,0.3,64,0.3,96,0.6,96,0.6,128",
        "render.n_samples": "96",
        "render.occupancy_resolution": "96",
        "output.turntable_size_px": "512",
        "output.turntable_frames": "120",
    },
    # Two other programs' settings of their text-to-3D run, for models of free prompts; docs/guidance.md says where ours must differ.
    "stable-dreamfusion": {
        "guidance.method": "sds",
        "guidance.guidance_scale": "100",
        "guidance.timestep_weight": "sigma",
        "guidance.t_low": "0.02",
        "guidance.t_high": "0.98",
        "camera.elevation_deg": "-15,45",
        "camera.radius": "3,3.5",
        "camera.fov_y_deg": "10,30",
        "camera.placement": "uniform",
        "light.textureless_ratio": "0.2",
        "light.lambertian_ratio": "0.8",
        "light.ambient_ratio": "0.1,1",
        "light.spread": "0.31",  # a unit normal round a camera at 3.25
        "light.lift": "0",
        "light.clay": "1",
        "render.size_px": "64",
        "render.n_samples": "1024",
        "render.occupancy_resolution": "128",
        "render.occupancy_every": "16",
        "render.background": "mixed",
        "field.encoding": "hash",
        "field.n_levels": "16",
        "field.base_resolution": "16",
        "field.finest_resolution": "2048",
        "field.features": "2",
        "field.log2_table_size": "19",
        "field.hidden_width": "64",
        "field.activation": "exp",
        "field.density_scale": "1",
        "field.blob_density": "148",  # exp(5), and a tenth of it where 5 exp(-r^2 / 0.08) is smaller by ln 10
        "field.blob_radius": "0.22",
        "field.normals": "finite_difference",
        "optimizer.method": "adan",
        "optimizer.learning_rate": "0.005",
        "optimizer.warm_up_steps": "0",
        "optimizer.max_grad_norm": "5",
        "loss.lambda_opacity": "0",
        "loss.lambda_entropy": "0,0,0.5,0.001",
        "loss.lambda_orientation": "0.01",
        "loss.lambda_smooth": "0",
        "training.n_steps": "10000",
        "training.batch_size": "1",
        "training.max_level": "1",
        "training.ema_decay": "0.9995",  # theirs is 0.95 each hundredth step
        "mesh.resolution": "256",
        "mesh.target_faces": "50000",
        "mesh.texture_size": "2048",
        "output.turntable_frames": "100",
        "output.turntable_size_px": "800",
    },
    "threestudio-dreamfusion-sd": {
        "guidance.method": "sds",
        "guidance.guidance_scale": "101",  # its 100 is counted from the text: eps_text + 100 (eps_text - eps_uncond)
        "guidance.timestep_weight": "sigma",
        "guidance.t_low": "0.02",
        "guidance.t_high": "0.98",
        "guidance.view_prompts": "named",
        "camera.elevation_deg": "-10,90",
        "camera.radius": "1.5,2",
        "camera.fov_y_deg": "40,70",
        "camera.uniform_sphere_ratio": "0.5",
        "camera.position_jitter": "0.2",
        "camera.target_jitter": "0.2",
        "camera.roll_deg": "1.15",
        "light.textureless_ratio": "0,0,2001,0,2001,0.375",
        "light.lambertian_ratio": "0,0,2001,0,2001,0.375",
        "light.ambient_ratio": "0.1,0.1",
        "light.spread": "0.57",  # a unit normal round a camera at 1.75
        "light.lift": "0",
        "light.clay": "1",
        "render.size_px": "64",
        "render.n_samples": "512",
        "render.occupancy_resolution": "32",
        "render.occupancy_every": "16",
        "render.background": "learned",
        "field.encoding": "hash",
        "field.n_levels": "16",
        "field.base_resolution": "16",
        "field.finest_resolution": "4096",
        "field.features": "2",
        "field.log2_table_size": "19",
        "field.hidden_width": "64",
        "field.activation": "softplus",
        "field.density_scale": "1",
        "field.blob_density": "10",
        "field.blob_radius": "0.47",  # where softplus(10 (1 - r / 0.5)) is a tenth of that
        "optimizer.learning_rate": "0.001",  # the encoding's is ten times that
        "optimizer.warm_up_steps": "0",
        "loss.lambda_opacity": "1",
        "loss.lambda_entropy": "0",
        "loss.lambda_orientation": "0,10,5000,1000",
        "loss.lambda_smooth": "0",
        "training.n_steps": "10000",
        "training.batch_size": "1",
        "training.max_level": "0,0.5,2000,0.5,6000,1",
        "training.ema_decay": "0",
    },
}


@dataclass(frozen=True)
class Option:
    """One setting on the command line or in a panel."""

    group: str
    name: str
    kind: Any
    help: str

    @property
    def key(self) -> str:
        """As overrides name it: "guidance.guidance_scale"."""
        return f"{self.group}.{self.name}"

    @property
    def flag(self) -> str:
        """As a command line names it: "--guidance.guidance-scale"."""
        return "--" + self.key.replace("_", "-")


@functools.cache
def options() -> dict[str, Option]:
    """All settings by key, in the order of the groups."""
    table = {}
    for group, cls in typing.get_type_hints(JobConfig).items():
        docs, hints = field_docs(cls), typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            option = Option(group, item.name, hints[item.name], docs[item.name])
            table[option.key] = option
    return table


def make_config(preset: str, overrides: Mapping[str, str]) -> JobConfig:
    """The preset with the user's values on top. Raises UserError for an unknown name or a value out of range."""
    if preset not in PRESETS:
        raise UserError(
            f"preset is {preset!r}, but must be one of {', '.join(PRESETS)}.", f"Use --preset {_nearest(preset, PRESETS)}.", "preset"
        )
    groups: dict[str, dict[str, Any]] = {}
    for given, text in (*PRESETS[preset].items(), *overrides.items()):
        option = options().get(given.replace("-", "_"))
        if option is None:
            raise UserError(f"There is no setting {given!r}.", f"Did you mean --{_nearest(given, options()).replace('_', '-')}?", "option")
        value = parse_value(text, option.kind, option.flag[2:])
        groups.setdefault(option.group, {})[option.name] = value
    hints = typing.get_type_hints(JobConfig)
    return JobConfig(**{group: hints[group](**values) for group, values in groups.items()})


def config_to_json(config: JobConfig) -> dict[str, Any]:
    return typing.cast(dict[str, Any], to_json(config))


def config_from_json(data: dict[str, Any]) -> JobConfig:
    return typing.cast(JobConfig, from_json(JobConfig, data))


def default_text(option: Option, preset: str = "draft") -> str:
    """The value that this preset gives, as a user would type it."""
    return to_text(getattr(getattr(make_config(preset, {}), option.group), option.name))


def check_request(request: JobRequest) -> JobConfig:
    """Everything about a request that can be judged without the model. Returns its config. Raises UserError."""
    check_text("prompt", request.prompt)
    if not request.prompt.strip() and request.reference_image:
        raise UserError(
            "A picture alone is not enough: the model follows words, which say what the other sides are of.",
            'Say what the picture shows, for example "a red mug".',
            "prompt",
        )
    if not request.prompt.strip():
        raise UserError("The prompt is empty.", 'Say what to make, for example "a red mug".', "prompt")
    check_text("negative", request.negative)
    if not 0 <= request.seed < 2**31:
        raise UserError(f"seed is {request.seed}, but must lie in 0..{2**31 - 1}.", "Use --seed 0.", "option")
    if not (request.device in ("auto", "cpu", "cuda") or request.device.startswith("cuda:") and request.device[5:].isdigit()):
        raise UserError(f"device is {request.device!r}, but must be auto, cpu, cuda or cuda:N.", "Use --device auto.", "option")
    if request.start_mesh:
        raise UserError("A mesh to start from was given, but this version starts from nothing only.", "Leave it out.", "option")
    config = make_config(request.preset, request.overrides)
    for view, text in config.guidance.own_texts().items():
        check_text(f"guidance.prompt-{view.split()[-1]}", text)
    check_text("guidance.flaws", config.guidance.flaws)
    if request.reference_image:
        from engine.scene.reference_view import prepare_picture

        prepare_picture(Path(request.reference_image))
    return config


def check_text(name: str, text: str) -> None:
    """Raise UserError if no text encoder could read this: too long, several lines, signs that are no letters."""
    if len(text) > MAX_PROMPT_LETTERS:
        raise UserError(
            f"The {name} has {len(text):,} letters, but at most {MAX_PROMPT_LETTERS:,} are read.",
            "Say it in one or two sentences.",
            "prompt",
        )
    if any(sign in "\n\r\v\f\x85\u2028\u2029" for sign in text):
        raise UserError(f"The {name} has a line break.", "Write it in one line.", "prompt")
    for sign in text:
        # So: emoji and pictures. Cs, Co, Cn: no characters at all. Cc, Cf: invisible control signs. Sk: emoji skin tones.
        if unicodedata.category(sign) in ("So", "Sk", "Cs", "Co", "Cn", "Cc", "Cf"):
            shown = sign if unicodedata.category(sign) == "So" else f"U+{ord(sign):04X}"
            raise UserError(f"The {name} holds the sign {shown}, which no text encoder here reads.", "Say it in words.", "prompt")


def _nearest(given: str, known: Mapping[str, object]) -> str:
    found = difflib.get_close_matches(given.replace("-", "_"), known, n=1, cutoff=0.3)
    return found[0] if found else next(iter(known))
