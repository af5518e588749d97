"""Tiny encoders and ControlNets: fetched as models are, found by their names, and refused by the sentence that mends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel

from engine.cli import main
from engine.errors import UserError
from engine.guidance.configured import load_configured, tiny_encoder
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import DenoiserConfig
from engine.guidance.families import FAMILIES
from engine.guidance.helpers import HELPER_KINDS, Helper, helper_folder, helpers
from engine.guidance.model_table import models
from engine.model_store import manage
from engine.model_store.download import download
from engine.model_store.hub import Hub
from tests.tiny_sd import build_tiny_sd
from tests.unit.models.fake_hub import FakeHub, Repo

TINY = dict(
    encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
    num_decoder_blocks=(1, 1, 1), latent_channels=4,
)  # fmt: skip


@pytest.fixture
def taesd(hub: FakeHub, tmp_path: Path) -> Path:
    """On the small hub under the names of the table, beside what its copy there has too."""
    folder = tmp_path / "copy-of-taesd"
    AutoencoderTiny(**TINY).save_pretrained(folder)
    (folder / "taesd_encoder.safetensors").write_bytes(b"other layout")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("# taesd")
    source = helpers()["taesd"].sources[0]
    hub.repos[source.repo] = Repo(folder, commit=source.revision)
    return folder


def fetch(name: str, root: Path, hub: FakeHub) -> str:
    return download(helpers()[name], root, hub=Hub(hub.url))


def test_the_table_is_sound_and_pinned_where_a_public_project_pins_it() -> None:
    for helper in helpers().values():
        assert set(helper.made_for) <= models().keys() and helper.kind in HELPER_KINDS and helper.download_mb > 0
        assert helper.id not in models() and all(source.repo.count("/") == 1 for source in helper.sources)
    unpinned = [helper.id for helper in helpers().values() if len(helper.sources[0].revision) != 40]
    assert unpinned == ["depth-sd21", "normal-sd21"]
    assert not HELPER_KINDS.keys() & FAMILIES.keys()


def test_a_fetched_tiny_encoder_is_found_by_its_name_checked_and_removed(root: Path, hub: FakeHub, taesd: Path) -> None:
    assert "is ready in" in fetch("taesd", root, hub) and "every file is as it should be" in fetch("taesd", root, hub)
    folder = helper_folder("taesd", "tiny-vae")
    assert folder == root / "taesd" == helper_folder("madebyollin/taesd", "tiny-vae")
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.safetensors", "dreamfusion-model.json"}
    assert dict((helper.id, origin) for helper, origin in manage.helper_states(root))["taesd"] == "downloaded"
    assert "all 2 files are as they were when they came" in manage.check("taesd", root)
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="damaged.*models download taesd") as caught:
        manage.check("taesd", root)
    assert caught.value.code == "damaged" and "is ready in" in fetch("taesd", root, hub) and manage.check("taesd", root)
    assert "is deleted" in manage.remove("taesd", root) and not folder.exists()


def test_low_memory_takes_the_tiny_encoder_of_the_model_once_it_is_there(root: Path, hub: FakeHub, taesd: Path, tmp_path: Path) -> None:
    low = DenoiserConfig(vram="low", precision="float32")
    assert tiny_encoder(low, "sd15") is None
    fetch("taesd", root, hub)
    assert tiny_encoder(low, "sd15") == root / "taesd"
    assert tiny_encoder(low, "sdxl") is None and tiny_encoder(low, "toybox") is None and tiny_encoder(low, "mine") is None
    assert tiny_encoder(replace(low, vram="normal"), "sd15") is None and tiny_encoder(replace(low, tiny_vae="none"), "sd15") is None
    assert tiny_encoder(replace(low, vram="high", tiny_vae="taesd"), "mine") == root / "taesd"
    model = build_tiny_sd(tmp_path / "model")
    images = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    theirs = AutoencoderTiny.from_pretrained(taesd).encode(2 * images.permute(0, 3, 1, 2) - 1).latents
    torch.testing.assert_close(load_configured(model, "cpu", low, "sd15").encode(images), theirs)
    torch.testing.assert_close(load_configured(model, "cpu", low, "toybox").encode(images), Denoiser.load(model).encode(images))


def test_a_control_net_is_found_by_its_name(root: Path, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import PIL.Image

    model = build_tiny_sd(tmp_path / "model")
    net = ControlNetModel.from_unet(
        UNet2DConditionModel.from_pretrained(model, subfolder="unet"), conditioning_embedding_out_channels=(8, 8, 8)
    )
    net.save_pretrained(tmp_path / "copy")
    hub.repos["thibaud/controlnet-sd21-depth-diffusers"] = Repo(tmp_path / "copy")
    PIL.Image.new("RGB", (32, 32), "gray").save(tmp_path / "depth.png")
    words = ["sample", "a red mug", "--model", str(model), "--number", "1", "--steps", "2", "--out", str(tmp_path / "out")]
    words += ["--control-net", "depth-sd21", "--control-image", str(tmp_path / "depth.png")]
    assert main(words) == 2 and "models download depth-sd21" in capsys.readouterr().err
    fetch("depth-sd21", root, hub)
    assert main(words) == 0 and len(list((tmp_path / "out").glob("*.png"))) == 1


def test_what_is_no_such_helper_is_a_sentence(root: Path, hub: FakeHub, taesd: Path) -> None:
    with pytest.raises(UserError, match="'depth-sd15' is a ControlNet, and a tiny encoder is wanted. Use taesd or taesdxl"):
        helper_folder("depth-sd15", "tiny-vae")
    with pytest.raises(UserError, match="'tasd' is neither its name nor a folder"):
        helper_folder("tasd", "tiny-vae")
    with pytest.raises(UserError, match=r"not on this machine. Run: python -m engine models download taesd"):
        helper_folder("taesd", "tiny-vae")
    (taesd / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="offers its weights as a pickle only, which can run code.*say its folder"):
        fetch("taesd", root, hub)
    with pytest.raises(UserError, match="There is a model called taesd already"):
        manage.free_name("taesd", {})


def test_the_list_shows_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert "\ntaesd " in out and "\ndepth-sd15 " in out and Helper.__name__ not in out
