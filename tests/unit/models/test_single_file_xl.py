"""A single file of Stable Diffusion XL: both text encoders, one of them under OpenCLIP's names, become the folder they were."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import Lora
from engine.guidance.lora import merge_lora
from engine.guidance.model_table import find_model, model_folder
from engine.model_store import manage
from tests.tiny_families import build_tiny_sdxl
from tests.unit.models.test_single_file import in_original_names

OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
WEIGHTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model", "text_encoder_2/model")


def in_xl_names(folder: Path) -> dict[str, torch.Tensor]:
    """The tiny SDXL under the names of Stability AI's own code."""
    weights = {}
    for name, value in in_original_names(folder).items():
        name = name.replace("model.diffusion_model.add_embedding.linear_1.", "model.diffusion_model.label_emb.0.0.")
        name = name.replace("model.diffusion_model.add_embedding.linear_2.", "model.diffusion_model.label_emb.0.2.")
        weights[name.replace("cond_stage_model.", "conditioner.embedders.0.")] = value
    prefix = "conditioner.embedders.1.model."
    second = load_file(folder / "text_encoder_2" / "model.safetensors")
    for name, value in second.items():
        layer = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name == "text_projection.weight":
            weights[prefix + "text_projection"] = value.T
        elif name in OPEN_CLIP:
            weights[prefix + OPEN_CLIP[name]] = value
        elif layer is not None and layer[2] in LAYER:
            weights[f"{prefix}transformer.resblocks.{layer[1]}.{LAYER[layer[2]]}.{layer[3]}"] = value
        elif layer is not None and layer[2] == "self_attn.q_proj":
            parts = [second[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            weights[f"{prefix}transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"] = torch.cat(parts)
    weights[prefix + "logit_scale"] = torch.ones(())
    return {name: value.contiguous() for name, value in weights.items()}


@pytest.fixture
def base(root: Path, tmp_path: Path) -> Path:
    folder = build_tiny_sdxl(tmp_path / "base")
    manage.add(folder, "base", root)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Other weights than `base`."""
    folder = build_tiny_sdxl(tmp_path / "tiny")
    for name in WEIGHTS:
        file = folder / f"{name}.safetensors"
        save_file(
            {key: 1.25 * value if value.is_floating_point() else value for key, value in load_file(file).items()}, file, {"format": "pt"}
        )
    return folder


@pytest.fixture
def file(tiny: Path, tmp_path: Path) -> Path:
    save_file(in_xl_names(tiny), tmp_path / "big.safetensors")
    return tmp_path / "big.safetensors"


def test_a_file_becomes_a_folder_with_the_same_weights(root: Path, base: Path, file: Path, tiny: Path) -> None:
    manage.add(file, "", root)
    folder = model_folder(find_model("big"))
    for name in WEIGHTS:
        expected, got = load_file(tiny / f"{name}.safetensors"), load_file(folder / f"{name}.safetensors")
        assert expected.keys() == got.keys()
        for key, value in expected.items():
            assert torch.equal(got[key], value.half() if value.is_floating_point() else value), key
    assert find_model("big").kind == "stable-diffusion-xl"
    ours, theirs = (Denoiser.load(where, "cpu").embed(["a red mug", ""]) for where in (folder, tiny))
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


def test_a_lora_goes_on_top_of_it(root: Path, base: Path, file: Path, tmp_path: Path) -> None:
    manage.add(file, "", root)
    lora = tmp_path / "style.safetensors"
    second = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
    save_file({f"{second}.lora_down.weight": torch.ones(1, 24), f"{second}.lora_up.weight": torch.ones(24, 1)}, lora)
    model = Denoiser.load(model_folder(find_model("big")), "cpu")
    before = model.embed(["a red mug"])
    merge_lora(model, Lora(lora))
    assert not torch.equal(model.embed(["a red mug"]), before)


@pytest.mark.parametrize(
    "name", ["conditioner.embedders.1.model.text_projection", "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
             "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight", "model.diffusion_model.label_emb.0.0.weight"]
)  # fmt: skip
def test_a_file_that_lacks_weights_is_refused_and_leaves_nothing(root: Path, base: Path, file: Path, name: str) -> None:
    weights = load_file(file)
    del weights[name]
    save_file(weights, file)
    with pytest.raises(UserError, match="cannot be read as a model") as caught:
        manage.add(file, "mine", root)
    assert caught.value.code == "model" and not (root / "mine").exists()


def test_without_its_family_it_says_which_to_fetch(root: Path, tmp_path: Path) -> None:
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (2, 4, 3, 3),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (2, 2048),
        "first_stage_model.x": (1,),
        "conditioner.embedders.0.transformer.x": (1,),
    }
    path = tmp_path / "big.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(UserError, match="its family, Stable Diffusion XL, and none is on this machine. First run: .* download sdxl"):
        manage.add(path, "mine", root)
