"""`image-target` with several DDIM steps is SDEdit (2108.01073): the target is what diffusers' image-to-image pipeline makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from engine.guidance.denoiser import Denoiser
from engine.guidance.image_target import ImageTarget
from engine.guidance.model_table import find_model, is_installed, model_folder
from engine.scene.view_prompts import PromptEmbeds
from tests.tiny_sd import build_tiny_sd

TOYBOX = find_model("toybox")
TEXT, NEGATIVE, SEED, SCALE = "a red mug, front view", "a blue view", 11, 5.0


@pytest.fixture(params=["tiny", pytest.param("toybox", marks=pytest.mark.needs_weights)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "tiny":
        return build_tiny_sd(tmp_path / "tiny")
    if not is_installed(TOYBOX):
        pytest.skip("Toybox is not trained yet")
    return model_folder(TOYBOX)


@pytest.mark.parametrize(("n_steps", "of"), [(1, 10), (3, 10), (5, 10)])
def test_the_target_is_what_the_image_to_image_pipeline_makes(root: Path, n_steps: int, of: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # We take the middle of the VAE's posterior, the pipeline a draw from it.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(root, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_modules(scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config, set_alpha_to_one=True))
    model = Denoiser.load(root)
    images = torch.rand(1, model.image_size, model.image_size, 3, generator=torch.Generator().manual_seed(2))
    theirs = pipe(
        TEXT,
        image=images.permute(0, 3, 1, 2),
        strength=n_steps / of,
        num_inference_steps=of,
        guidance_scale=SCALE,
        negative_prompt=NEGATIVE,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
    ).images
    embeds = model.embed([TEXT, NEGATIVE])
    level = torch.tensor([model.num_train_timesteps * n_steps // of - 1])
    ours = ImageTarget(guidance_scale=SCALE, rescale=0.0, n_ddim_steps=n_steps).loss(
        model, images, PromptEmbeds(embeds[:1], embeds[1:]), level, torch.Generator().manual_seed(SEED)
    )
    assert ours.target_images is not None and (ours.target_images - images).abs().mean() > 0.01
    torch.testing.assert_close(ours.target_images, torch.from_numpy(theirs), atol=1e-4, rtol=0)
