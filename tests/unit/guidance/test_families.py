"""Each family against diffusers' own pipeline on the same tiny folder: same seed, same numbers."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, IFPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.guidance.ddim import denoise
from engine.guidance.deepfloyd import DeepFloyd
from engine.guidance.denoiser import Denoiser
from engine.guidance.families import FAMILIES, check_family, kind_of
from engine.guidance.model_records import MODELS_VARIABLE
from engine.guidance.sds import SDS
from engine.guidance.stable_diffusion_xl import StableDiffusionXL
from engine.scene.view_prompts import PromptEmbeds
from tests.tiny_families import build_tiny_if, build_tiny_sdxl, edit

PROMPTS = ["a red mug", "a blue mug"]


@pytest.fixture(scope="module")
def sdxl_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def if_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_if(tmp_path_factory.mktemp("if"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))


def quiet(pipe):  # type: ignore[no-untyped-def]
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_every_row_names_a_denoiser_with_a_loader() -> None:
    for family in FAMILIES.values():
        module, name = family.denoiser.split(":")
        cls = getattr(importlib.import_module(module), name)
        assert issubclass(cls, Denoiser) and callable(cls.load) and ("unet" in family.parts) is not bool(family.method)


def test_a_folder_is_known_by_its_unet(sdxl_root: Path, if_root: Path, tiny_root: Path) -> None:
    assert [kind_of(root) for root in (sdxl_root, if_root, tiny_root)] == ["stable-diffusion-xl", "deepfloyd", "stable-diffusion"]
    assert isinstance(Denoiser.load(sdxl_root), StableDiffusionXL) and isinstance(Denoiser.load(if_root), DeepFloyd)


@pytest.mark.parametrize("negative", [None, "red"])
def test_sdxl_samples_what_the_pipeline_samples(sdxl_root: Path, negative: str | None) -> None:
    model = Denoiser.load(sdxl_root)
    pipe = quiet(StableDiffusionXLPipeline.from_pretrained(sdxl_root, local_files_only=True, add_watermarker=False))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    negatives = None if negative is None else [negative] * 2
    theirs = pipe(PROMPTS, negative_prompt=negatives, num_inference_steps=4, guidance_scale=4.0, latents=noise, output_type="latent").images
    levels = [timestep.repeat(2) for timestep in pipe.scheduler.timesteps]
    prompt = PromptEmbeds(model.embed(PROMPTS), model.embed([negative or ""] * 2))
    ours = denoise(model, noise, levels, prompt, guidance_scale=4.0)
    assert theirs.std() > 0.05 and not torch.allclose(theirs[0], theirs[1])
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_sdxl_reads_with_both_encoders_and_says_when_a_prompt_is_cut(sdxl_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Denoiser.load(sdxl_root)
    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl_root, local_files_only=True, add_watermarker=False)
    tokens, _, pooled, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    embeds = model.embed(PROMPTS)
    assert embeds.shape == (2, 25, 40)
    torch.testing.assert_close(embeds[:, :-1], tokens)
    torch.testing.assert_close(embeds[:, -1, :20], pooled)
    assert not embeds[:, -1, 20:].any() and not model.embed(["  "]).any()
    with caplog.at_level("WARNING"):
        model.embed(["red mug " * 40])
    assert caplog.text.count("reads 24 tokens") == 1
    model.drop_text_encoder()
    with pytest.raises(ValueError, match="embed all prompts before"):
        model.embed(PROMPTS)


@pytest.mark.parametrize(("upcast", "dtype"), [(True, torch.float32), (False, torch.float16)])
def test_sdxls_own_vae_leaves_half_precision_and_the_repaired_one_does_not(tmp_path: Path, upcast: bool, dtype: torch.dtype) -> None:
    model = Denoiser.load(build_tiny_sdxl(tmp_path, force_upcast=upcast), dtype=torch.float16)
    assert isinstance(model, StableDiffusionXL) and model._vae.dtype == dtype and model._unet.dtype == torch.float16
    images = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    model.encode(images).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().max() > 0


def test_a_folder_that_lacks_sdxls_second_encoder_says_so(sdxl_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(sdxl_root, tmp_path / "half")
    shutil.rmtree(root / "text_encoder_2")
    with pytest.raises(UserError, match=r"lacks text_encoder_2\. Choose a folder in the layout of Stable Diffusion XL"):
        Denoiser.load(root)


def test_sdxls_refiner_is_refused(sdxl_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(sdxl_root, tmp_path / "refiner")
    edit(root / "unet" / "config.json", projection_class_embeddings_input_dim=6 * 8)
    with pytest.raises(UserError, match="cannot be loaded|cannot guide"):
        Denoiser.load(root)


def test_if_samples_what_the_pipeline_samples(if_root: Path) -> None:
    model = Denoiser.load(if_root)
    pipe = quiet(IFPipeline.from_pretrained(if_root, local_files_only=True))
    pipe.scheduler = DDIMScheduler.from_config({**pipe.scheduler.config, "thresholding": False, "clip_sample": False})
    pipe.scheduler.register_to_config(variance_type="fixed_small")
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    pipe.prepare_intermediate_images = lambda *_args: noise.clone()
    arguments = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "pt", "clean_caption": False}
    theirs = pipe([prompt.upper() for prompt in PROMPTS], negative_prompt=["", "red"], **arguments).images
    levels = [timestep.repeat(2) for timestep in pipe.scheduler.timesteps]
    prompt = PromptEmbeds(model.embed(PROMPTS), model.embed(["", "Red"]))
    ours = denoise(model, noise, levels, prompt, guidance_scale=4.0)
    assert theirs.std() > 0.05
    # the first level has alpha_bar 2e-9: x0 is a difference of nearly equal numbers divided by 5e-5
    torch.testing.assert_close(ours, theirs, atol=1e-2 * float(theirs.std()), rtol=1e-2)


def test_if_reads_as_the_pipeline_does(if_root: Path) -> None:
    pipe = IFPipeline.from_pretrained(if_root, local_files_only=True)
    theirs, _ = pipe.encode_prompt(PROMPTS, do_classifier_free_guidance=False)
    embeds = Denoiser.load(if_root).embed(["A Red Mug ", "a blue mug"])
    torch.testing.assert_close(embeds, theirs)
    assert embeds.shape == (2, 77, 24)


def test_if_learned_variance_is_cut_off_and_pixels_are_judged_as_they_are(if_root: Path) -> None:
    model = Denoiser.load(if_root)
    images = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert model.latent_shape == (3, 16, 16)
    torch.testing.assert_close(model.decode(model.encode(images)), images)
    prompt = PromptEmbeds(model.embed(PROMPTS), model.embed([""] * 2))
    loss = SDS().loss(model, images, prompt, torch.tensor([300, 700]), torch.Generator().manual_seed(1)).loss
    loss.backward()
    assert images.grad is not None and images.grad.abs().max() > 0


def test_t5_is_loaded_once_for_the_same_words(if_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Denoiser.load(if_root).embed(PROMPTS)
    loads = []
    loader = DeepFloyd._load_tokenizer
    monkeypatch.setattr(DeepFloyd, "_load_tokenizer", lambda self: loads.append(1) or loader(self))
    assert torch.equal(Denoiser.load(if_root).embed(PROMPTS[::-1]), first.flip(0)) and not loads
    mixed = Denoiser.load(if_root).embed([PROMPTS[1], "a mug", PROMPTS[1]])
    assert len(loads) == 1 and torch.equal(mixed[0], first[1]) and torch.equal(mixed[2], first[1])
    for file in (tmp_path / "models" / ".embeddings").iterdir():
        file.write_bytes(b"broken")
    assert torch.equal(Denoiser.load(if_root).embed(PROMPTS), first) and len(loads) == 2


def test_other_weights_do_not_meet_the_cache(if_root: Path, tmp_path: Path) -> None:
    first = Denoiser.load(if_root).embed(PROMPTS)
    root = shutil.copytree(if_root, tmp_path / "other")
    file = root / "text_encoder" / "model.safetensors"
    save_file({name: 1.01 * tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    assert not torch.equal(Denoiser.load(root).embed(PROMPTS), first)


def test_a_tokenizer_folder_without_words_is_refused(if_root: Path, tmp_path: Path) -> None:
    """transformers would make one of it that knows no word."""
    root = shutil.copytree(if_root, tmp_path / "empty")
    (root / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has neither tokenizer.json nor spiece.model"):
        Denoiser.load(root).embed(["a mug"])
    (root / "tokenizer" / "spiece.model").write_bytes(b"\x0a\x00")
    with pytest.raises(UserError, match="is no SentencePiece file, or is cut off"):
        Denoiser.load(root).embed(["a mug"])


def test_ifs_enlarging_stages_are_refused(if_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(if_root, tmp_path / "stage2")
    edit(root / "unet" / "config.json", class_embed_type="timestep", in_channels=6)
    with pytest.raises(UserError, match="takes 6 channels and returns 6, so it is an inpainting or upscaling model"):
        check_family(root)
    settings = json.loads((root / "unet" / "config.json").read_text())
    assert not any(family.fits(settings) for family in FAMILIES.values())
