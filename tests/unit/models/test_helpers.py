"""Tiny encoders and ControlNets: fetched as models are, found by their names, and refused by the sentence that mends it."""

from __future__ import annotations

import json
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


def test_the_table_is_sound_and_pinned() -> None:
    for helper in helpers().values():
        assert set(helper.made_for) <= models().keys() and helper.kind in HELPER_KINDS and helper.download_mb > 0
        assert helper.id not in models() and all(source.repo.count("/") == 1 for source in helper.sources)
    assert all(helper.sources[0].is_pinned for helper in helpers().values())
    assert all(bool(helper.withheld) == bool(helper.instead) for helper in helpers().values())
    assert [helper.id for helper in helpers().values() if helper.withheld] == ["normal-sd21"]
    assert not HELPER_KINDS.keys() & FAMILIES.keys()


def test_a_fetched_tiny_encoder_is_found_by_its_name_checked_and_removed(root: Path, hub: FakeHub, taesd: Path) -> None:
    assert "is ready in" in fetch("taesd", root, hub) and "every file is as it should be" in fetch("taesd", root, hub)
    folder = helper_folder("taesd", "tiny-vae")
    assert folder == root / "taesd" == helper_folder("madebyollin/taesd", "tiny-vae")
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.safetensors", "dreamfusion-model.json"}
    row = {row.model.id: row for row in manage.helper_rows(root)}["taesd"]
    assert row.origin == "downloaded" and row.folder == str(folder) and row.can_remove
    assert row.size_bytes == sum((folder / name).stat().st_size for name in names - {"dreamfusion-model.json"})
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
    source = helpers()["depth-sd21"].sources[0]
    hub.repos[source.repo] = Repo(tmp_path / "copy", commit=source.revision)
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


def test_one_that_may_not_be_fetched_says_why_and_what_to_use_and_a_folder_of_ones_own_works(
    root: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    says = "ControlNet for normals, Stable Diffusion 2.1 (normal-sd21) cannot be fetched. The only copy"
    for ask in (
        lambda: fetch("normal-sd21", root, hub),
        lambda: helper_folder("normal-sd21", "control-net"),
        lambda: manage.check("normal-sd21", root),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        assert caught.value.code == "withheld" and caught.value.text.startswith(says) and "Use depth-sd21" in caught.value.fix
    assert main(["models", "list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("normal-sd21 ")]
    assert "holds the weights as a pickle" in line and "Use depth-sd21" in line
    (root / "normal-sd21").mkdir(parents=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (root / "normal-sd21" / name).write_text("{}")
    assert helper_folder("normal-sd21", "control-net") == root / "normal-sd21"


def test_the_list_shows_them(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    out = capsys.readouterr().out
    assert "\ntaesd " in out and "\ndepth-sd15 " in out and Helper.__name__ not in out
    assert main(["models", "list", "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)["result"]["helpers"]}
    assert rows["taesd"]["is_helper"] and not rows["taesd"]["installed"] and rows["taesd"]["made_for"][0] == "sd15"
