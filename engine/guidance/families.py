"""The table of model families: adding one is one file with a Denoiser and one row here.

A family is known by the settings of its U-Net, or of the whole where there is none, so a folder needs no label. No torch here, so that
listing models is quick.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UserError

if TYPE_CHECKING:
    import torch

    from engine.guidance.denoiser import Denoiser

DIFFUSERS_STEM = "diffusion_pytorch_model"
TRANSFORMERS_STEM = "model"


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        title: in an error's sentence, "Stable Diffusion".
        parts: folder of each part ("": the model's own) to how its weight files are called before ".safetensors"; "" for a part
            without weights.
        denoiser: "module:Class", imported when a model of the family is loaded. The class has
            `load(root: Path, device: torch.device | str, dtype: torch.dtype | None) -> Denoiser`; dtype None means its own choice.
        fits: whether a model with these settings (unet/config.json, or config.json) is of this family. The first row that fits is taken.
        needs_picture: whether its prompt is a picture and not words; a job for it must have one.
        views_per_sample: as in `Denoiser`.
        method: the only guidance that it serves, for a model that denoises nothing; "": all the others.
        takes_control_net: whether a ControlNet can hold it to a surface.
        published_code: Python files that lie in the published folder; our own code stands in their place and they are never run.
        settings: what its jobs change against any preset, as a user would type it; the user's own values still win.
    """

    title: str
    parts: Mapping[str, str]
    denoiser: str
    fits: Callable[[Mapping[str, Any]], bool]
    needs_picture: bool = False
    views_per_sample: int = 1
    method: str = ""
    takes_control_net: bool = False
    published_code: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def load(self, root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Denoiser:
        """The model in `root`. Raises UserError, code "model"."""
        module, name = self.denoiser.split(":")
        return getattr(importlib.import_module(module), name).load(root, device, dtype)  # type: ignore[no-any-return]


def _is_stable_diffusion(unet: Mapping[str, Any]) -> bool:
    # "text": the pooled prompt that the U-Net itself takes from the embeddings, as Toybox does.
    is_plain = unet.get("addition_embed_type") in (None, "text") and unet.get("encoder_hid_dim") is None
    return is_plain and unet.get("in_channels") == unet.get("out_channels")


def _is_stable_diffusion_xl(unet: Mapping[str, Any]) -> bool:
    return unet.get("addition_embed_type") == "text_time" and unet.get("in_channels") == unet.get("out_channels")


def _is_deepfloyd(unet: Mapping[str, Any]) -> bool:
    # Its output is the noise and the variance. The stages that enlarge have a class embedding for the noise of the small picture.
    is_pixels = unet.get("in_channels") == 3 and unet.get("out_channels") == 6
    return is_pixels and unet.get("encoder_hid_dim") is not None and unet.get("class_embed_type") is None


def _is_clip(settings: Mapping[str, Any]) -> bool:
    return settings.get("model_type") == "clip"


def _is_mvdream(unet: Mapping[str, Any]) -> bool:
    return unet.get("_class_name") == "MultiViewUNetModel"


def _is_zero123(unet: Mapping[str, Any]) -> bool:
    # A picture's latents stand beside the noisy ones. "text": the token is added to the timestep too, as in Toybox.
    return unet.get("addition_embed_type") in (None, "text") and unet.get("in_channels") == 2 * (unet.get("out_channels") or 0) > 0


def _is_toybox_image(unet: Mapping[str, Any]) -> bool:
    return isinstance(unet.get("base"), str)


# Asked for a view of what a picture shows, a model paints it in the picture's colors: a step without colors would teach it nothing.
NO_CLAY = {"light.textureless_ratio": "0"}

# Kind, as models.toml names it, to its family.
FAMILIES: dict[str, Family] = {
    "clip": Family(
        title="CLIP",
        parts={"": TRANSFORMERS_STEM},
        denoiser="engine.guidance.clip_model:Clip",
        fits=_is_clip,
        method="clip",
    ),
    "mvdream": Family(
        title="MVDream",
        parts={"tokenizer": "", "text_encoder": TRANSFORMERS_STEM, "unet": DIFFUSERS_STEM, "vae": DIFFUSERS_STEM, "scheduler": ""},
        denoiser="engine.guidance.mvdream:MVDream",
        fits=_is_mvdream,
        views_per_sample=4,
        published_code=("unet/mv_unet.py",),
    ),
    "zero123": Family(
        title="Zero123",
        parts={
            "image_encoder": TRANSFORMERS_STEM,
            "feature_extractor": "",
            "clip_camera_projection": DIFFUSERS_STEM,
            "unet": DIFFUSERS_STEM,
            "vae": DIFFUSERS_STEM,
            "scheduler": "",
        },
        denoiser="engine.guidance.zero123:Zero123",
        fits=_is_zero123,
        needs_picture=True,
        published_code=("clip_camera_projection/zero123.py",),
        settings=NO_CLAY,
    ),
    "toybox-image": Family(
        title="Toybox from a picture",
        parts={
            "image_encoder": TRANSFORMERS_STEM,
            "feature_extractor": "",
            "clip_camera_projection": DIFFUSERS_STEM,
            "unet": DIFFUSERS_STEM,
        },
        denoiser="engine.guidance.toybox_image:ToyboxImage",
        fits=_is_toybox_image,
        needs_picture=True,
        settings=NO_CLAY,
    ),
    "stable-diffusion": Family(
        title="Stable Diffusion",
        parts={"tokenizer": "", "text_encoder": TRANSFORMERS_STEM, "unet": DIFFUSERS_STEM, "vae": DIFFUSERS_STEM, "scheduler": ""},
        denoiser="engine.guidance.stable_diffusion:StableDiffusion",
        fits=_is_stable_diffusion,
        takes_control_net=True,
    ),
    "stable-diffusion-xl": Family(
        title="Stable Diffusion XL",
        parts={
            "tokenizer": "",
            "tokenizer_2": "",
            "text_encoder": TRANSFORMERS_STEM,
            "text_encoder_2": TRANSFORMERS_STEM,
            "unet": DIFFUSERS_STEM,
            "vae": DIFFUSERS_STEM,
            "scheduler": "",
        },
        denoiser="engine.guidance.stable_diffusion_xl:StableDiffusionXL",
        fits=_is_stable_diffusion_xl,
        takes_control_net=True,
    ),
    "deepfloyd": Family(
        title="DeepFloyd IF, stage I",
        parts={"tokenizer": "", "text_encoder": TRANSFORMERS_STEM, "unet": DIFFUSERS_STEM, "scheduler": ""},
        denoiser="engine.guidance.deepfloyd:DeepFloyd",
        fits=_is_deepfloyd,
    ),
}


def kind_of(folder: Path) -> str:
    """The family that a folder's settings fit, "stable-diffusion" where they cannot be read. Judges nothing; see `check_family`."""
    try:
        settings = _settings(folder)
    except UserError:
        return "stable-diffusion"
    return next((kind for kind, family in FAMILIES.items() if family.fits(settings)), "stable-diffusion")


def has_parts(folder: Path, parts: Iterable[str]) -> bool:
    """Whether all these parts are in the folder; "" is the folder itself, known by its settings."""
    return all((folder / part).is_dir() if part else (folder / "config.json").is_file() for part in parts)


def check_parts(folder: Path) -> None:
    """Raise UserError, code "model", unless all parts of the folder's family are there."""
    family = FAMILIES[kind_of(folder)]
    missing = [part for part in family.parts if not (folder / part).is_dir()]
    if missing:
        raise UserError(
            f"The model folder {folder} lacks {', '.join(missing)}.",
            f"Choose a folder in the layout of {family.title}: {', '.join(family.parts)}.",
            "model",
        )


def check_family(folder: Path) -> None:
    """Raise UserError, code "model", for a folder that is of no family in the table."""
    settings = _settings(folder)
    if any(family.fits(settings) for family in FAMILIES.values()):
        return
    known = ", ".join(family.title for family in FAMILIES.values())
    n_in, n_out, addition = (settings.get(name) for name in ("in_channels", "out_channels", "addition_embed_type"))
    if (addition is None and n_in != n_out) or settings.get("class_embed_type") == "timestep":
        text = f"The U-Net in {folder} takes {n_in} channels and returns {n_out}, so it is an inpainting or upscaling model."
        raise UserError(text, f"Choose a text-to-image model: {known}.", "model")
    text = f"The model in {folder} is one with the extra input {addition!r}, which this version cannot use."
    raise UserError(text, f"Choose one of these families: {known}.", "model")


def load_denoiser(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Denoiser:
    """The model in a folder, whatever its family. Nothing outside the folder is read.

    Args:
        dtype: what it computes in; None takes float32 on a CPU, half precision elsewhere.
    Raises:
        UserError: code "model", if the folder is no such model, lacks safetensors, or is of no family in the table.
    """
    check_parts(root)
    check_family(root)
    return FAMILIES[kind_of(root)].load(root, device, dtype)


def _settings(folder: Path) -> dict[str, Any]:
    own = folder / "config.json"
    path = own if own.is_file() and not (folder / "unet").is_dir() else folder / "unet" / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read.", "Fetch the model folder again.", "model") from error
    return settings
