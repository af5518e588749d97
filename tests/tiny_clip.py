"""A tiny random CLIP in transformers' layout, from the real config classes; see tests/tiny_sd.py."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from tests.tiny_sd import tiny_tokenizer
from tests.tiny_zero123 import MEAN, STD

SIZE, DIM, MAX_TOKENS = 28, 16, 24


def build_tiny_clip(root: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Write config.json, model.safetensors, the tokenizer's files and preprocessor_config.json to `root`. Returns root."""
    tokenizer = tiny_tokenizer(MAX_TOKENS)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = CLIPConfig(
        text_config={**tower, **text, "projection_dim": DIM},
        vision_config={**tower, "image_size": SIZE, "patch_size": 7, "projection_dim": DIM},
        projection_dim=DIM,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
    model.to(dtype=dtype).save_pretrained(root, safe_serialization=True)
    tokenizer.save_pretrained(root)
    settings = {"image_mean": MEAN, "image_std": STD, "crop_size": SIZE, "size": SIZE, "resample": 3, "do_normalize": True}
    (root / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return root
