"""How the diffusion model's opinion becomes a gradient: the settings. No torch here, so that `--help` is quick."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from engine.errors import UserError, check_range
from engine.schedule import Scheduled, check_scheduled

_SCORES = frozenset({"guidance_scale", "timestep_weight", "grad_clip", "rms_limit", "rms"})
_TARGET = _SCORES | {"rescale", "n_ddim_steps", "space"}
# What each method reads, beside what holds for all. A test compares this with the methods' own fields.
METHOD_SETTINGS: dict[str, frozenset[str]] = {
    "image-target": _TARGET,
    "sds": _SCORES,
    "csd": _SCORES | {"negative_scale"},
    "nfsd": _SCORES,
    "sds-bridge": _SCORES | {"bridge"},
    "ism": _SCORES | {"inversion_gap", "n_inversion_steps"},
    "sdi": _TARGET | {"inversion_scale", "inversion_eta", "n_inversion_steps"},
    "vsd": _SCORES,
    "clip": frozenset({"guidance_scale", "negative_scale", "n_crops"}),
}
# Settings that only some methods read, though they are no fields of theirs.
_DENOISING = [method for method in METHOD_SETTINGS if method != "clip"]
_READ_FOR: dict[str, list[str]] = {
    "flaws": ["sds-bridge"],
    "lora_rank": ["vsd"],
    "lora_rate": ["vsd"],
    "perp_neg": _DENOISING,
    "view_contrast": _DENOISING,
    "annealing": _DENOISING,
}
# What is on for the methods that read it; to switch it off says nothing wrong with any.
_ON_BY_DEFAULT = ("view_contrast",)
# Words of timestep_weight that each kind of method knows.
_EPSILON_WEIGHTS = ("auto", "sigma", "uniform", "x0")
_TARGET_WEIGHTS = ("auto", "uniform", "sds")
# What renders of each method look like when it goes wrong, in its authors' words: the negative prompt where the user gives none
# and the model takes free prompts. Toybox knows none of these words.
DEFAULT_NEGATIVES: dict[str, str] = {
    "csd": "oversaturated color, ugly, tiling, low quality, noisy",
    "nfsd": "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceConfig:
    """How the diffusion model's opinion becomes a gradient."""

    method: Literal["image-target", "sds", "csd", "nfsd", "sds-bridge", "ism", "sdi", "vsd", "clip"] = "image-target"
    """Row of the guidance table: the model's own picture as the render's target, a sum of its scores, or the fit of picture and
    prompt that CLIP sees; see docs/guidance.md."""
    guidance_scale: Scheduled = 0.0
    """Strength s of the prompt in eps_uncond + s (eps_text - eps_uncond); 0 takes the method's own (image-target 4, sds and
    sds-bridge 100, csd 1, nfsd, ism, sdi and vsd 7.5, clip 1000). 0..1000, may be scheduled."""
    weight: float = 1.0
    """Multiplies the guidance loss. 0..1e6."""
    timestep_weight: Literal["auto", "sigma", "uniform", "x0", "sds"] = "auto"
    """How noise levels are weighted: the method's own way; uniform or sds for image-target and sdi; for the others sigma,
    uniform or x0."""
    rescale: float = 0.5
    """How far the guided picture's extra contrast is taken back; image-target and sdi. 0..1."""
    n_ddim_steps: Scheduled = 1.0
    """Denoising steps from the noisy render to the target, each costs a call of the model; one gives a blurred target where there is
    much noise, in which thin parts drown. image-target and sdi. 1..50, may be scheduled."""
    space: Literal["image", "latent"] = "image"
    """Whether pixels or latents are pulled; image-target and sdi."""
    negative_scale: Scheduled = (0.0, 0.0, 0.5, 1.0)
    """Strength of the negative prompt, against the empty one with csd, against the prompt with clip. 0..1000, may be scheduled."""
    n_crops: int = 4
    """Random crops of each view that CLIP looks at; clip, and beside every method with guidance.clip-model. 1..64."""
    clip_model: str = ""
    """Id or folder of a CLIP model that judges the renders beside the method; empty: none."""
    clip_weight: Scheduled = 10.0
    """Multiplies 1 - the cosine of picture and prompt that this CLIP sees. 0..1000, may be scheduled."""
    bridge: Scheduled = (0.0, 0.0, 0.5, 0.0, 0.5, 1.0)
    """How much of the direction comes from the prompt with flaws, the rest is sds; sds-bridge. 0..1, may be scheduled."""
    flaws: str = "oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
    """What renders look like before they are good, in words put after the prompt; sds-bridge."""
    n_inversion_steps: int = 0
    """Steps from the render to its noise, each costs a call of the model; 0 takes the method's own (ism 5, sdi 10). 0..50."""
    inversion_gap: float = 0.08
    """Length of the interval at whose ends scores are compared, as a fraction of the model's steps; ism. 0.001..1."""
    inversion_scale: float = -7.5
    """Strength of the prompt on the way from the render to its noise; sdi. -1000..1000."""
    inversion_eta: float = 0.3
    """Fresh noise in each inversion step, as a share of what the model's own steps have; sdi. 0..1."""
    lora_rank: int = 4
    """Rank of the adapters that learn what the renders look like; vsd. 1..256."""
    lora_rate: float = 1e-4
    """Learning rate of these adapters; vsd. 1e-6..1."""
    perp_neg: Scheduled = 0.0
    """How strictly a view is kept away from the words of the front and side views, against faces on all sides (Perp-Neg); 0 is
    off, 1 usual, costs two more pictures a view. 0..10, may be scheduled."""
    view_contrast: Scheduled = (0, 2, 0.4, 2, 0.6, 0)
    """How far a view's words are pushed away from those of the opposite side, so that front and back, left and right are told
    apart while the shape forms; 0 is off, costs nothing. 0..10, may be scheduled."""
    grad_clip: Scheduled = 0.0
    """Values of the gradient are kept within plus and minus this; 0 is off. 0..1000, may be scheduled."""
    rms_limit: Literal["off", "clip", "normalize"] = "off"
    """Whether a view's gradient is scaled down to, or always scaled to, a root mean square of guidance.rms."""
    rms: float = 1.0
    """Root mean square for guidance.rms-limit. 1e-4..1000."""
    image_grad_clip: float = 0.0
    """Values of the gradient that reaches the rendered picture are kept within plus and minus this; 0 is off. 0..1000."""
    t_low: Scheduled = (0.0, 0.2, 0.7, 0.02)
    """Lowest noise level to draw, as a fraction of the model's steps. 0..1, may be scheduled."""
    t_high: Scheduled = (0.0, 0.98, 1.0, 0.4)
    """Highest noise level to draw, as a fraction of the model's steps. 0..1, may be scheduled."""
    annealing: Literal["uniform", "linear", "sqrt", "dreamtime"] = "uniform"
    """How noise levels are drawn: anywhere between t-low and t-high, or falling with the run: evenly, fast at first (HiFA), or
    slowest where the model decides most (DreamTime)."""
    view_prompts: Literal["interpolated", "named", "off"] = "interpolated"
    """How a camera gets its words: blended between the named views, the nearest view's, or none."""
    prompt_front: str = ""
    """What is seen from the front, in the place of the prompt; empty takes the prompt and the view's words."""
    prompt_side: str = ""
    """What is seen from both sides, in the place of the prompt."""
    prompt_back: str = ""
    """What is seen from the back, in the place of the prompt."""
    prompt_overhead: str = ""
    """What is seen from above, in the place of the prompt."""
    prompt_bottom: str = ""
    """What is seen from below, in the place of the prompt."""

    def __post_init__(self) -> None:
        check_scheduled("guidance.guidance-scale", self.guidance_scale, 0, 1000)
        check_range("guidance.weight", self.weight, 0, 1e6)
        check_range("guidance.rescale", self.rescale, 0, 1)
        check_scheduled("guidance.n-ddim-steps", self.n_ddim_steps, 1, 50)
        check_scheduled("guidance.negative-scale", self.negative_scale, 0, 1000)
        check_range("guidance.n-crops", self.n_crops, 1, 64)
        check_scheduled("guidance.clip-weight", self.clip_weight, 0, 1000)
        check_scheduled("guidance.bridge", self.bridge, 0, 1)
        check_range("guidance.n-inversion-steps", self.n_inversion_steps, 0, 50)
        check_range("guidance.inversion-gap", self.inversion_gap, 0.001, 1)
        check_range("guidance.inversion-scale", self.inversion_scale, -1000, 1000)
        check_range("guidance.inversion-eta", self.inversion_eta, 0, 1)
        check_range("guidance.lora-rank", self.lora_rank, 1, 256)
        check_range("guidance.lora-rate", self.lora_rate, 1e-6, 1)
        check_scheduled("guidance.perp-neg", self.perp_neg, 0, 10)
        check_scheduled("guidance.view-contrast", self.view_contrast, 0, 10)
        check_scheduled("guidance.grad-clip", self.grad_clip, 0, 1000)
        check_range("guidance.rms", self.rms, 1e-4, 1000)
        check_range("guidance.image-grad-clip", self.image_grad_clip, 0, 1000)
        check_scheduled("guidance.t-low", self.t_low, 0, 1)
        check_scheduled("guidance.t-high", self.t_high, 0, 1)
        self._check_method()
        self._check_views()

    def own_texts(self) -> dict[str, str]:
        """View of `engine.scene.view_weights.VIEWS` to the text in the place of the prompt; only those that were given."""
        texts = {
            "front": self.prompt_front,
            "left side": self.prompt_side,
            "right side": self.prompt_side,
            "back": self.prompt_back,
            "overhead": self.prompt_overhead,
            "bottom": self.prompt_bottom,
        }
        return {view: text.strip() for view, text in texts.items() if text.strip()}

    def _check_method(self) -> None:
        known = _TARGET_WEIGHTS if "space" in METHOD_SETTINGS[self.method] else _EPSILON_WEIGHTS
        if self.timestep_weight not in known:
            raise UserError(
                f"guidance.timestep-weight is {self.timestep_weight}, which guidance.method {self.method} does not know.",
                f"Use one of {', '.join(known)}.",
                "option",
            )
        for item in dataclasses.fields(self):
            if item.name == "n_crops" and self.clip_model:
                continue
            users = _READ_FOR.get(item.name) or [method for method, names in METHOD_SETTINGS.items() if item.name in names]
            value = getattr(self, item.name)
            if users and self.method not in users and value != item.default and not (value == 0 and item.name in _ON_BY_DEFAULT):
                raise UserError(
                    f"guidance.{item.name.replace('_', '-')} has no effect with guidance.method {self.method}.",
                    f"Leave it out, or use --guidance.method {users[0]}.",
                    "option",
                )
        self._check_clip()
        if self.method == "sds-bridge" and not self.flaws.strip():
            raise UserError(
                "guidance.flaws is empty, but guidance.method sds-bridge compares the prompt with the prompt and its flaws.",
                "Leave --guidance.flaws out, or use --guidance.method sds.",
                "option",
            )

    def _check_clip(self) -> None:
        if self.clip_model and self.method == "clip":
            text = "guidance.clip-model puts CLIP beside another method, but guidance.method is clip already."
            raise UserError(text, "Leave --guidance.clip-model out.", "option")
        if not self.clip_model and self.clip_weight != 10.0:
            text = "guidance.clip-weight has no effect without guidance.clip-model."
            raise UserError(text, "Use --guidance.clip-model clip-vit-l14, or leave it out.", "option")

    def _check_views(self) -> None:
        if self.view_prompts != "off":
            return
        if self.perp_neg != 0 or self.own_texts():
            name = "perp-neg" if self.perp_neg != 0 else next(f"prompt-{view.split()[-1]}" for view in self.own_texts())
            raise UserError(
                f"guidance.{name} needs view prompts, but guidance.view-prompts is off.",
                "Leave --guidance.view-prompts out.",
                "option",
            )
