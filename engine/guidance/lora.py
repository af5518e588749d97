"""LoRA files (2106.09685) merged into a model's weights when it is loaded: W += scale (alpha / rank) up down.

Merged, because the model is frozen: a run then costs what it costs without. Both ways of naming are read: kohya's trainers'
(`lora_unet_down_blocks_0_attentions_0_...lora_down.weight`, also with SDXL's own block names) and diffusers'/peft's
(`unet.down_blocks.0.attentions.0....lora_A.weight`). safetensors only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import UserError
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import Lora

# Layer's name in the file to its "down", "up" and, where it has one, "alpha".
Changes = dict[str, dict[str, Tensor]]

# How a file calls the parts of a model. "text_model": an older diffusers' name inside one text encoder.
KOHYA_PARTS = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
# (ending, which of the two matrices); the longest names first.
ENDINGS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
# Kinds of change that are no LoRA, though their files look alike.
OTHER_KINDS = {"hada_w1_a": "LoHa", "lokr_w1": "LoKr", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "diff": "full difference"}


@torch.no_grad()
def merge_lora(denoiser: Denoiser, lora: Lora) -> int:
    """Add a LoRA's change to the weights of a model; returns how many layers it changed.

    Raises: UserError, code "model", if the file is missing, damaged, of another kind, or made for another model; then nothing has changed.
    """
    return merge_changes(denoiser.parts, _read(lora.path), lora.path, lora.scale)


@torch.no_grad()
def merge_changes(parts: Mapping[str, nn.Module], changes: Changes, path: Path, scale: float = 1.0) -> int:
    """`merge_lora` of changes that `changes_of` has sorted out, to the parts of a model by name."""
    layers = {part: dict(_layers(module)) for part, module in parts.items()}
    found: list[tuple[nn.Module, Tensor]] = []
    missed = []
    for name, change in changes.items():
        layer = _layer(name, layers)
        if layer is None:
            missed.append(name)
            continue
        delta = _delta(change, layer, name, path)
        found.append((layer, delta))
    if missed or not found:
        raise UserError(
            f"{path.name} was made for another model: {len(missed)} of its {len(changes)} changes have no place in this one"
            f"{f' ({missed[0][:80]})' if missed else ''}.",
            "Choose the model that it was trained on, or another LoRA.",
            "model",
        )
    for layer, delta in found:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        weight.add_((scale * delta).to(device=weight.device, dtype=weight.dtype))
    return len(found)


def _read(path: Path) -> Changes:
    if not path.is_file():
        raise UserError(f"There is no LoRA file {path}.", "Look at its name and folder.", "model")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no safetensors file, or is damaged.", "Fetch it again.", "model") from error
    return changes_of(tensors, path)


def changes_of(tensors: Mapping[str, Tensor], path: Path) -> Changes:
    """The tensors of a LoRA file by layer; `path` is named in errors. Raises UserError, code "model"."""
    changes: Changes = {}
    for name, tensor in tensors.items():
        ending = next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if name.endswith(ending)), None)
        if ending is None:
            words = name.split(".")
            kind = next((kind for word, kind in OTHER_KINDS.items() if any(f"{own}_".startswith(f"{word}_") for own in words)), "")
            text = f"{path.name} is a {kind} file" if kind else f"{path.name} holds {name[:80]!r}, which is no part of a LoRA"
            raise UserError(f"{text}; plain LoRA files are read.", "Choose a LoRA.", "model")
        changes.setdefault(name[: -len(ending)], {})[ENDINGS[ending]] = tensor
    for name, change in changes.items():
        if not {"down", "up"} <= change.keys():
            raise UserError(f"{path.name} lacks half of its change to {name[:80]}.", "Fetch it again.", "model")
    if not changes:
        raise UserError(f"{path.name} holds no LoRA.", "Choose another file.", "model")
    return changes


def _layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """What a LoRA can change: linear and convolution layers by name."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def _layer(name: str, layers: dict[str, dict[str, nn.Module]]) -> nn.Module | None:
    """The layer that a file's name means, None if the model has none such."""
    for prefix, part in KOHYA_PARTS.items():
        if name.startswith(prefix):
            wanted = _from_sgm(name.removeprefix(prefix))
            # Underscores for the dots: not to be undone, but to be compared.
            return next((layer for own, layer in layers.get(part, {}).items() if _same(own.replace(".", "_"), wanted, "text_model_")), None)
    part, dot, rest = name.partition(".")
    if not dot or part not in layers:
        return None
    rest = re.sub(r"\.to_out$", ".to_out.0", rest.replace(".processor.", "."))  # as diffusers wrote them before peft
    return next((layer for own, layer in layers[part].items() if _same(own, rest, "text_model.")), None)


def _same(own: str, wanted: str, optional_prefix: str) -> bool:
    """CLIP's text encoder has, or has not, its text_model by name, by the version of transformers."""
    return own.removeprefix(optional_prefix) == wanted.removeprefix(optional_prefix)


def _from_sgm(name: str) -> str:
    """SDXL's own names of blocks (three blocks of two layers) as diffusers': input_blocks_4_1_ is down_blocks_1_attentions_0_."""
    kinds = ("resnets", "attentions")
    if found := re.match(r"input_blocks_(\d+)_([01])_(?!op)", name):
        place, kind = int(found[1]) - 1, kinds[int(found[2])]
        return f"down_blocks_{place // 3}_{kind}_{place % 3}_{name[found.end() :]}"
    if found := re.match(r"output_blocks_(\d+)_([01])_", name):
        place, kind = int(found[1]), kinds[int(found[2])]
        return f"up_blocks_{place // 3}_{kind}_{place % 3}_{name[found.end() :]}"
    if found := re.match(r"middle_block_([012])_", name):
        block = ("resnets_0", "attentions_0", "resnets_1")[int(found[1])]
        return f"mid_block_{block}_{name[found.end() :]}"
    return name


def _delta(change: dict[str, Tensor], layer: nn.Module, name: str, path: Path) -> Tensor:
    """(alpha / rank) up down in the weight's shape, float32."""
    down, up = change["down"].float(), change["up"].float()
    rank = down.shape[0]
    scale = float(change["alpha"]) / rank if "alpha" in change else 1.0
    weight: Tensor = layer.weight  # type: ignore[assignment]
    try:
        product = (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    except RuntimeError as error:
        text = f"{path.name} was made for another model: its change to {name[:80]} has another size."
        raise UserError(text, "Choose the model that it was trained on, or another LoRA.", "model") from error
    return scale * product
