"""A tiny random model in the layout of the published Zero123 conversions, for tests that need the real classes but no real weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.tiny_sd import tiny_vae

DIM = 16
CLIP_SIZE = 28
# CLIP's own, as in every published feature_extractor.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build_tiny_zero123(root: Path, *, image_size: int = 32, scaling_factor: float = 0.7, seed: int = 0) -> Path:
    """Write unet, vae, scheduler, image_encoder, feature_extractor and clip_camera_projection under `root`. Returns root."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=image_size // 4,
            in_channels=8,
            out_channels=4,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            cross_attention_dim=DIM,
            norm_num_groups=8,
        )
        vae = tiny_vae(image_size, 4, scaling_factor)
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                projection_dim=DIM,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=CLIP_SIZE,
                patch_size=7,
            )
        )
        projection = {"proj.weight": torch.randn(DIM, DIM + 4) * 0.3, "proj.bias": torch.randn(DIM) * 0.1}
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    for part, name in ((unet, "unet"), (vae, "vae"), (image_encoder, "image_encoder")):
        part.save_pretrained(root / name, safe_serialization=True)
    scheduler.save_pretrained(root / "scheduler")
    (root / "clip_camera_projection").mkdir()
    save_file(projection, str(root / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"))
    config = {"_class_name": "CLIPCameraProjection", "additional_embeddings": 4, "embedding_dim": DIM}
    (root / "clip_camera_projection" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (root / "feature_extractor").mkdir()
    pixels = {
        "crop_size": {"height": CLIP_SIZE, "width": CLIP_SIZE}, "size": {"shortest_edge": CLIP_SIZE}, "resample": 3,
        "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": MEAN, "image_std": STD, "image_processor_type": "CLIPImageProcessor",
    }  # fmt: skip
    (root / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    return root
