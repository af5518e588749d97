"""LoRA files of every naming: merged, they change a model as adding the small branch to each layer would."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import UserError
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import Lora, parse_loras
from engine.guidance.lora import _from_sgm, _layer, merge_lora
from tests.tiny_sd import build_tiny_sd

RANK = 2
LAYERS = {
    "unet": [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "mid_block.attentions.0.proj_in",
        "down_blocks.0.resnets.0.conv1",
    ],
    "text_encoder": ["encoder.layers.0.self_attn.q_proj"],
}


@pytest.fixture
def model(tmp_path: Path) -> Denoiser:
    return Denoiser.load(build_tiny_sd(tmp_path / "model"))


def layer_of(model: Denoiser, part: str, name: str) -> nn.Module:
    modules = dict(model.parts[part].named_modules())
    return modules.get(name) or modules[f"text_model.{name}"]


def changes(model: Denoiser) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """(part, layer) to its down and up matrices, random and not small."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for part, names in LAYERS.items():
        for name in names:
            weight = layer_of(model, part, name).weight
            kernel = tuple(weight.shape[2:])
            down = torch.randn(RANK, *weight.shape[1:], generator=generator)
            up = torch.randn(weight.shape[0], RANK, *(1 for _ in kernel), generator=generator)
            found[part, name] = (0.3 * down, 0.3 * up)
    return found


def kohya(found: dict[tuple[str, str], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
    tensors = {}
    for (part, name), (down, up) in found.items():
        stem = prefixes[part] + name.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)}
    return tensors


def peft(found: dict[tuple[str, str], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    tensors = {}
    for (part, name), (down, up) in found.items():
        inner = "text_model." if part == "text_encoder" else ""
        tensors |= {f"{part}.{inner}{name}.lora_A.weight": down, f"{part}.{inner}{name}.lora_B.weight": up}
    return tensors


def old_diffusers(found: dict[tuple[str, str], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    down, up = found["unet", LAYERS["unet"][0]]
    stem = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora"
    return {f"{stem}.down.weight": down, f"{stem}.up.weight": up}


def with_branches(model: Denoiser, found: dict[tuple[str, str], tuple[Tensor, Tensor]], scale: float) -> None:
    """The same LoRA as its paper draws it: a branch beside each layer, nothing merged."""
    for (part, name), (down, up) in found.items():
        layer = layer_of(model, part, name)

        def add(module: nn.Module, inputs: tuple[Tensor], output: Tensor, down: Tensor = down, up: Tensor = up) -> Tensor:
            if isinstance(module, nn.Conv2d):
                low = nn.functional.conv2d(inputs[0], down, stride=module.stride, padding=module.padding)
                return output + scale * nn.functional.conv2d(low, up)
            return output + scale * nn.functional.linear(nn.functional.linear(inputs[0], down), up)

        layer.register_forward_hook(add)


def opinion(model: Denoiser) -> Tensor:
    noisy = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    return model.predict_noise(noisy, torch.tensor([400]), model.embed(["a red mug"]))


@pytest.mark.parametrize(("naming", "alpha"), [(kohya, 1 / RANK), (peft, 1.0), (old_diffusers, 1.0)])
def test_a_merged_lora_acts_as_its_branches_would(model: Denoiser, tmp_path: Path, naming, alpha: float) -> None:  # type: ignore[no-untyped-def]
    found = changes(model)
    if naming is old_diffusers:
        found = {key: value for key, value in found.items() if key == ("unet", LAYERS["unet"][0])}
    file = tmp_path / "style.safetensors"
    save_file(naming(found), file)
    before = opinion(model)
    other = Denoiser.load(tmp_path / "model")
    with_branches(other, found, 0.7 * alpha)
    assert merge_lora(model, Lora(file, 0.7)) == len(found)
    after = opinion(model)
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(after, opinion(other), atol=1e-5, rtol=1e-4)


def test_scale_zero_changes_nothing_and_two_files_add_up(model: Denoiser, tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    save_file(kohya(changes(model)), file)
    before = opinion(model)
    merge_lora(model, Lora(file, 0.0))
    assert torch.equal(opinion(model), before)
    merge_lora(model, Lora(file, 0.25))
    merge_lora(model, Lora(file, 0.5))
    twice = opinion(model)
    other = Denoiser.load(tmp_path / "model")
    merge_lora(other, Lora(file, 0.75))
    torch.testing.assert_close(twice, opinion(other), atol=1e-5, rtol=1e-4)


def test_sdxls_own_block_names_are_diffusers() -> None:
    assert _from_sgm("input_blocks_4_1_transformer_blocks_0_attn1_to_q") == "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    assert _from_sgm("input_blocks_8_1_proj_in") == "down_blocks_2_attentions_1_proj_in"
    assert _from_sgm("middle_block_1_proj_out") == "mid_block_attentions_0_proj_out"
    assert _from_sgm("output_blocks_5_1_proj_in") == "up_blocks_1_attentions_2_proj_in"
    assert _from_sgm("down_blocks_0_attentions_0_proj_in") == "down_blocks_0_attentions_0_proj_in"
    layer = nn.Linear(2, 2)
    layers = {"unet": {"down_blocks.1.attentions.0.proj_in": layer}}
    assert _layer("lora_unet_input_blocks_4_1_proj_in", layers) is layer and _layer("lora_unet_input_blocks_5_1_proj_in", layers) is None


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"lora_unet_nothing.lora_down.weight": torch.zeros(2, 4), "lora_unet_nothing.lora_up.weight": torch.zeros(4, 2)}, "another model"),
        (
            {"lora_unet_conv_in.lora_down.weight": torch.zeros(2, 4, 1, 1), "lora_unet_conv_in.lora_up.weight": torch.zeros(4, 2, 1, 1)},
            "size",
        ),
        ({"lora_unet_conv_in.lora_down.weight": torch.zeros(2, 4)}, "lacks half of its change to lora_unet_conv_in"),
        ({"lora_unet_conv_in.hada_w1_a": torch.zeros(2)}, "is a LoHa file; plain LoRA files are read"),
        ({"lora_unet_conv_in.dora_scale": torch.zeros(2)}, "is a DoRA file"),
        ({"model.diffusion_model.x": torch.zeros(2)}, "which is no part of a LoRA"),
        ({}, "holds no LoRA"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_change_nothing(
    model: Denoiser, tmp_path: Path, tensors: dict[str, Tensor], says: str
) -> None:
    file = tmp_path / "odd.safetensors"
    save_file(tensors, file)
    before = opinion(model)
    with pytest.raises(UserError, match=says) as caught:
        merge_lora(model, Lora(file))
    assert caught.value.code == "model" and caught.value.fix
    assert torch.equal(opinion(model), before)


def test_a_missing_and_a_damaged_file_are_sentences(model: Denoiser, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no LoRA file"):
        merge_lora(model, Lora(tmp_path / "none.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    with pytest.raises(UserError, match="no safetensors file, or is damaged"):
        merge_lora(model, Lora(tmp_path / "cut.safetensors"))


def test_file_and_scale_as_they_are_typed() -> None:
    assert parse_loras("") == ()
    assert parse_loras("a.safetensors") == (Lora(Path("a.safetensors"), 1.0),)
    assert parse_loras("C:/x/a.safetensors:0.8, b.safetensors:-.5") == (
        Lora(Path("C:/x/a.safetensors"), 0.8),
        Lora(Path("b.safetensors"), -0.5),
    )
    for wrong in ("style.ckpt", "style.safetensors:much"):
        with pytest.raises(UserError, match=r"must be a \.safetensors file.*--lora style\.safetensors:0\.8"):
            parse_loras(wrong)
