"""ControlNets: the same numbers as diffusers' pipeline, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

from engine.cli import main
from engine.errors import UserError
from engine.guidance.configured import load_configured
from engine.guidance.ddim import denoise
from engine.guidance.denoiser import Denoiser
from engine.guidance.denoiser_config import DenoiserConfig
from engine.guidance.memory import weight_bytes
from engine.guidance.oracle import OracleDenoiser
from engine.scene.view_prompts import PromptEmbeds
from tests.tiny_control_net import build_control_net
from tests.tiny_families import build_tiny_if, build_tiny_sdxl
from tests.tiny_mvdream import build_tiny_mvdream
from tests.tiny_sd import build_tiny_sd
from tests.tiny_zero123 import build_tiny_zero123


@pytest.fixture(scope="module")
def model_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sd(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def control_root(tmp_path_factory: pytest.TempPathFactory, model_root: Path) -> Path:
    return build_control_net(tmp_path_factory.mktemp("control"), model_root)


def depth(n: int) -> torch.Tensor:
    return torch.rand(n, 32, 32, 1, generator=torch.Generator().manual_seed(4)).expand(-1, -1, -1, 3)


def test_what_is_drawn_is_what_the_pipeline_draws(model_root: Path, control_root: Path) -> None:
    net = ControlNetModel.from_pretrained(control_root)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(model_root, controlnet=net, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    prompts, pictures = ["a red mug", "a mug"], depth(2)
    arguments = {"num_inference_steps": 4, "guidance_scale": 4.0, "latents": noise, "output_type": "latent"}
    theirs = pipe(prompts, image=pictures.permute(0, 3, 1, 2), controlnet_conditioning_scale=0.7, **arguments).images
    model = Denoiser.load(model_root)
    levels = [timestep.repeat(2) for timestep in pipe.scheduler.timesteps]
    prompt = PromptEmbeds(model.embed(prompts), model.embed(["", ""]))
    without = denoise(model, noise, levels, prompt, guidance_scale=4.0)
    model.use_control_net(control_root, 0.7)
    model.show_surface(pictures)
    ours = denoise(model, noise, levels, prompt, guidance_scale=4.0)
    assert (ours - without).abs().max() > 0.05
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_a_control_net_without_pictures_says_what_is_missing(model_root: Path, control_root: Path) -> None:
    model = Denoiser.load(model_root)
    model.use_control_net(control_root)
    with pytest.raises(ValueError, match=r"call show\(\) before predict"):
        model.predict(torch.zeros(1, *model.latent_shape), torch.tensor([3]), model.embed(["a mug"]))


def test_what_does_not_fit_is_refused(model_root: Path, control_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no ControlNet: it has no config.json"):
        Denoiser.load(model_root).use_control_net(model_root)
    with pytest.raises(UserError, match="made for another model: its cross_attention_dim is 16, the model's is 40"):
        Denoiser.load(build_tiny_sdxl(tmp_path / "xl")).use_control_net(control_root)
    for denoiser in (
        OracleDenoiser(torch.rand(1, 8, 8, 3)),
        Denoiser.load(build_tiny_mvdream(tmp_path / "mvdream")),
        Denoiser.load(build_tiny_zero123(tmp_path / "zero123")),
        Denoiser.load(build_tiny_if(tmp_path / "if")),
    ):
        with pytest.raises(UserError, match="takes no ControlNet"):
            denoiser.use_control_net(control_root)
    (tmp_path / "pickle").mkdir()
    (tmp_path / "pickle" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no .safetensors file. Choose one with safetensors"):
        Denoiser.load(model_root).use_control_net(tmp_path / "pickle")


def test_its_weights_are_counted_and_its_attention_is_sliced_where_memory_is_short(model_root: Path, control_root: Path) -> None:
    config = DenoiserConfig(control_net=str(control_root), control_scale=0.5, vram="low", precision="float32")
    model = load_configured(model_root, "cpu", config)
    in_file = (control_root / "diffusion_pytorch_model.safetensors").stat().st_size
    assert 0.8 * in_file < weight_bytes(model)["control_net"] <= in_file
    model.show_surface(depth(1))
    whole = load_configured(model_root, "cpu", dataclasses.replace(config, vram="high"))
    whole.show_surface(depth(1))
    z, t, embeds = torch.zeros(1, *model.latent_shape), torch.tensor([300]), model.embed(["a mug"])
    torch.testing.assert_close(model.predict_noise(z, t, embeds), whole.predict_noise(z, t, embeds), atol=1e-5, rtol=1e-4)


def test_sample_draws_on_a_surface(model_root: Path, control_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "depth.png"
    PIL.Image.fromarray((255 * depth(1)[0].numpy()).astype(np.uint8)).save(picture)
    base = ["sample", "a mug", "--model", str(model_root), "--number", "1", "--steps", "2", "--json"]
    control = ["--control-net", str(control_root), "--control-image", str(picture)]

    def drawn(*words: str) -> np.ndarray:
        assert main([*base, *words, "--out", str(tmp_path / str(len(words)))]) == 0
        (path,) = json.loads(capsys.readouterr().out.splitlines()[-1])["result"]["paths"]
        return np.asarray(PIL.Image.open(path))

    plain, held, not_at_all = drawn(), drawn(*control), drawn(*control, "--control-scale", "0")
    assert not np.array_equal(plain, held) and np.array_equal(plain, not_at_all)
    assert main([*base, *control[:2]]) == 2
    assert "go together, and only one of the two is given" in capsys.readouterr().err
    assert main([*base, *control[:3], str(model_root / "model_index.json")]) == 2
    assert "cannot be read as a picture" in capsys.readouterr().err
