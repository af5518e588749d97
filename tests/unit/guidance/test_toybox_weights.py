"""The trained Toybox, where it is there: it loads, samples as the pipeline does, and reads what it is asked."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline

from engine.guidance.ddim import denoise
from engine.guidance.denoiser import Denoiser
from engine.guidance.model_table import find_model, is_installed, model_folder
from engine.guidance.stable_diffusion import StableDiffusion
from engine.guidance.vocabulary import check_prompt
from engine.scene.view_prompts import PromptEmbeds, ViewPrompts, compose_prompt

TOYBOX = find_model("toybox")
pytestmark = [pytest.mark.needs_weights, pytest.mark.skipif(not is_installed(TOYBOX), reason="Toybox is not trained yet")]


@pytest.fixture(scope="module")
def toybox() -> StableDiffusion:
    denoiser = Denoiser.load(model_folder(TOYBOX))
    assert isinstance(denoiser, StableDiffusion)
    return denoiser


def test_its_resolution_and_prediction_are_the_tables(toybox: StableDiffusion) -> None:
    assert (toybox.image_size, toybox.prediction_type) == (TOYBOX.resolution_px, TOYBOX.prediction_type)


def test_it_samples_as_the_pipeline_does(toybox: StableDiffusion) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(model_folder(TOYBOX), local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, *toybox.latent_shape, generator=torch.Generator().manual_seed(0))
    text = "a red mug, front view"
    theirs = pipe(text, num_inference_steps=4, guidance_scale=4.0, latents=noise, output_type="latent").images
    prompt = PromptEmbeds(toybox.embed([text]), toybox.embed([""]))
    ours = denoise(toybox, noise, [level.repeat(1) for level in pipe.scheduler.timesteps], prompt, guidance_scale=4.0)
    # The pipeline's last step goes to the scheduler's final alpha_bar; without set_alpha_to_one that leaves a trace of noise.
    leftover = 0.0 if pipe.scheduler.config.set_alpha_to_one else (1 - toybox.alphas_cumprod[0]).sqrt().item()
    assert (ours - theirs).abs().mean() < 1e-3 + 2 * leftover


def test_every_prop_is_understood_and_fits_the_text_encoder(toybox: StableDiffusion) -> None:
    vocabulary = TOYBOX.load_vocabulary()
    assert vocabulary is not None and len(vocabulary.nouns) >= 40 and len(vocabulary.colors) >= 12
    for name, noun in vocabulary.canonical().items():
        assert check_prompt(f"a striped turquoise {name}", vocabulary, []).nouns[0] == noun
        prompt = compose_prompt(f"a striped turquoise {name}", "unlit", "right side view")
        assert toybox.n_tokens(prompt) <= toybox.max_tokens, prompt


def test_its_text_encoder_tells_views_and_shadings_apart(toybox: StableDiffusion) -> None:
    prompts = ViewPrompts("a red mug", "", toybox.embed, view_words=TOYBOX.view_words, shading_words=TOYBOX.shading_words)
    azimuth, level = torch.tensor([0.0, 180.0]), torch.zeros(2)
    lit, clay = prompts.embeds(azimuth, level).text, prompts.embeds(azimuth, level, "textureless").text
    assert (lit[0] - lit[1]).abs().mean() > 1e-3
    assert (lit - clay).abs().mean() > 1e-3
