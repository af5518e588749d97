"""Stable Diffusion's layout (tokenizer, text_encoder, unet, vae, scheduler) from a local folder as a Denoiser."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.guidance.loading import dtype_for, loading_errors, weights_of  # isort: skip - before diffusers, see there

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from engine.errors import UserError
from engine.guidance.control_net import ControlNet
from engine.guidance.denoiser import Denoiser, resize
from engine.guidance.embed_cache import EmbedCache, is_large

logger = logging.getLogger(__name__)


class StableDiffusion(Denoiser):
    """U-Net, VAE and text encoder of Stable Diffusion 1.x, 2.x or Toybox, frozen.

    Predictions epsilon, v_prediction and sample are all turned into epsilon and x0 here.

    Args:
        text_encoder: None if `read_text_later` follows.
    """

    def __init__(
        self, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any, *, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        self.prediction_type: str = scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, got {self.prediction_type!r}")
        downscale = 2 ** (len(vae.config.block_out_channels) - 1)
        size = int(unet.config.sample_size)
        super().__init__(scheduler.alphas_cumprod.to(device=device), size * downscale, (int(vae.config.latent_channels), size, size))
        self._dtype = dtype
        self._scaling_factor = float(vae.config.scaling_factor)
        self._shift_factor = float(getattr(vae.config, "shift_factor", None) or 0.0)
        # The parts come in `dtype` already: diffusers warns, at length, when told to cast again.
        self._unet = unet.to(device=device).eval().requires_grad_(False)
        # Channels last: Toybox's VAE decodes a sixth faster on a CPU. Its U-Net gains nothing, so that stays as it is.
        self._vae = vae.to(device=device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._text_encoder = frozen(text_encoder, device)
        self._load_text: Callable[[], tuple[Any, ...]] | None = None
        self._embed_cache: EmbedCache | None = None
        self._tokenizer = tokenizer
        self.control_net: ControlNet | None = None
        self._tiny_vae: Any = None
        self._tiny_until = self._progress = 0.0

    @staticmethod
    def load(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> StableDiffusion:
        """Load from a folder with the five parts of Stable Diffusion's layout.

        Args:
            root: the folder. Nothing outside it is read.
            device: where it will run.
            dtype: what U-Net and VAE compute in; None takes float32 on a CPU, float16 elsewhere. A job asks `precision.job_dtype`.
                On a CPU the text encoder stays float32: it runs once, and its rounding would pull all steps the same way.
        Raises:
            UserError: code "model", if the folder lacks safetensors or holds what is no such model.
        """
        dtype = dtype_for(device, dtype)
        text_dtype = torch.float32 if torch.device(device).type == "cpu" else dtype
        with loading_errors(root):
            unet = UNet2DConditionModel.from_pretrained(root, subfolder="unet", **weights_of(root / "unet", dtype))
            vae = AutoencoderKL.from_pretrained(root, subfolder="vae", **weights_of(root / "vae", dtype))
            tokenizer = CLIPTokenizer.from_pretrained(root, subfolder="tokenizer", local_files_only=True)
            scheduler = DDIMScheduler.from_pretrained(root, subfolder="scheduler", local_files_only=True)
        model = StableDiffusion(unet, vae, None, tokenizer, scheduler, device=device, dtype=dtype)
        model.read_text_later(root, {"text_encoder": CLIPTextModel}, text_dtype)
        return model

    def read_text_later(self, root: Path, encoders: Mapping[str, Any], dtype: torch.dtype) -> None:
        """Load the text encoders when a prompt comes that was not read before, at once if they are small.

        Args:
            encoders: folder of each to its class.
        Raises: UserError, code "model", now or with the first prompt.
        """

        def load() -> tuple[Any, ...]:
            with loading_errors(root):
                return tuple(cls.from_pretrained(root, subfolder=name, **weights_of(root / name, dtype)) for name, cls in encoders.items())

        self._load_text = load
        folders = [root / name for name in encoders]
        if is_large(*folders):
            tokenizers = [root / name.replace("text_encoder", "tokenizer") for name in encoders]
            self._embed_cache = EmbedCache.of(*folders, *tokenizers, f"{type(self).__name__} {dtype} {self._text_settings()}")
        else:
            self._need_text()

    def _text_settings(self) -> str:
        """What of the model, beside encoders and tokenizers, changes the embeddings."""
        return ""

    def _need_text(self) -> None:
        if self._load_text is not None:
            self._take_text(*self._load_text())
            self._load_text = None
        if self._text_encoder is None:
            raise ValueError("the text encoder was dropped; embed all prompts before drop_text_encoder()")

    def _take_text(self, text_encoder: Any) -> None:
        self._text_encoder = frozen(text_encoder, self.device)

    def load_text_encoder(self) -> None:
        self._embed_cache = None
        self._need_text()

    @property
    def parts(self) -> dict[str, nn.Module]:
        control_net = self.control_net.net if self.control_net is not None else None
        found = {"unet": self._unet, "vae": self._vae, "text_encoder": self._text_encoder, "control_net": control_net}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def max_tokens(self) -> int:
        """How many tokens of a prompt the text encoder reads, the two markers included."""
        return min(int(self._tokenizer.model_max_length), int(self._text_encoder_config.max_position_embeddings))

    def n_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, the two markers included; what exceeds `max_tokens` is not read."""
        return len(self._tokenizer(prompt).input_ids)

    @property
    def _text_encoder_config(self) -> Any:
        self._need_text()
        config = self._text_encoder.config
        return getattr(config, "text_config", config)

    def embed(self, prompts: list[str]) -> Tensor:
        """[P, T, D], see `_embed_new`; what a large encoder said before is looked up."""
        if self._embed_cache is None:
            return self._embed_new(prompts)
        if self._load_text is None:
            self._need_text()  # dropped, unless it is here
        return self._embed_cache.embeds(prompts, self._embed_new).to(device=self.device)

    @torch.no_grad()
    def _embed_new(self, prompts: list[str]) -> Tensor:
        """The text encoder's last hidden states [P, T, D], padded and cut to `max_tokens` as StableDiffusionPipeline does."""
        max_tokens = self.max_tokens
        for prompt in prompts:
            if self.n_tokens(prompt) > max_tokens:
                logger.warning("the model reads %d tokens, so the end of this prompt is not read: %.80s", max_tokens, prompt)
        tokens = self._tokenizer(prompts, padding="max_length", max_length=max_tokens, truncation=True, return_tensors="pt")
        mask = None
        if getattr(self._text_encoder_config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(device=self.device)
        return self._text_encoder(tokens.input_ids.to(device=self.device), attention_mask=mask)[0].float()

    def drop_text_encoder(self) -> None:
        """Free the text encoder's memory; `embed` raises ValueError from now on."""
        self._text_encoder = self._load_text = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def encode(self, images: Tensor) -> Tensor:
        """Resized to `image_size`, then the mode of the VAE's posterior times its scaling factor.

        The mode and not a draw: a draw would add noise to a gradient that already has enough.
        """
        self.check_images(images)
        image_nchw = resize(images, self.image_size, self.image_size).permute(0, 3, 1, 2)
        if self._tiny_vae is not None and self._progress < self._tiny_until:
            return self._tiny_vae.encode((2 * image_nchw - 1).to(dtype=self._tiny_vae.dtype)).latents.float()  # scaled already
        mode = self._vae.encode((2 * image_nchw - 1).to(dtype=self._vae.dtype)).latent_dist.mode()
        return (mode.float() - self._shift_factor) * self._scaling_factor

    def use_tiny_encoder(self, folder: Path, until: float) -> None:
        """An AutoencoderTiny (TAESD) that was distilled from this model's VAE: far less work, nearly the same latents.

        Raises: UserError, code "model", if the folder holds none, or one with other latents.
        """
        with loading_errors(folder):
            tiny = AutoencoderTiny.from_pretrained(folder, **weights_of(folder, self._dtype))
        tiny = tiny.to(device=self.device).eval().requires_grad_(False)
        picture = torch.zeros(1, 3, self.image_size, self.image_size, device=self.device, dtype=tiny.dtype)
        with torch.no_grad():
            made = tuple(tiny.encode(picture).latents.shape[1:])
        if made != self.latent_shape:
            text = f"The tiny encoder in {folder} makes latents of shape {list(made)}, and the model's are {list(self.latent_shape)}."
            raise UserError(text, "Choose the one that was made for this model.", "model")
        self._tiny_vae = tiny
        self._tiny_until = until

    def use_control_net(self, folder: Path, scale: float = 1.0) -> None:
        self.control_net = ControlNet.load(folder, self._unet, scale, self.pixels_per_latent, self.device)

    def show_surface(self, pictures: Tensor) -> None:
        if self.control_net is not None:
            self.control_net.show(pictures)

    def at(self, progress: float) -> None:
        self._progress = progress
        if progress >= self._tiny_until:
            self._tiny_vae = None  # not wanted again: a run only goes on

    def decode(self, latents: Tensor) -> Tensor:
        image_nchw = self._vae.decode((latents / self._scaling_factor + self._shift_factor).to(dtype=self._vae.dtype)).sample
        return (image_nchw.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        raw = self._run_unet(noisy_latents, timesteps, {"encoder_hidden_states": embeds.to(dtype=self._dtype)})
        return noise_and_clean(raw, noisy_latents, self.alpha_bar(timesteps), self.prediction_type)

    def _run_unet(self, noisy_latents: Tensor, timesteps: Tensor, inputs: dict[str, Any]) -> Tensor:
        """The U-Net's raw output [B, C, h, w] float32, with a ControlNet's part in it if there is one."""
        noisy = noisy_latents.to(dtype=self._dtype)
        if self.control_net is not None:
            inputs = inputs | self.control_net.residuals(noisy, timesteps, inputs)
        raw: Tensor = self._unet(noisy, timesteps, return_dict=False, **inputs)[0]
        return raw.float()


def frozen(part: Any, device: torch.device | str) -> Any:
    """A module, or None, on `device` and without gradients."""
    return None if part is None else part.to(device=device).eval().requires_grad_(False)


def noise_and_clean(raw: Tensor, noisy: Tensor, alpha_bar: Tensor, prediction_type: str) -> tuple[Tensor, Tensor]:
    """A U-Net's raw output as (epsilon, x0), with a = sqrt(alpha_bar), s = sqrt(1 - alpha_bar), noisy = a x0 + s epsilon.

    epsilon: x0 = (noisy - s raw) / a.  sample: epsilon = (noisy - a raw) / s.
    v_prediction: epsilon = a raw + s noisy, x0 = a noisy - s raw (2202.00512, appendix D), exact at every noise level.

    Args:
        raw, noisy: [B, C, h, w].
        alpha_bar: [B, 1, 1, 1] in [0, 1]; above 0 for epsilon and below 1 for sample, or the quotient is not finite.
    """
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction_type == "epsilon":
        return raw, (noisy - s * raw) / a
    if prediction_type == "v_prediction":
        return a * raw + s * noisy, a * noisy - s * raw
    if prediction_type == "sample":
        return (noisy - a * raw) / s, raw
    raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, got {prediction_type!r}")
