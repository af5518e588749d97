"""Toybox from a picture: what is stored is small and comes back, what is loaded is what was trained, what is broken says so."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from engine.errors import UserError
from engine.guidance.families import load_denoiser
from engine.guidance.model_table import find_model, is_installed, model_folder
from engine.guidance.picture_views import PictureViews
from engine.guidance.toybox_image import ENCODER_FILE, UNET_FILE, pack, unpack, widened
from engine.guidance.zero123 import Zero123
from engine.model_store.layout import check_folder
from engine.scene.cameras import orbit_cameras
from engine.scene.view_prompts import PromptEmbeds
from engine.toybox.zero123_training import Sibling

ROOT = Path(__file__).resolve().parents[3]
TOYBOX = ROOT / "engine/toybox/weights"
# What the repository's weights may have together, and what Toybox's own leave of it.
MAX_WEIGHTS_BYTES, MAX_SIBLING_BYTES = 40_000_000, 1_750_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sibling, Path]:
    """A sibling with changes everywhere, drawn instead of learnt, and the folder that it was written to."""
    sibling, generator = Sibling.from_toybox(TOYBOX), torch.Generator().manual_seed(0)
    for parameter in sibling.trained.values():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("models") / "sibling"
    sibling.save(folder, dict(sibling.trained))
    return sibling, folder


@pytest.fixture
def broken(trained: tuple[Sibling, Path], tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(trained[1], tmp_path / "broken"))


def test_matrices_are_packed_to_bytes_and_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"wide": (4, 60, 3, 3), "tall": (300, 4), "vector": (50,), "nothing": (3, 5)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["wide"] *= torch.tensor([1.0, 100.0, 0.01, 5.0]).view(4, 1, 1, 1)
    tensors["tall"] *= torch.tensor([1.0, 100.0, 0.01, 5.0])
    tensors["nothing"] = torch.zeros(3, 5)
    packed = pack(tensors)
    back = unpack(packed)
    assert packed["wide"].dtype == packed["tall"].dtype == torch.int8 and packed["vector"].dtype == torch.float16
    assert packed["wide.scale"].numel() == packed["tall.scale"].numel() == 4, "a scale for each of the fewer of rows and columns"
    assert back.keys() == tensors.keys() and all(value.dtype == torch.float32 for value in back.values())
    for row in range(4):  # each to half a step of its own scale
        largest = tensors["wide"][row].abs().max()
        assert (back["wide"][row] - tensors["wide"][row]).abs().max() <= 0.51 * largest / 127
        assert (back["tall"] - tensors["tall"])[:, row].abs().max() <= 0.51 * tensors["tall"][:, row].abs().max() / 127
    assert torch.equal(back["nothing"], tensors["nothing"])
    assert all(torch.equal(again, first) for again, first in zip(pack(back).values(), packed.values())), "packing again loses nothing more"


def test_a_widened_unet_says_what_it_said_whatever_the_picture() -> None:
    plain = UNet2DConditionModel.from_pretrained(str(TOYBOX / "unet"), torch_dtype=torch.float32)
    wide, generator = widened(plain), torch.Generator().manual_seed(0)
    noisy, picture, words = (torch.randn(shape, generator=generator) for shape in ((1, 8, 16, 16), (1, 8, 16, 16), (1, 3, 192)))
    with torch.no_grad():
        wanted = plain(noisy, torch.tensor([500]), words).sample
        torch.testing.assert_close(wide(torch.cat([noisy, picture], dim=1), torch.tensor([500]), words).sample, wanted)


@torch.no_grad()
def test_what_is_loaded_is_what_was_trained(trained: tuple[Sibling, Path]) -> None:
    sibling, folder = trained
    check_folder(folder)
    model, generator = load_denoiser(folder), torch.Generator().manual_seed(1)
    assert isinstance(model, Zero123) and (model.image_size, model.latent_shape) == (64, (8, 16, 16))
    assert model.prediction_type == "v_prediction"
    picture, cameras = torch.rand(1, 64, 64, 3, generator=generator), orbit_cameras(*(torch.tensor([x]) for x in (30.0, 10.0, 3.0, 40.0)))
    model.look_at(PictureViews(picture, orbit_cameras(*(torch.tensor([x]) for x in (0.0, 0.0, 3.0, 40.0))), torch.ones(1)))
    words = model.embed([""])
    prompt = model.condition(PromptEmbeds(words, words), cameras).text
    noisy, timestep = torch.randn(1, 8, 16, 16, generator=generator), torch.tensor([600])
    noise, _ = model.predict(noisy, timestep, prompt)
    # The same by hand, with the weights as they were trained.
    row = prompt.flatten(1)[:, 1:]
    token, latents = row[:, None, :192], row[:, 192 : 192 + 8 * 16 * 16].view(1, 8, 16, 16)
    torch.testing.assert_close(latents, sibling.encode(picture), atol=1e-4, rtol=1e-4)
    sibling.unet.eval()
    velocity = sibling.unet(torch.cat([noisy, latents], dim=1), timestep, token).sample
    alpha_bar = sibling.scheduler.alphas_cumprod[600]
    wanted = alpha_bar.sqrt() * velocity + (1 - alpha_bar).sqrt() * noisy
    plain = UNet2DConditionModel.from_pretrained(str(TOYBOX / "unet"), torch_dtype=torch.float32)(noisy, timestep, token).sample
    unchanged = alpha_bar.sqrt() * plain + (1 - alpha_bar).sqrt() * noisy
    assert (noise - wanted).square().mean() < 0.01 * (unchanged - wanted).square().mean(), "bytes cost little of what was learnt"


def test_it_ships_and_is_found_by_name() -> None:
    model = find_model("toybox-image")
    assert is_installed(model) and not model.sources and not model.takes_free_prompts
    check_folder(model_folder(model))
    assert find_model(str(model_folder(model))).id == "toybox-image"


def test_all_weights_together_fit_into_the_repository() -> None:
    sizes = {path: path.stat().st_size for folder in ("engine", "benchmarks") for path in tracked(folder)}
    assert TOYBOX / "unet/diffusion_pytorch_model.safetensors" in sizes and model_folder(find_model("toybox-image")) / UNET_FILE in sizes
    assert sum(sizes.values()) < MAX_WEIGHTS_BYTES
    assert sum(size for path, size in sizes.items() if path.is_relative_to(ROOT / "engine/toybox/sibling")) <= MAX_SIBLING_BYTES


def tracked(folder: str) -> list[Path]:
    """Weights that git knows; all that lie there where there is no git."""
    try:
        done = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, capture_output=True, text=True, check=True)
        found = [ROOT / name for name in done.stdout.split("\0")]
    except (OSError, subprocess.CalledProcessError):
        found = [*(ROOT / folder).rglob("*")]
    return [path for path in found if path.suffix == ".safetensors"]


def test_a_missing_part_is_a_sentence(broken: Path) -> None:
    shutil.rmtree(broken / "image_encoder")
    with pytest.raises(UserError, match=r"lacks image_encoder\. Choose a folder in the layout of Toybox from a picture"):
        load_denoiser(broken)


@pytest.mark.parametrize("name", [UNET_FILE, ENCODER_FILE])
def test_a_file_that_is_missing_cut_off_or_empty_is_a_sentence(broken: Path, name: str) -> None:
    whole = (broken / name).read_bytes()
    for content in (whole[: len(whole) // 2], b"", None):
        (broken / name).unlink()
        if content is not None:
            (broken / name).write_bytes(content)
        with pytest.raises(UserError, match=r"The model in .*broken cannot be loaded: .* Fetch the folder again") as caught:
            load_denoiser(broken)
        assert caught.value.code == "model"
        (broken / name).write_bytes(b"")


def test_weights_without_their_scales_or_for_another_unet_are_a_sentence(broken: Path) -> None:
    tensors = load_file(broken / UNET_FILE)
    layer = "mid_block.resnets.0.conv1.lora_B.weight"
    for changed, says in (
        ({name: value for name, value in tensors.items() if name != layer + ".scale"}, "cannot be loaded"),
        ({**tensors, layer: tensors[layer][:-1].contiguous()}, "was made for another model: its change to unet.mid_block.resnets.0.conv1"),
        (
            {name.replace("mid_block.resnets.0", "mid_block.resnets.7"): value for name, value in tensors.items()},
            "has no mid_block.resnets.7",
        ),
        ({**tensors, "conv_in.weight": tensors["conv_in.weight"][:, :8].contiguous()}, "cannot be loaded"),
    ):
        save_file(changed, str(broken / UNET_FILE))
        with pytest.raises(UserError, match=says):
            load_denoiser(broken)


def test_a_base_that_is_unknown_or_has_another_unet_is_a_sentence(broken: Path) -> None:
    (broken / "unet/config.json").write_text(json.dumps({"base": "playbox"}))
    with pytest.raises(UserError, match="model is 'playbox', but must be one of toybox"):
        load_denoiser(broken)
    (broken / "unet/config.json").write_text(json.dumps({"base": "toybox-image"}))
    with pytest.raises(UserError, match="The model in .*sibling cannot be loaded"):
        load_denoiser(broken)


def test_low_rank_changes_are_smaller_than_what_they_change(trained: tuple[Sibling, Path]) -> None:
    sibling, folder = trained
    whole = sum(p.numel() for layer in sibling.unet.modules() if isinstance(layer, (nn.Linear, nn.Conv2d)) for p in layer.parameters())
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 0.15 * whole
