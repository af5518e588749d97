"""MVDream's U-Net (2308.16512, section 3.1) from diffusers' parts: Stable Diffusion 2.1's, with two changes.

- Self-attention sees all views of an object at once: the tokens of F views stand in one row (`MultiViewAttention`).
- Each view's camera, a flattened 4x4 matrix, goes through a small network and is added to the embedding of the noise level:
  just what UNet2DConditionModel's class embedding of kind "projection" does.

So no layer is new. The published conversions keep the layers' first names (`input_blocks.1.1.proj_in.weight`);
`published_names` maps ours to those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

CAMERA_NUMBERS = 16


def unet_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """UNet2DConditionModel's arguments for a published `unet/config.json` (class MultiViewUNetModel).

    Raises: ValueError for a variant that this U-Net is not; KeyError if a field is missing.
    """
    if published.get("ip_dim"):
        raise ValueError("it is ImageDream, which is prompted by a picture too")
    if published.get("camera_dim") != CAMERA_NUMBERS or published["transformer_depth"] != 1 or published.get("resblock_updown"):
        raise ValueError("its U-Net is none of MVDream's")
    mults, blocks = published["channel_mult"], published["num_res_blocks"]
    channels = [published["model_channels"] * mult for mult in mults]
    has_attention = [2**level in published["attention_resolutions"] for level in range(len(mults))]
    per_head = published["num_head_channels"]
    return {
        "sample_size": published["image_size"],
        "in_channels": published["in_channels"],
        "out_channels": published["out_channels"],
        "block_out_channels": tuple(channels),
        "layers_per_block": blocks,
        "down_block_types": tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in has_attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(has_attention)),
        "cross_attention_dim": published["context_dim"],
        # diffusers' name for the number of heads
        "attention_head_dim": tuple(count // per_head for count in channels),
        "use_linear_projection": True,
        "norm_num_groups": 32,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": CAMERA_NUMBERS,
    }


def make_unet(published: Mapping[str, Any], n_views: int) -> Any:
    """The U-Net with fresh weights. Call it with `class_labels` [B, 16], the cameras; B is a multiple of `n_views`."""
    from diffusers import UNet2DConditionModel  # here: who loads models tells diffusers first to stay offline

    unet: Any = UNet2DConditionModel(**unet_config(published))
    own = MultiViewAttention(n_views)
    processors = {name: own if ".attn1." in name else processor for name, processor in unet.attn_processors.items()}
    unet.set_attn_processor(processors)
    return unet


class MultiViewAttention:
    """Self-attention over the tokens of `n_views` neighbouring rows at once."""

    def __init__(self, n_views: int) -> None:
        self.n_views = n_views

    def __call__(self, attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        """hidden_states [B, L, C] of B / n_views objects. Only what a transformer block of Stable Diffusion asks of it."""
        n, length, channels = hidden_states.shape
        joined = hidden_states.reshape(n // self.n_views, self.n_views * length, channels)
        query, key, value = (
            layer(joined).unflatten(-1, (attn.heads, -1)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )  # [B / F, heads, F L, C / heads]
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out)).reshape(n, length, channels)


# Layers of one residual block and of the U-Net's ends, ours to the published.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "camera_embed.0",
    "class_embedding.linear_2": "camera_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def published_names(unet: Any) -> dict[str, str]:
    """Name of every tensor of the U-Net's state to its name in the published files."""
    per_level = unet.config.layers_per_block
    return {name: _published(name, per_level, unet) for name in unet.state_dict()}


def _published(name: str, per_level: int, unet: Any) -> str:
    layer, _, kind = name.rpartition(".")
    if layer in _ENDS:
        return f"{_ENDS[layer]}.{kind}"
    room, *path = name.split(".")
    if room == "mid_block":
        part, index, *rest = path
        return f"middle_block.{1 if part == 'attentions' else 2 * int(index)}.{_inner(part, rest)}"
    level, part, index, *rest = path
    if room == "down_blocks":
        # A level is its blocks and then one to make it smaller; block 0 of all is conv_in.
        block = 1 + int(level) * (per_level + 1)
        if part == "downsamplers":
            return f"input_blocks.{block + per_level}.0.op.{kind}"
        return f"input_blocks.{block + int(index)}.{int(part == 'attentions')}.{_inner(part, rest)}"
    block = int(level) * (per_level + 1)
    if part == "upsamplers":  # behind the last block's layers
        place = 2 if hasattr(unet.up_blocks[int(level)], "attentions") else 1
        return f"output_blocks.{block + per_level}.{place}.conv.{kind}"
    return f"output_blocks.{block + int(index)}.{int(part == 'attentions')}.{_inner(part, rest)}"


def _inner(part: str, rest: list[str]) -> str:
    if part == "attentions":  # a transformer's layers have one name in both
        return ".".join(rest)
    return f"{_RESNET[rest[0]]}.{rest[1]}"


def load_published(unet: Any, tensors: Mapping[str, Tensor]) -> None:
    """Fill the U-Net from a published state. Raises ValueError if one is missing, too many, or of another shape."""
    names = published_names(unet)
    missing = sorted(set(names.values()) - set(tensors))
    surplus = sorted(set(tensors) - set(names.values()))
    if missing or surplus:
        raise ValueError(f"its U-Net lacks {missing[0]}" if missing else f"its U-Net has an unknown layer {surplus[0]}")
    unet.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()}, assign=True)
