"""A single checkpoint file becomes a folder with the very same weights; what is no model is refused by its header alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.guidance.model_table import find_model, model_folder
from engine.model_store import manage
from tests.tiny_sd import build_tiny_sd

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def in_original_names(folder: Path) -> dict[str, torch.Tensor]:
    """The tiny model (two U-Net blocks and three VAE blocks of one layer) under the names of Stable Diffusion's own code."""
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    weights = {f"model.diffusion_model.{_unet_name(name)}": value for name, value in unet.items()}
    for name, value in vae.items():
        is_projection = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight", name)
        weights[f"first_stage_model.{_vae_name(name)}"] = value[:, :, None, None] if is_projection else value
    weights |= {f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}
    return {name: value.contiguous() for name, value in weights.items()}


def _unet_name(name: str) -> str:
    for ours, theirs in UNET.items():
        if name.startswith(ours + "."):
            name = theirs + name[len(ours) :]
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{1 + 2 * int(m[1]) + int(m[2])}.0", name)
    name = re.sub(r"down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{1 + 2 * int(m[1]) + int(m[2])}.1", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{2 + 2 * int(m[1])}.0.op", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.0", name)
    name = re.sub(r"up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{2 * int(m[1]) + int(m[2])}.1", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0\.conv", lambda m: f"output_blocks.{2 * int(m[1]) + 1}.2.conv", name)
    for ours, theirs in RESNET.items():
        name = re.sub(rf"^((?:in|out)put_blocks\.\d\.0|middle_block\.[02])\.{ours}\.", rf"\1.{theirs}.", name)
    return name


def _vae_name(name: str) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{2 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{2 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        for ours, theirs in VAE_ATTENTION.items():
            name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


@pytest.fixture
def base(root: Path, tmp_path: Path) -> Path:
    """A model of the file's family that is here already, with other weights."""
    folder = build_tiny_sd(tmp_path / "base", seed=1)
    manage.add(folder, "base", root)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return build_tiny_sd(tmp_path / "tiny", seed=2)


@pytest.fixture
def file(tiny: Path, tmp_path: Path) -> Path:
    save_file(in_original_names(tiny), tmp_path / "My Style.safetensors")
    return tmp_path / "My Style.safetensors"


def test_a_file_becomes_a_folder_with_the_same_weights(root: Path, base: Path, file: Path, tiny: Path) -> None:
    record = manage.add(file, "", root)
    folder = model_folder(find_model("my-style"))
    assert record.id == "my-style" and folder == root / "my-style" and record.title == "My Style"
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        expected, got = load_file(tiny / f"{part}.safetensors"), load_file(folder / f"{part}.safetensors")
        assert expected.keys() == got.keys()
        for name, value in expected.items():
            assert torch.equal(got[name], value.half() if value.is_floating_point() else value), name
    assert (folder / "tokenizer" / "tokenizer_config.json").is_file()
    assert {row.model.id: row.origin for row in manage.rows(root)}["my-style"] == "unpacked"

    from engine.guidance.denoiser import Denoiser

    assert Denoiser.load(folder).embed(["a mug"]).isfinite().all()
    assert "is deleted" in manage.remove("my-style", root) and not folder.exists() and file.is_file()


def refused(root: Path, file: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        manage.add(file, "mine", root)
    assert caught.value.code == "model" and not (root / "mine").exists()


def test_the_settings_can_be_those_of_another_model(root: Path, base: Path, file: Path, tmp_path: Path) -> None:
    manage.add(build_tiny_sd(tmp_path / "v", prediction_type="v_prediction"), "v-model", root)
    manage.add(file, "as-v", root, like="v-model")
    manage.add(file, "as-base", root)
    kinds = [(root / name / "scheduler" / "scheduler_config.json").read_text().count("v_prediction") for name in ("as-v", "as-base")]
    assert kinds == [1, 0]
    with pytest.raises(UserError, match="not of the family of toybox"):
        manage.add(file, "mine", root, like="toybox")


def test_without_a_model_of_its_family_it_says_which_to_fetch(root: Path, tmp_path: Path) -> None:
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (2, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (2, 768),
        "first_stage_model.x": (1,),
        "cond_stage_model.x": (1,),
    }
    path = tmp_path / "style.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    refused(root, path, "its family, Stable Diffusion 1.x, and none is on this machine. First run: python -m engine models download sd15")
    shapes["model.diffusion_model.input_blocks.0.0.weight"] = (2, 9, 3, 3)
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    refused(root, path, "768 features of text and 9 channels: no family")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight"], "is a LoRA"),
        (["conditioner.embedders.0.model.x", "model.diffusion_model.x"], "is SDXL's refiner, which cannot guide"),
        (["v_pred", "conditioner.embedders.0.x"], "predicts v, which .* Say with --like ID which model's settings it takes"),
        (["conditioner.embedders.0.x", "model.diffusion_model.x"], r"is not a whole Stable Diffusion model \(it lacks the VAE\)"),
        (["model.diffusion_model.x"], r"is not a whole Stable Diffusion model \(it lacks the VAE, the text encoder\)"),
        (["anything"], "is not a whole Stable Diffusion model"),
    ],
)
def test_what_is_no_model_is_refused(root: Path, tmp_path: Path, names: list[str], says: str) -> None:
    path = tmp_path / "file.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    refused(root, path, says)


def test_other_files_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"pickle")
    refused(root, tmp_path / "model.ckpt", "is no .safetensors file")
    (tmp_path / "half.safetensors").write_bytes((100).to_bytes(8, "little") + b"{")
    refused(root, tmp_path / "half.safetensors", "is no safetensors file, or its beginning is damaged")


def test_a_file_that_breaks_in_the_middle_leaves_nothing(root: Path, base: Path, file: Path) -> None:
    weights = load_file(file)
    del weights["model.diffusion_model.out.2.weight"]
    save_file(weights, file)
    refused(root, file, "cannot be read as a model|lacks")
    assert not list((root / ".downloading").glob("*")) if (root / ".downloading").exists() else True
