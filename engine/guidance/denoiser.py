"""What guidance asks of a diffusion model: encode, add noise, predict the noise, decode.

Stable Diffusion's layout is one implementation (`stable_diffusion.py`), the exact score of known pictures another
(`oracle.py`). Guidance sees neither: it works on this interface.

Shapes: B images, H W pixels, h w latent pixels, C latent channels, T tokens, D embedding dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import UserError
from engine.scene.cameras import Cameras
from engine.scene.view_prompts import PromptEmbeds


class Denoiser(ABC):
    """A frozen diffusion model. Everything crosses this interface as float32, whatever it computes in.

    Args:
        alphas_cumprod: [n] float32, falling from nearly 1; the last may be exactly 0 (zero terminal SNR).
        image_size: pixels along each side of the pictures it knows.
        latent_shape: (C, h, w) of the latents of such a picture.
    """

    views_per_sample = 1
    """How many neighboring views of a batch it sees as one picture: they share a noise level, and a batch is a multiple of it."""
    prediction_type: str = "epsilon"
    """What its network was trained to predict; guidance sees only what `predict` makes of it, training of adapters needs it."""

    def __init__(self, alphas_cumprod: Tensor, image_size: int, latent_shape: tuple[int, int, int]) -> None:
        self.alphas_cumprod = alphas_cumprod.detach().to(dtype=torch.float32)
        self.image_size = image_size
        self.latent_shape = latent_shape

    @staticmethod
    def load(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Denoiser:
        """The model in a folder, of whatever family; see `engine.guidance.families.load_denoiser`, which does the work."""
        from engine.guidance.families import load_denoiser

        return load_denoiser(Path(root), device, dtype)

    @property
    def device(self) -> torch.device:
        return self.alphas_cumprod.device

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def pixels_per_latent(self) -> int:
        """Along each side; 1 for a model of pixels."""
        return self.image_size // self.latent_shape[1]

    def use_tiny_encoder(self, folder: Path, until: float) -> None:
        """Let a tiny encoder stand in for the model's own, up to this part of the run; see `at`. Raises UserError."""
        raise UserError("The model has no encoder that a tiny one could stand in for.", "Leave --model.tiny-vae out.", "option")

    def use_control_net(self, folder: Path, scale: float = 1.0) -> None:
        """Let a ControlNet hold what is drawn to the surface that `show_surface` shows. Raises UserError, code "model"."""
        raise UserError("This family of models takes no ControlNet.", "Choose a Stable Diffusion model, or leave it out.", "model")

    def show_surface(self, pictures: Tensor) -> None:  # noqa: B027 - most implementations do not look
        """Depth or normals of the B views that are judged next, [B, H, W, 3] in [0, 1]; see `engine.guidance.control_net`."""

    def at(self, progress: float) -> None:  # noqa: B027 - most implementations do not care
        """Told before each step how far the run is, 0..1."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks that are loaded now, by their folder in the model's layout: what LoRAs change and memory is saved in."""
        return {}

    @property
    def network(self) -> nn.Module:
        """The U-Net behind `predict`, for adapters. Raises UserError, code "option", where there is none."""
        if "unet" in self.parts:
            return self.parts["unet"]
        raise UserError("This model has no network that guidance.method vsd could train.", "Use --guidance.method sds.", "option")

    @abstractmethod
    def embed(self, prompts: list[str]) -> Tensor:
        """P texts to prompt embeddings [P, T, D] float32, without gradient. Not available after `drop_text_encoder`."""

    def load_text_encoder(self) -> None:  # noqa: B027 - most implementations have it, or never
        """Have the text encoder among `parts` now, so that its weights may be changed; what it says is not kept for other jobs then."""

    def drop_text_encoder(self) -> None:  # noqa: B027 - most implementations have nothing to drop
        """Free what `embed` needs. Idempotent."""

    def condition(self, prompt: PromptEmbeds, cameras: Cameras) -> PromptEmbeds:
        """The prompt of B views with what this model must know of their cameras in it; the same where it needs nothing.

        Whatever it adds is part of the embeddings [B, T, D], so that a guidance may join and repeat rows as it likes.
        """
        return prompt

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Images [B, H, W, 3] float32 in [0, 1] of any size to latents [B, C, h, w] float32. Differentiable."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] to images [B, image_size, image_size, 3] float32 in [0, 1]. Differentiable inside that range."""

    @abstractmethod
    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """What is noise in noisy latents, and what remains without it.

        Both are returned because neither can be had from the other at every level: without noise left (alpha_bar 1) the
        clean part does not tell the noise, at zero SNR (alpha_bar 0) the noise does not tell the clean part.

        Args:
            noisy_latents: [B, C, h, w] float32, sqrt(alpha_bar) z + sqrt(1 - alpha_bar) noise.
            timesteps: [B] int64 in 0..num_train_timesteps - 1.
            embeds: [B, T, D] float32.
        Returns:
            noise (epsilon) and clean latents (x0), [B, C, h, w] float32 each.
        """

    def predict_noise(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> Tensor:
        """Epsilon [B, C, h, w], whatever the model itself was trained to predict. Arguments as in `predict`."""
        return self.predict(noisy_latents, timesteps, embeds)[0]

    def alpha_bar(self, timesteps: Tensor) -> Tensor:
        """alphas_cumprod at timesteps [B] as [B, 1, 1, 1] float32, ready to multiply latents."""
        return self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(alpha_bar) latents + sqrt(1 - alpha_bar) noise, all [B, C, h, w], timesteps [B]. DDPM (2006.11239), eq. 4."""
        alpha_bar = self.alpha_bar(timesteps)
        return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError unless `images` is [B, H, W, 3] float32. Never reads values."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.float32:
            raise ValueError(f"images must be [B, H, W, 3] torch.float32, got {list(images.shape)} {images.dtype}")


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Images [B, H, W, C] to [B, height, width, C], bilinear with antialiasing, differentiable. The same size is returned as it is."""
    if images.shape[1:3] == (height, width):
        return images
    image_nchw = images.permute(0, 3, 1, 2)
    resized = F.interpolate(image_nchw, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized.permute(0, 2, 3, 1)
