"""Pictures from the very denoiser that guides: a look at what a model knows, before minutes are spent on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import JobConfig, check_text
from engine.errors import UserError, check_range
from engine.guidance.denoiser_config import DenoiserConfig, VramLevel
from engine.job_folder import output_errors, slug_of
from engine.jobs import check_model, pick_device
from engine.options import parse_value
from engine.protocol import JobRequest

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 2048


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """What to draw. Values are checked by `draw_samples`.

    Attributes:
        model: id of the model table, or a folder.
        view: a view of `engine.scene.view_weights.VIEWS`, whose words the prompt then has as in a job; "none" leaves it alone.
        guidance_scale: strength of the prompt; None takes 7.5, and 3 for a model with a vocabulary (Toybox), whose colors flood above that.
        height, width: pixels; 0 takes the model's.
        control_net, control_image: folder of a ControlNet, and the picture of depth or normals that it holds the drawing to; "": none.
        control_scale: how strongly. 0..2.
        vram, lora: as in `DenoiserConfig`.
    """

    prompt: str
    negative: str = ""
    model: str = "toybox"
    view: str = "front"
    number: int = 4
    steps: int = 30
    guidance_scale: float | None = None
    height: int = 0
    width: int = 0
    seed: int = 0
    device: str = "auto"
    control_net: str = ""
    control_image: str = ""
    control_scale: float = 1.0
    vram: str = "normal"
    lora: str = ""


def draw_samples(request: SampleRequest, out: Path, warn: Callable[[str], None]) -> list[Path]:
    """Draw and write `out/SLUG-SEED-NN.png`, all from one seed, one after the other. Returns their paths.

    Picture i has the same noise however many there are. Raises UserError.
    """
    from engine.guidance.families import FAMILIES, kind_of
    from engine.guidance.model_table import find_model, model_folder

    config = _checked(request)
    model = find_model(request.model)
    family = FAMILIES[kind_of(model_folder(model))]
    if family.needs_picture or family.views_per_sample > 1:
        text = f"{model.title} draws views of an object that a job shows it, not single pictures of words."
        raise UserError(text, "Choose a text-to-image model, or look at a job with --output.inspect-every.", "model")
    for text in check_model(JobRequest(prompt=request.prompt, model=request.model), JobConfig()):
        warn(text)
    if request.view not in (*model.view_words, "none"):
        text = f"view is {request.view!r}, but must be one of {', '.join(model.view_words)}, none."
        raise UserError(text, "Use --view front.", "option")

    import torch

    from engine.guidance.configured import load_configured
    from engine.guidance.ddim import sample
    from engine.guidance.helpers import helper_folder
    from engine.meshing.export import write_png
    from engine.scene.view_prompts import PromptEmbeds, compose_prompt

    denoiser = load_configured(model_folder(model), pick_device(request.device), config)
    if request.control_net:
        denoiser.use_control_net(helper_folder(request.control_net, "control-net"), request.control_scale)
        denoiser.show_surface(_read_picture(Path(request.control_image).expanduser()))
    cell = denoiser.pixels_per_latent * 2 ** _halvings(denoiser.parts.get("unet"))
    for name in ("height", "width"):
        if getattr(request, name) % cell:
            text = f"{name} is {getattr(request, name)}, but must be a multiple of {cell} with this model."
            raise UserError(text, f"Use --{name} {max(cell, round(getattr(request, name) / cell) * cell)}.", "option")
    words = "" if request.view == "none" else model.view_words[request.view]
    light = "" if request.view == "none" else model.shading_words.get("albedo", "")
    embeds = denoiser.embed([compose_prompt(request.prompt, light, words), request.negative.strip()])
    denoiser.drop_text_encoder()
    prompt = PromptEmbeds(embeds[:1], embeds[1:])
    scale = request.guidance_scale if request.guidance_scale is not None else 7.5 if model.takes_free_prompts else 3.0
    generator = torch.Generator().manual_seed(request.seed)
    paths = []
    for i in range(request.number):
        image = sample(
            denoiser,
            prompt,
            n_steps=request.steps,
            guidance_scale=scale,
            generator=generator,
            height_px=request.height,
            width_px=request.width,
        )[0]
        path = out / f"{slug_of(request.prompt)}-{request.seed}-{i:02d}.png"
        with output_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            write_png(path, image.cpu().numpy())
        paths.append(path)
    return paths


def _checked(request: SampleRequest) -> DenoiserConfig:
    check_text("prompt", request.prompt)
    check_text("negative", request.negative)
    if not request.prompt.strip():
        raise UserError("The prompt is empty.", 'Say what to draw, for example "a red mug".', "prompt")
    check_range("number", request.number, 1, 1000)
    check_range("steps", request.steps, 1, 1000)
    if request.guidance_scale is not None:
        check_range("guidance-scale", request.guidance_scale, 0, 1000)
    check_range("seed", request.seed, 0, 2**31 - 1)
    for name in ("height", "width"):
        check_range(name, getattr(request, name), 0, MAX_PIXELS)
    check_range("control-scale", request.control_scale, 0, 2)
    if bool(request.control_net) != bool(request.control_image):
        text = "A ControlNet and the picture of the surface that it reads go together, and only one of the two is given."
        raise UserError(text, "Give both: --control-net FOLDER --control-image FILE", "option")
    vram = parse_value(request.vram, VramLevel, "vram")
    return DenoiserConfig(vram=vram, lora=request.lora)


def _read_picture(path: Path) -> Tensor:
    """[1, H, W, 3] float32 in [0, 1]."""
    import numpy as np
    import PIL.Image
    import torch

    try:
        with PIL.Image.open(path) as picture:
            return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]
    except OSError as error:
        raise UserError(f"{path} cannot be read as a picture.", "Choose a PNG or JPG of the depth or the normals.", "image") from error


def _halvings(unet: object) -> int:
    """How often a U-Net halves its input: a side must be divisible by 2 to this power."""
    channels = getattr(getattr(unet, "config", None), "block_out_channels", (1,))
    return len(channels) - 1
