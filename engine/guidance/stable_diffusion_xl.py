"""Stable Diffusion XL (2307.01952) from a local folder as a Denoiser: two text encoders, and a U-Net that is told the picture's size."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from engine.guidance.loading import dtype_for, loading_errors, weights_of  # isort: skip - before diffusers, see there

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engine.errors import UserError
from engine.guidance.stable_diffusion import StableDiffusion, frozen, noise_and_clean

logger = logging.getLogger(__name__)
# Height and width of the picture before it was cropped, the crop's top left corner, the wanted height and width.
N_TIME_IDS = 6


class StableDiffusionXL(StableDiffusion):
    """U-Net, VAE and both text encoders, frozen.

    Embeddings are packed, so that guidances and view prompts join, repeat and blend rows as they do for every model: [P, T + 1, D],
    the T tokens of both encoders side by side, then a row whose first numbers are the second encoder's pooled embedding.
    """

    def __init__(
        self,
        unet: Any,
        vae: Any,
        text_encoders: tuple[Any, Any] | tuple[None, None],
        tokenizers: tuple[Any, Any],
        scheduler: Any,
        *,
        zeros_for_empty: bool,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(unet, vae, text_encoders[0], tokenizers[0], scheduler, device=device, dtype=dtype)
        self._text_encoder_2 = frozen(text_encoders[1], device)
        self._tokenizer_2 = tokenizers[1]
        self._zeros_for_empty = zeros_for_empty
        self._n_pooled = int(unet.config.projection_class_embeddings_input_dim) - N_TIME_IDS * int(unet.config.addition_time_embed_dim)

    @staticmethod
    def load(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> StableDiffusionXL:
        """Load from a folder in SDXL's layout. Arguments and errors as in `StableDiffusion.load`.

        SDXL's own VAE overflows in float16 and says so in its settings (`force_upcast`): it then computes in float32. The repaired
        one (sdxl-vae-fp16-fix) in the folder's `vae` does not, and halves what the encoder needs.
        """
        dtype = dtype_for(device, dtype)
        with loading_errors(root):
            unet = UNet2DConditionModel.from_pretrained(root, subfolder="unet", **weights_of(root / "unet", dtype))
            settings = AutoencoderKL.load_config(root, subfolder="vae", local_files_only=True)
            vae_dtype = torch.float32 if dtype == torch.float16 and settings.get("force_upcast", True) else dtype
            vae = AutoencoderKL.from_pretrained(root, subfolder="vae", **weights_of(root / "vae", vae_dtype))
            tokenizers = [
                CLIPTokenizer.from_pretrained(root, subfolder=name, local_files_only=True) for name in ("tokenizer", "tokenizer_2")
            ]
            scheduler = DDIMScheduler.from_pretrained(root, subfolder="scheduler", local_files_only=True)
        model = StableDiffusionXL(
            unet,
            vae,
            (None, None),
            (tokenizers[0], tokenizers[1]),
            scheduler,
            zeros_for_empty=_zeros_for_empty(root),
            device=device,
            dtype=dtype,
        )
        if not 0 < model._n_pooled <= int(unet.config.cross_attention_dim):
            text = f"The U-Net in {root} takes a pooled text of {model._n_pooled} numbers, which no known text encoder of SDXL gives."
            raise UserError(text, "Choose SDXL's base model, or a fine-tuned one; its refiner cannot guide.", "model")
        model.read_text_later(root, {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}, dtype)
        return model

    def _text_settings(self) -> str:
        return f"zeros for empty {self._zeros_for_empty}"

    def _take_text(self, text_encoder: Any, text_encoder_2: Any = None) -> None:
        super()._take_text(text_encoder)
        self._text_encoder_2 = frozen(text_encoder_2, self.device)

    @property
    def parts(self) -> dict[str, nn.Module]:
        second = {} if self._text_encoder_2 is None else {"text_encoder_2": self._text_encoder_2}
        return super().parts | second

    @torch.no_grad()
    def _embed_new(self, prompts: list[str]) -> Tensor:
        """[P, T + 1, D]: the layer before the last of both encoders, then the pooled row. A model that was trained so gets zeros for "".

        As StableDiffusionXLPipeline does, with the same text for both encoders.
        """
        self._need_text()
        first, _ = self._encode_text(self._tokenizer, self._text_encoder, prompts)
        second, pooled = self._encode_text(self._tokenizer_2, self._text_encoder_2, prompts)
        tokens = torch.cat([first, second], dim=-1)  # [P, T, D]
        packed = torch.cat([tokens, F.pad(pooled, (0, tokens.shape[-1] - pooled.shape[-1]))[:, None]], dim=1)
        if self._zeros_for_empty:
            is_empty = torch.tensor([not prompt.strip() for prompt in prompts], device=packed.device)
            packed = packed.masked_fill(is_empty[:, None, None], 0.0)
        return packed

    def _encode_text(self, tokenizer: Any, text_encoder: Any, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states [P, T, D'] of the layer before the last, and the first output, which is the pooled text [P, D''] of an
        encoder with a projection."""
        max_tokens = min(int(tokenizer.model_max_length), int(text_encoder.config.max_position_embeddings))
        for prompt in prompts:
            if tokenizer is self._tokenizer and len(tokenizer(prompt).input_ids) > max_tokens:
                logger.warning("the model reads %d tokens, so the end of this prompt is not read: %.80s", max_tokens, prompt)
        tokens = tokenizer(prompts, padding="max_length", max_length=max_tokens, truncation=True, return_tensors="pt")
        found = text_encoder(tokens.input_ids.to(device=self.device), output_hidden_states=True)
        return found.hidden_states[-2].float(), found[0].float()

    def drop_text_encoder(self) -> None:
        self._text_encoder_2 = None
        super().drop_text_encoder()

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        n, _, h, w = noisy_latents.shape
        height, width = h * self.pixels_per_latent, w * self.pixels_per_latent
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=self._dtype).expand(n, -1)
        packed = embeds.to(dtype=self._dtype)
        added = {"text_embeds": packed[:, -1, : self._n_pooled], "time_ids": time_ids}
        raw = self._run_unet(noisy_latents, timesteps, {"encoder_hidden_states": packed[:, :-1], "added_cond_kwargs": added})
        return noise_and_clean(raw, noisy_latents, self.alpha_bar(timesteps), self.prediction_type)


def _zeros_for_empty(root: Path) -> bool:
    """Whether the model was trained with zeros in the place of an empty text; SDXL was, and says so in model_index.json."""
    try:
        return bool(json.loads((root / "model_index.json").read_text(encoding="utf-8")).get("force_zeros_for_empty_prompt", True))
    except (OSError, ValueError, AttributeError):
        return True
