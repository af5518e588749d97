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
from typing import TYPE_CHECKING, Any

from engine.errors import UserError, check_range
from engine.fields.field_config import FieldConfig
from engine.guidance.denoiser_config import DenoiserConfig
from engine.guidance.guidance_config import GuidanceConfig
from engine.meshing.mesh_config import MeshConfig
from engine.options import field_docs, from_json, parse_value, to_json, to_text
from engine.presets import PRESETS, STAGE_SIZES, STAGES
from engine.protocol import JobRequest
from engine.scene.scene_config import CameraConfig, LightConfig
from engine.schedule import scheduled
from engine.training.surface_config import SurfaceConfig
from engine.training.training_config import (
    LossConfig,
    OptimizerConfig,
    ReferenceConfig,
    RenderConfig,
    TrainingConfig,
)

if TYPE_CHECKING:
    from engine.scene.reference_view import Reference

# CLIP's text encoders read 77 tokens, about 300 letters; beyond a few lines nothing is read and something else is meant.
MAX_PROMPT_LETTERS = 1000
# What a picture of a trained field can show.
PICTURE_KINDS = ("color", "depth", "normals", "textureless")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """Which files the result folder gets beside those that Blender imports."""

    turntable_frames: int = 36
    """Frames of turntable.mp4, one turn; 0 makes none. 0..720."""
    turntable_size_px: int = 192
    """Width and height of the turntable and the thumbnail. 32..2048."""
    inspect_every: int = 0
    """Steps between two pictures in previews/ of what the model makes of a view: render, noised, one-step estimate, denoised;
    0 makes none. 0..1000000."""
    tensorboard: bool = False
    """Write the run's numbers and previews for tensorboard, into tensorboard/ of the job; needs the package tensorboard."""
    formats: str = "glb"
    """Further mesh files, with commas between: glb, obj, ply."""
    field_videos: str = ""
    """Turning videos of the trained field, with commas between: color, depth, normals, textureless."""
    six_views: bool = False
    """Pictures of the trained field from the front, both sides, the back, above and below."""

    def __post_init__(self) -> None:
        check_range("output.turntable-frames", self.turntable_frames, 0, 720)
        check_range("output.turntable-size-px", self.turntable_size_px, 32, 2048)
        check_range("output.inspect-every", self.inspect_every, 0, 1_000_000)
        for word in self.format_list():
            if word not in ("glb", "obj", "ply"):
                raise UserError(f"output.formats holds {word!r}, but knows glb, obj and ply.", "Use --output.formats glb,obj.", "option")

        for word in self.field_video_list():
            if word not in PICTURE_KINDS:
                raise UserError(
                    f"output.field-videos holds {word!r}, but knows {', '.join(PICTURE_KINDS)}.",
                    "Use --output.field-videos depth,normals.",
                    "option",
                )
        if self.field_video_list() and not self.turntable_frames:
            raise UserError(
                "output.field-videos asks for turning videos, but output.turntable-frames is 0.",
                "Use --output.turntable-frames 36, or leave --output.field-videos out.",
                "option",
            )

    def field_video_list(self) -> tuple[str, ...]:
        return _words(self.field_videos)

    def format_list(self) -> tuple[str, ...]:
        return _words(self.formats)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """All settings of a run. A preset is one of these."""

    camera: CameraConfig = dataclasses.field(default_factory=CameraConfig)
    light: LightConfig = dataclasses.field(default_factory=LightConfig)
    render: RenderConfig = dataclasses.field(default_factory=RenderConfig)
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    guidance: GuidanceConfig = dataclasses.field(default_factory=GuidanceConfig)
    model: DenoiserConfig = dataclasses.field(default_factory=DenoiserConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    reference: ReferenceConfig = dataclasses.field(default_factory=ReferenceConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    surface: SurfaceConfig = dataclasses.field(default_factory=SurfaceConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        if self.guidance.method == "vsd" and self.model.vram == "low":
            raise UserError(
                "guidance.method vsd trains a part of the U-Net, which model.vram low never has on the GPU as a whole.",
                "Use --vram normal with a smaller --render.size-px or --training.batch-size, or another --guidance.method.",
                "option",
            )
        self._check_grid()
        n_steps = self.training.n_steps
        for step in range(0, n_steps, max(1, n_steps // 100)):
            low, high = (scheduled(end, step, n_steps) for end in (self.guidance.t_low, self.guidance.t_high))
            if low > high:
                raise UserError(
                    f"At step {step} guidance.t-low is {low:g}, but must not exceed guidance.t-high, which is {high:g}.",
                    "Leave --guidance.t-low out to take the preset's value.",
                    "option",
                )
            light = self.light
            total = sum(scheduled(part, step, n_steps) for part in (light.textureless_ratio, light.lambertian_ratio, light.normal_ratio))
            if total > 1 + 1e-9:
                raise UserError(
                    f"At step {step} light.textureless-ratio, light.lambertian-ratio and light.normal-ratio add up to {total:g}, "
                    "but must not exceed 1.",
                    "Lower one of them; what is left of the steps shows bare color.",
                    "option",
                )
            n_views, group = max(1, round(scheduled(self.training.batch_size, step, n_steps))), self.camera.views_per_group
            if n_views % group:
                raise UserError(
                    f"At step {step} training.batch-size is {n_views}, but camera.placement {self.camera.placement} draws views in groups "
                    f"of {group}.",
                    f"Use --training.batch-size {group}.",
                    "option",
                )

    def _check_grid(self) -> None:
        """Raise UserError for what would act on a grid that this encoding does not have."""
        encoding, weights = self.field.encoding, self.loss.lambda_grid_tv
        is_smoothed = any(weights[1::2]) if isinstance(weights, tuple) else weights > 0
        if is_smoothed and not self.field.has_grid:
            what = "stores no grid" if encoding == "frequency" else "keeps its grid to itself"
            raise UserError(
                f"loss.lambda-grid-tv has no effect with field.encoding {encoding}, which {what}.",
                "Use --loss.lambda-smooth, which smooths what is seen, or --field.encoding hash.",
                "option",
            )
        if self.optimizer.weight_decay > 0 and encoding == "frequency":
            raise UserError(
                "optimizer.weight-decay has no effect with field.encoding frequency, which stores no grid.",
                "Leave it out, or use --field.encoding hash.",
                "option",
            )


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


def make_config(preset: str, overrides: Mapping[str, str], stage: str = "generate", of_model: Mapping[str, str] | None = None) -> JobConfig:
    """The preset, what the model and the stage change, the user's values on top.

    Raises: UserError for an unknown name or a value out of range.
    """
    if preset not in PRESETS:
        raise UserError(
            f"preset is {preset!r}, but must be one of {', '.join(PRESETS)}.", f"Use --preset {_nearest(preset, PRESETS)}.", "preset"
        )
    if stage not in STAGES:
        raise UserError(f"stage is {stage!r}, but must be one of {', '.join(STAGES)}.", "Leave it out to generate.", "option")
    sizes = STAGE_SIZES[preset] if stage != "generate" else {}
    groups: dict[str, dict[str, Any]] = {}
    for given, text in (*PRESETS[preset].items(), *(of_model or {}).items(), *STAGES[stage].items(), *sizes.items(), *overrides.items()):
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
    if not request.prompt.strip() and request.reference_image and not needs_no_words(request.model):
        raise UserError(
            "A picture alone is not enough: the model follows words, which say what the other sides are of.",
            'Say what the picture shows, for example "a red mug".',
            "prompt",
        )
    if not request.prompt.strip() and not request.reference_image and not needs_no_words(request.model):
        raise UserError("The prompt is empty.", 'Say what to make, for example "a red mug".', "prompt")
    check_text("negative", request.negative)
    if not 0 <= request.seed < 2**31:
        raise UserError(f"seed is {request.seed}, but must lie in 0..{2**31 - 1}.", "Use --seed 0.", "option")
    if not (request.device in ("auto", "cpu", "cuda") or request.device.startswith("cuda:") and request.device[5:].isdigit()):
        raise UserError(f"device is {request.device!r}, but must be auto, cpu, cuda or cuda:N.", "Use --device auto.", "option")
    if request.start_mesh and request.start_from:
        raise UserError("A mesh file and a job to start from were both given, but only one can be.", "Leave one out.", "option")
    if request.stage != "generate" and request.reference_image:
        raise UserError(f"A picture to follow has no effect on the stage {request.stage}.", "Leave it out.", "option")
    config = make_config(request.preset, request.overrides, request.stage, _settings_of(request.model))
    for view, text in config.guidance.own_texts().items():
        check_text(f"guidance.prompt-{view.split()[-1]}", text)
    check_text("guidance.flaws", config.guidance.flaws)
    if request.stage != "generate" and (config.output.field_video_list() or config.output.six_views):
        text = f"output.field-videos and output.six-views show a field, and the stage {request.stage} has none."
        raise UserError(text, "Leave them out; the turntable shows the mesh.", "option")
    if request.stage != "generate" and not (request.start_mesh or request.start_from):
        text = f"The stage {request.stage} needs a mesh to work on."
        raise UserError(text, f"Name a job folder or a mesh file, for example: {request.stage} a-red-mug-0", "mesh")
    if request.reference_image:
        check_further_views(request)
        prepare_references(request, config)
    elif request.reference_depth or request.reference_normal or request.further_views:
        raise UserError("Maps or further pictures were given, but no first picture.", "Give it with --image.", "image")
    return config


def check_further_views(request: JobRequest) -> None:
    """Raise UserError if a number of a further picture is out of range."""
    for view in request.further_views:
        check_range(f"azimuth of {view.image}", view.azimuth_deg, -180, 180)
        check_range(f"elevation of {view.image}", view.elevation_deg, -90, 90)
        check_range(f"weight of {view.image}", view.weight, 0, 1000)


def prepare_references(request: JobRequest, config: JobConfig) -> list[Reference]:
    """The pictures of a request with their maps, ready for training, the first one first. Raises UserError."""
    if not request.reference_image:
        return []
    from engine.scene.reference_view import prepare_reference

    def path(text: str) -> Path | None:
        return Path(text) if text else None

    cut_out_model = path(config.reference.cut_out_model)
    first = (request.reference_image, request.reference_depth, request.reference_normal)
    return [
        prepare_reference(Path(image), path(depth), path(normal), cut_out_model)
        for image, depth, normal in (first, *((view.image, view.depth, view.normal) for view in request.further_views))
    ]


def needs_no_words(model: str) -> bool:
    """Whether a model's prompt is a picture."""
    from engine.guidance.families import FAMILIES
    from engine.guidance.model_table import find_model

    return FAMILIES[find_model(model).kind].needs_picture


def _settings_of(model: str) -> Mapping[str, str]:
    """What a model's family changes against the preset; nothing for a name that is no model's, which is told later."""
    from engine.guidance.families import FAMILIES
    from engine.guidance.model_table import find_model

    try:
        return FAMILIES[find_model(model).kind].settings
    except UserError:
        return {}


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
