"""DeepFloyd IF's first stage from a local folder as a Denoiser: it denoises pixels, not latents, and reads with T5.

Without a VAE nothing stands between a render and its gradient. T5-XXL is far larger than the U-Net (11 GB), so it is loaded for the
prompts alone and freed, and what it said is kept on disk: the next job with these words does not load it at all.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from engine.guidance.loading import dtype_for, loading_errors, weights_of  # isort: skip - before diffusers, see there

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import T5EncoderModel, T5Tokenizer

from engine.errors import UserError
from engine.guidance.denoiser import Denoiser, resize
from engine.guidance.embed_cache import EmbedCache
from engine.guidance.sentence_piece import read_sentence_pieces
from engine.guidance.stable_diffusion import noise_and_clean

logger = logging.getLogger(__name__)
# T5 reads more, but IF was trained on this many.
MAX_TOKENS = 77


class DeepFloyd(Denoiser):
    """IF's U-Net of 64 pixels, frozen. "Latents" are pixels in [-1, 1], channels first."""

    def __init__(self, root: Path, unet: Any, scheduler: Any, *, device: torch.device | str, dtype: torch.dtype) -> None:
        size = int(unet.config.sample_size)
        super().__init__(scheduler.alphas_cumprod.to(device=device), size, (int(unet.config.in_channels), size, size))
        self.prediction_type: str = scheduler.config.prediction_type
        self._root = root
        self._dtype = dtype
        self._unet = unet.to(device=device).eval().requires_grad_(False)
        self._is_dropped = False

    @staticmethod
    def load(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> DeepFloyd:
        """Load the U-Net from a folder in IF's layout (tokenizer, text_encoder, unet, scheduler); the text encoder waits for `embed`.

        Arguments and errors as in `StableDiffusion.load`.
        """
        dtype = dtype_for(device, dtype)
        with loading_errors(root):
            unet = UNet2DConditionModel.from_pretrained(root, subfolder="unet", **weights_of(root / "unet", dtype))
            scheduler = DDIMScheduler.from_pretrained(root, subfolder="scheduler", local_files_only=True)
        return DeepFloyd(root, unet, scheduler, device=device, dtype=dtype)

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"unet": self._unet}

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """T5's last hidden states [P, 77, D] of the prompts in lower case, as IFPipeline.encode_prompt gives them."""
        if self._is_dropped:
            raise ValueError("the text encoder was dropped; embed all prompts before drop_text_encoder()")
        cache = EmbedCache.of(self._root / "text_encoder", self._root / "tokenizer", str(self._dtype))
        return cache.embeds([prompt.lower().strip() for prompt in prompts], self._embed_new).to(device=self.device)

    def _embed_new(self, prompts: list[str]) -> Tensor:
        with loading_errors(self._root):
            tokenizer = self._load_tokenizer()
            encoder: Any = T5EncoderModel.from_pretrained(
                self._root, subfolder="text_encoder", **weights_of(self._root / "text_encoder", self._dtype)
            )
        encoder = encoder.to(device=self.device).eval().requires_grad_(False)
        for prompt in prompts:
            if len(tokenizer(prompt).input_ids) > MAX_TOKENS:
                logger.warning("the model reads %d tokens, so the end of this prompt is not read: %.80s", MAX_TOKENS, prompt)
        tokens = tokenizer(prompts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        mask = tokens.attention_mask.to(device=self.device)
        embeds: Tensor = encoder(tokens.input_ids.to(device=self.device), attention_mask=mask)[0].float()
        del encoder
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return embeds

    def _load_tokenizer(self) -> Any:
        """From tokenizer.json, else from the SentencePiece file, which most copies have. transformers takes an empty folder for a
        tokenizer that knows no word."""
        folder = self._root / "tokenizer"
        if (folder / "tokenizer.json").is_file():
            return T5Tokenizer.from_pretrained(folder, local_files_only=True)
        if not (folder / "spiece.model").is_file():
            text = f"{folder} has neither tokenizer.json nor spiece.model, so no word can be read."
            raise UserError(text, "Fetch the model folder again.", "model")
        words = read_sentence_pieces(folder / "spiece.model")
        return T5Tokenizer(vocab=words.pieces, extra_ids=0, _spm_precompiled_charsmap=words.normalizer or None)

    def drop_text_encoder(self) -> None:
        """`embed` raises ValueError from now on; the encoder itself is freed after each call already."""
        self._is_dropped = True

    def encode(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return 2 * resize(images, self.image_size, self.image_size).permute(0, 3, 1, 2) - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        raw = self._unet(
            noisy_latents.to(dtype=self._dtype), timesteps, encoder_hidden_states=embeds.to(dtype=self._dtype), return_dict=False
        )[0].float()
        # The second half of the channels is the learned variance, which only ancestral sampling asks for.
        return noise_and_clean(raw[:, : self.latent_shape[0]], noisy_latents, self.alpha_bar(timesteps), self.prediction_type)
