"""Tiny random models of the larger families, from the same config classes as the real ones; see tests/tiny_sd.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from tests.tiny_sd import build_tiny_sd

N_TEXT, N_TEXT_2, N_POOLED, N_TIME = 16, 24, 20, 8


def build_tiny_sdxl(root: Path, *, force_upcast: bool = True) -> Path:
    """SDXL's seven parts: a U-Net with the text_time addition, two encoders of different width. 32 pixels."""
    build_tiny_sd(root)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            cross_attention_dim=N_TEXT + N_TEXT_2,
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=N_TIME,
            projection_class_embeddings_input_dim=N_POOLED + 6 * N_TIME,
        )
        config = json.loads((root / "text_encoder" / "config.json").read_text())
        config.update(hidden_size=N_TEXT_2, intermediate_size=48, projection_dim=N_POOLED)
        second = CLIPTextModelWithProjection(CLIPTextConfig(**{name: value for name, value in config.items() if name != "architectures"}))
    shutil.rmtree(root / "unet")
    unet.save_pretrained(root / "unet", safe_serialization=True)
    second.save_pretrained(root / "text_encoder_2", safe_serialization=True)
    shutil.copytree(root / "tokenizer", root / "tokenizer_2")
    edit(root / "vae" / "config.json", force_upcast=force_upcast)
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    old = json.loads((root / "model_index.json").read_text())
    new = {name: value for name, value in old.items() if "safety" not in name} | index
    (root / "model_index.json").write_text(json.dumps(new))
    return root


def build_tiny_if(root: Path) -> Path:
    """IF's stage I: pixels in, noise and variance out, T5 in front. 16 pixels."""
    words = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁red", "▁mug", "▁blue", *"abcdefghijklmnopqrstuvwxyz,'-"]
    tokenizer = T5Tokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)], extra_ids=0, model_max_length=77)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        encoder = T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
        )
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=3,
            out_channels=6,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            resnet_time_scale_shift="scale_shift",
            act_fn="gelu",
            attention_head_dim=8,
            cross_attention_dim=32,
            encoder_hid_dim=24,
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            cross_attention_norm="group_norm",
            norm_num_groups=8,
        )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        sample_max_value=1.5,
        timestep_spacing="trailing",
    )
    for part, name in ((encoder, "text_encoder"), (unet, "unet"), (tokenizer, "tokenizer"), (scheduler, "scheduler")):
        part.save_pretrained(root / name)
    index = {
        "_class_name": "IFPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "watermarker": [None, None],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def edit(path: Path, **changes: object) -> None:
    """Change settings in a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
