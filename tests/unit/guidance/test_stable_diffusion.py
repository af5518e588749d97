"""The denoiser from a folder against diffusers' own pipeline, and folders that must be refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from engine.errors import UserError
from engine.guidance.ddim import denoise, sample
from engine.guidance.denoiser import Denoiser
from engine.guidance.stable_diffusion import StableDiffusion, noise_and_clean
from engine.scene.view_prompts import PromptEmbeds
from tests.tiny_sd import build_tiny_sd

PROMPT = "a red mug, front view"


def pipeline(root: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(root, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_embeddings_equal_those_of_the_pipeline(tiny_root: Path, tiny: Denoiser) -> None:
    text, negative = pipeline(tiny_root).encode_prompt(PROMPT, "cpu", 1, True, "foggy")
    embeds = tiny.embed([PROMPT, "foggy"])
    assert embeds.dtype == torch.float32
    torch.testing.assert_close(embeds, torch.cat([text, negative]), atol=1e-6, rtol=0)


def test_a_prompt_beyond_the_text_encoder_is_cut_and_said(tiny: Denoiser, caplog: pytest.LogCaptureFixture) -> None:
    long = "red mug " * 40
    with caplog.at_level("WARNING"):
        assert tiny.embed([long]).shape == tiny.embed([PROMPT]).shape
    assert "reads 24 tokens" in caplog.text


@pytest.mark.parametrize("addition", [None, "text"])
@pytest.mark.parametrize(
    ("prediction", "zero_snr"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True), ("sample", False)]
)
def test_sampling_equals_the_pipelines(tmp_path: Path, prediction: str, zero_snr: bool, addition: str | None) -> None:
    root = build_tiny_sd(tmp_path, prediction_type=prediction, zero_snr=zero_snr, addition_embed_type=addition)
    denoiser = Denoiser.load(root)
    pipe = pipeline(root)
    noise = torch.randn(2, *denoiser.latent_shape, generator=torch.Generator().manual_seed(3))
    theirs = pipe(
        [PROMPT, "a mug"], negative_prompt=["", "red"], num_inference_steps=5, guidance_scale=4.0, latents=noise, output_type="latent"
    ).images
    levels = [timestep.repeat(2) for timestep in pipe.scheduler.timesteps]
    prompt = PromptEmbeds(denoiser.embed([PROMPT, "a mug"]), denoiser.embed(["", "red"]))
    ours = denoise(denoiser, noise, levels, prompt, guidance_scale=4.0)
    assert theirs.std() > 0.05
    # float32 over five steps; epsilon divides by sqrt(alpha_bar) 0.07 at the first
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_sample_gives_the_pipelines_pictures(tiny_root: Path, tiny: Denoiser) -> None:
    noise = torch.randn(1, *tiny.latent_shape, generator=torch.Generator().manual_seed(5))
    theirs = pipeline(tiny_root)(PROMPT, num_inference_steps=4, guidance_scale=2.0, latents=noise, output_type="np").images
    prompt = PromptEmbeds(tiny.embed([PROMPT]), tiny.embed([""]))
    ours = sample(tiny, prompt, n_steps=4, guidance_scale=2.0, generator=torch.Generator().manual_seed(5))
    assert ours.shape == (1, 32, 32, 3)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=2e-4, rtol=0)


def test_noise_levels_are_the_schedulers(tiny_root: Path, tiny: Denoiser) -> None:
    torch.testing.assert_close(tiny.alphas_cumprod, pipeline(tiny_root).scheduler.alphas_cumprod, atol=0, rtol=0)
    assert tiny.num_train_timesteps == 1000


def test_add_noise_equals_the_schedulers(tiny_root: Path, tiny: Denoiser) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, *tiny.latent_shape, generator=generator) for _ in range(2))
    timesteps = torch.tensor([0, 500, 999])
    theirs = pipeline(tiny_root).scheduler.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(tiny.add_noise(latents, noise, timesteps), theirs)


def test_encode_is_the_scaled_mode_of_the_vae_and_passes_its_gradient(tiny_root: Path, tiny: Denoiser) -> None:
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    cotangent = torch.linspace(-1, 1, 2 * 8 * 8 * 8).view(2, 8, 8, 8)
    vae = pipeline(tiny_root).vae
    wanted = vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    got = tiny.encode(images)
    torch.testing.assert_close(got, wanted)
    (d_wanted,) = torch.autograd.grad(wanted, images, cotangent)
    (d_got,) = torch.autograd.grad(got, images, cotangent)
    assert d_wanted.abs().max() > 1e-3
    torch.testing.assert_close(d_got, d_wanted)


@pytest.mark.parametrize("size", [(48, 80), (17, 32)], ids=str)
def test_any_render_size_is_taken_and_gets_a_gradient_everywhere(tiny: Denoiser, size: tuple[int, int]) -> None:
    images = torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    latents = tiny.encode(images)
    assert latents.shape == (1, 8, 8, 8)
    latents.square().sum().backward()
    assert images.grad is not None and (images.grad.abs() > 0).float().mean() > 0.99


def test_decode_stays_in_range_and_is_channels_last(tiny: Denoiser) -> None:
    images = tiny.decode(100 * torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (2, 32, 32, 3)
    assert 0 <= images.min() and images.max() <= 1


def test_the_model_is_frozen(tiny: Denoiser) -> None:
    assert isinstance(tiny, StableDiffusion)
    assert not any(p.requires_grad for part in (tiny._unet, tiny._vae, tiny._text_encoder) for p in part.parameters())


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_half_precision_files_are_computed_in_float32_on_a_cpu(tmp_path: Path, variant: str | None) -> None:
    full = Denoiser.load(build_tiny_sd(tmp_path / "full"))
    half = Denoiser.load(build_tiny_sd(tmp_path / "half", dtype=torch.float16, variant=variant))
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    embeds = full.embed([PROMPT])
    got, wanted = (model.predict_noise(noisy, torch.tensor([400]), embeds) for model in (half, full))
    assert got.dtype == torch.float32 and half.embed([PROMPT]).dtype == torch.float32
    torch.testing.assert_close(got, wanted, atol=3e-3, rtol=0)  # weights rounded to 11 bits
    assert not torch.equal(got, wanted)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_clean_undo_the_mixing(prediction: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    alpha_bar = torch.tensor([0.9, 0.2]).view(2, 1, 1, 1)
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    raw = {"epsilon": noise, "v_prediction": a * noise - s * clean, "sample": clean}[prediction]
    got = noise_and_clean(raw, a * clean + s * noise, alpha_bar, prediction)
    torch.testing.assert_close(got, (noise, clean), atol=1e-5, rtol=1e-5)


def test_v_prediction_is_finite_without_any_signal() -> None:
    noisy = torch.ones(1, 1, 1, 1)
    noise, clean = noise_and_clean(torch.full_like(noisy, -0.5), noisy, torch.zeros(1, 1, 1, 1), "v_prediction")
    assert (noise.item(), clean.item()) == (1.0, 0.5)


def test_embed_after_dropping_the_text_encoder_is_refused(tmp_path: Path) -> None:
    denoiser = Denoiser.load(build_tiny_sd(tmp_path))
    denoiser.drop_text_encoder()
    denoiser.drop_text_encoder()
    with pytest.raises(ValueError, match="embed all prompts before"):
        denoiser.embed([PROMPT])


def test_images_of_another_shape_are_refused(tiny: Denoiser) -> None:
    with pytest.raises(ValueError, match=r"images must be \[B, H, W, 3\] torch.float32, got \[1, 3, 32, 32\]"):
        tiny.encode(torch.zeros(1, 3, 32, 32))


# Folders that are refused


def edit_config(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_that_lacks_parts_names_them(tmp_path: Path) -> None:
    build_tiny_sd(tmp_path)
    shutil.rmtree(tmp_path / "vae")
    with pytest.raises(UserError, match=r"lacks vae\. Choose a folder in the layout of Stable Diffusion"):
        Denoiser.load(tmp_path)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    build_tiny_sd(tmp_path)
    safe = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(safe), safe.with_suffix(".bin"))  # a pickle that diffusers would read if it were let
    safe.unlink()
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        Denoiser.load(tmp_path)
    assert caught.value.code == "model" and "safetensors" in str(caught.value)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    build_tiny_sd(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be loaded"):
        Denoiser.load(tmp_path)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "scheduler", "tokenizer"])
def test_a_broken_part_is_refused(tmp_path: Path, part: str) -> None:
    build_tiny_sd(tmp_path)
    for file in (tmp_path / part).iterdir():
        file.write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        Denoiser.load(tmp_path)


def test_code_in_the_folder_does_not_run(tmp_path: Path) -> None:
    build_tiny_sd(tmp_path / "model")
    evil = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Evil: ...\n"
    for name in ("pipeline.py", "unet/evil.py", "vae/evil.py"):
        (tmp_path / "model" / name).write_text(evil)
    edit_config(tmp_path / "model" / "unet" / "config.json", _class_name="Evil", auto_map={"AutoModel": "evil.Evil"})
    edit_config(tmp_path / "model" / "model_index.json", _class_name=["pipeline", "Evil"], unet=["evil", "Evil"])
    Denoiser.load(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_an_unknown_extra_input_is_refused_by_name(tmp_path: Path) -> None:
    build_tiny_sd(tmp_path)
    edit_config(tmp_path / "unet" / "config.json", addition_embed_type="image_hint")
    with pytest.raises(UserError, match=r"extra input 'image_hint', which this version cannot use\. Choose one of .*Stable Diffusion"):
        Denoiser.load(tmp_path)


def test_an_inpainting_model_is_refused(tmp_path: Path) -> None:
    build_tiny_sd(tmp_path)
    edit_config(tmp_path / "unet" / "config.json", in_channels=9)
    with pytest.raises(UserError, match="takes 9 channels and returns 4, so it is an inpainting"):
        Denoiser.load(tmp_path)
