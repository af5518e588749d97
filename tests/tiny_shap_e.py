"""A tiny random Shap-E in the layout that diffusers' ShapEPipeline saves, from the same config classes as the real one.

A random renderer draws nothing of use, so its layers can be set by hand: whatever the latent is, the shape is a box that tells the
axes apart, greener to the top, redder to the front.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
from diffusers.pipelines.shap_e.renderer import ShapERenderer
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tests.tiny_sd import tiny_tokenizer

N_HIDDEN, N_TEXT, WIDTH = 16, 16, 8
# Corners of the box in Shap-E's own places, which are ours: Z up, front -Y.
LOW, HIGH = (-0.3, -0.5, -0.2), (0.5, 0.1, 0.7)
# SiLU(k a) / k is nearly max(a, 0).
SHARPNESS = 60.0


def build_tiny_shap_e(root: Path, *, is_shaped: bool = True) -> Path:
    """Write the five parts under `root`; returns it.

    is_shaped: the box; else it is what the random weights give.
    """
    tokenizer = tiny_tokenizer()
    shapes = ((N_HIDDEN, 93), (N_HIDDEN, N_HIDDEN))  # an encoded position has 93 numbers, x, y, z the first of them
    with torch.random.fork_rng():
        torch.manual_seed(3)
        prior = PriorTransformer(
            num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=WIDTH, num_embeddings=2 * N_HIDDEN,
            embedding_proj_dim=N_TEXT, time_embed_dim=32, time_embed_act_fn="gelu", norm_in_type="layer", clip_embed_dim=2 * WIDTH,
            additional_embeddings=0, added_emb_type=None, encoder_hid_proj_type=None,
        )  # fmt: skip
        encoder = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=N_TEXT, intermediate_size=32, projection_dim=N_TEXT, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=24, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip
        renderer = ShapERenderer(
            param_names=("nerstf.mlp.0.weight", "nerstf.mlp.1.weight"), param_shapes=shapes, d_latent=WIDTH, d_hidden=N_HIDDEN,
            n_output=12, n_hidden_layers=2, insert_direction_at=2,
        )  # fmt: skip
    if is_shaped:
        _shape(renderer)
    scheduler = HeunDiscreteScheduler(
        beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", use_karras_sigmas=True, clip_sample=True,
        clip_sample_range=1.0,
    )  # fmt: skip
    pipe = ShapEPipeline(prior=prior, text_encoder=encoder, tokenizer=tokenizer, scheduler=scheduler, shap_e_renderer=renderer)
    pipe.save_pretrained(root, safe_serialization=True)
    return root


def _shape(renderer: ShapERenderer) -> None:
    """Distance: minus how far outside a position lies, summed over the axes. Layer 0 measures that, layer 1 adds it up and passes y
    and z on; each number goes as SiLU(a) - SiLU(-a) = a."""
    first, second, last = torch.zeros(N_HIDDEN, 93), torch.zeros(N_HIDDEN, N_HIDDEN), renderer.mlp.mlp[2]
    bias = torch.zeros(N_HIDDEN)
    for axis in range(3):
        first[2 * axis, axis], bias[2 * axis] = SHARPNESS, -SHARPNESS * HIGH[axis]
        first[2 * axis + 1, axis], bias[2 * axis + 1] = -SHARPNESS, SHARPNESS * LOW[axis]
    second[0, :6], second[1, :6] = 1 / SHARPNESS, -1 / SHARPNESS
    for place, axis in ((6, 1), (8, 2)):
        first[place, axis], first[place + 1, axis] = 1.0, -1.0
        second[place, place], second[place, place + 1] = 1.0, -1.0
        second[place + 1, place], second[place + 1, place + 1] = -1.0, 1.0
    with torch.no_grad():
        renderer.mlp.mlp[0].bias.copy_(bias)
        renderer.mlp.mlp[1].bias.zero_()
        last.weight.zero_()
        last.bias.zero_()
        last.weight[0, 0], last.weight[0, 1], last.bias[0] = -1.0, 1.0, 0.02
        for channel, place, slope in ((3, 6, -8.0), (4, 8, 8.0)):  # red where y is low, green where z is high
            last.weight[channel, place], last.weight[channel, place + 1] = slope, -slope
        for projection, weight in zip(renderer.params_proj.projections.values(), (first, second)):
            projection.proj.weight.zero_()  # so that its norm is zero and the bias alone is the drawn weight
            projection.proj.bias.copy_(weight.reshape(-1))
