"""A tiny random model in Stable Diffusion's layout, for tests that need the real classes but no real weights.

    from tests.tiny_sd import build_tiny_sd
    root = build_tiny_sd(tmp_path / "model")
    denoiser = Denoiser.load(root, "cpu")

About 0.5 MB, built in well under a second, the same weights for the same seed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
LETTERS = "abcdefghijklmnopqrstuvwxyz,-'0123456789"


def tiny_tokenizer(max_tokens: int = 24) -> CLIPTokenizer:
    """Letters, and the merges of a few words; enough to tell prompts apart."""
    merges = [("r", "e"), ("re", "d</w>"), ("m", "u"), ("mu", "g</w>"), ("v", "i"), ("vi", "e"), ("vie", "w</w>")]
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *("".join(pair) for pair in merges), BOS, EOS]
    vocabulary = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_tokens, pad_token=EOS)


def tiny_vae(image_size: int, latent_channels: int, scaling_factor: float) -> AutoencoderKL:
    """Random, latents a quarter as wide as the picture."""
    return AutoencoderKL(
        sample_size=image_size,
        latent_channels=latent_channels,
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
    )


def build_tiny_sd(
    root: Path,
    *,
    prediction_type: str = "epsilon",
    addition_embed_type: str | None = None,
    zero_snr: bool = False,
    scaling_factor: float = 0.7,
    latent_channels: int = 4,
    image_size: int = 32,
    max_tokens: int = 24,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    seed: int = 0,
) -> Path:
    """Write tokenizer, text_encoder, unet, vae and scheduler under `root` as diffusers would, safetensors only.

    Args:
        image_size: pixels; latents are a quarter of it.
        dtype: of the saved weights.
        variant: "fp16" writes *.fp16.safetensors.
    Returns: root.
    """
    tokenizer = tiny_tokenizer(max_tokens)
    with torch.random.fork_rng():  # the constructors draw from the global generator; leave it as it was
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=image_size // 4,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=16,
            norm_num_groups=8,
            addition_embed_type=addition_embed_type,
            addition_embed_type_num_heads=2,
        )
        vae = tiny_vae(image_size, latent_channels, scaling_factor)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                projection_dim=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=max_tokens,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
        steps_offset=1,  # without effect on trailing spacing; StableDiffusionPipeline warns about 0
        timestep_spacing="trailing",
    )
    for part, name in ((unet, "unet"), (vae, "vae"), (text_encoder, "text_encoder")):
        extra = {"variant": variant} if variant and name != "text_encoder" else {}
        part.to(dtype=dtype).save_pretrained(root / name, safe_serialization=True, **extra)
    tokenizer.save_pretrained(root / "tokenizer")
    scheduler.save_pretrained(root / "scheduler")
    (root / "model_index.json").write_text(MODEL_INDEX, encoding="utf-8")
    return root


MODEL_INDEX = """{
  "_class_name": "StableDiffusionPipeline",
  "feature_extractor": [null, null],
  "image_encoder": [null, null],
  "requires_safety_checker": false,
  "safety_checker": [null, null],
  "scheduler": ["diffusers", "DDIMScheduler"],
  "text_encoder": ["transformers", "CLIPTextModel"],
  "tokenizer": ["transformers", "CLIPTokenizer"],
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"]
}
"""
