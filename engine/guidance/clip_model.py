"""CLIP (2103.00020): how well a picture fits a text. It denoises nothing; `engine.guidance.clip` pulls with the fit alone.

A folder is transformers' layout, as published: config.json, model.safetensors, preprocessor_config.json and the tokenizer's files.

Shapes: P texts, B pictures, D dimension of the embeddings that texts and pictures share.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NoReturn

from engine.guidance.loading import dtype_for, loading_errors, weights_of  # isort: skip - before transformers, see there

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer

from engine.errors import UserError
from engine.guidance.clip_pixels import ClipPixels
from engine.guidance.denoiser import Denoiser

logger = logging.getLogger(__name__)


class Clip(Denoiser):
    """A frozen CLIP in a denoiser's place: it embeds texts and encodes pictures, into one space.

    It knows clean pictures only, so it has one noise level, without noise. "Latents" are a picture's embedding [B, D, 1, 1].
    """

    def __init__(self, model: Any, tokenizer: Any, pixels: ClipPixels, *, device: torch.device | str) -> None:
        super().__init__(torch.ones(1, device=device), pixels.size, (int(model.config.projection_dim), 1, 1))
        model = model.to(device=device).eval().requires_grad_(False)
        self._vision, self._visual_projection = model.vision_model, model.visual_projection
        self._text: Any = model.text_model
        self._text_projection = model.text_projection
        self._tokenizer = tokenizer
        self._max_tokens = int(model.config.text_config.max_position_embeddings)
        self._pixels = pixels

    @staticmethod
    def load(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Clip:
        """Load from a folder; safetensors only, nothing outside it is read.

        Raises: UserError, code "model", if a file is missing, damaged or of another size.
        """
        dtype = dtype_for(device, dtype)
        with loading_errors(root):
            model: Any = CLIPModel.from_pretrained(root, **weights_of(root, dtype))
            tokenizer = CLIPTokenizer.from_pretrained(root, local_files_only=True)
            pixels = ClipPixels.load(root / "preprocessor_config.json")
            if pixels.size != model.config.vision_config.image_size:
                raise ValueError(f"its pictures have {pixels.size} pixels, but its network takes {model.config.vision_config.image_size}")
        return Clip(model, tokenizer, pixels, device=device)

    @property
    def parts(self) -> dict[str, nn.Module]:
        found = {"vision_model": self._vision, "text_model": self._text}
        return {name: part for name, part in found.items() if part is not None}

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        """Texts as unit vectors [P, 1, D]."""
        if self._text is None:
            raise ValueError("the text encoder was dropped; embed all prompts before drop_text_encoder()")
        for prompt in prompts:
            if len(self._tokenizer(prompt).input_ids) > self._max_tokens:
                logger.warning("the model reads %d tokens, so the end of this prompt is not read: %.80s", self._max_tokens, prompt)
        tokens = self._tokenizer(prompts, padding="max_length", max_length=self._max_tokens, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.device)
        pooled = self._text(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return normalize(_widened(self._text_projection(pooled)), dim=-1)[:, None]

    def drop_text_encoder(self) -> None:
        """Free the text encoder's memory; `embed` raises ValueError from now on."""
        self._text = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def encode(self, images: Tensor) -> Tensor:
        """Square pictures [B, S, S, 3] in [0, 1] as unit vectors [B, D, 1, 1]. Differentiable."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.shape[1] != images.shape[2]:
            raise ValueError(f"images must be [B, S, S, 3], got {list(images.shape)}")
        pooled = self._vision(pixel_values=self._pixels(images).to(dtype=self._visual_projection.weight.dtype)).pooler_output
        return normalize(_widened(self._visual_projection(pooled)), dim=-1)[..., None, None]

    def decode(self, latents: Tensor) -> Tensor:
        _refuse()

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        _refuse()


def _widened(values: Tensor) -> Tensor:
    """At least float32: a unit vector in half precision is off by a thousandth."""
    return values.to(dtype=torch.promote_types(values.dtype, torch.float32))


def _refuse() -> NoReturn:
    raise UserError("CLIP compares pictures with words and denoises nothing.", "Use --guidance.method clip, or another --model.", "option")
