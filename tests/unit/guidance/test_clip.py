"""CLIP: the features of transformers' own methods, a gradient that finite differences confirm, and pictures that come to fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from engine.errors import UserError
from engine.guidance.clip import SMALLEST_CROP, ClipSimilarity, random_crops
from engine.guidance.clip_model import Clip
from engine.guidance.denoiser import Denoiser
from engine.guidance.families import check_family, kind_of
from engine.scene.view_prompts import PromptEmbeds
from tests.tiny_clip import DIM, MAX_TOKENS, SIZE, build_tiny_clip

T = torch.zeros(2, dtype=torch.long)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(root: Path) -> Clip:
    found = Denoiser.load(root)
    assert isinstance(found, Clip)
    return found


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(clip: Denoiser, text: str, negative: str = "", n: int = 2) -> PromptEmbeds:
    first, second, empty = (clip.embed([words]).expand(n, -1, -1) for words in (text, negative, ""))
    return PromptEmbeds(first, second if negative else empty, empty)


def test_a_folder_is_known_by_its_settings(root: Path, clip: Clip) -> None:
    assert kind_of(root) == "clip" and check_family(root) is None
    assert (clip.image_size, clip.latent_shape, clip.num_train_timesteps) == (SIZE, (DIM, 1, 1), 1)


def test_features_are_those_of_transformers_own_methods(root: Path, clip: Clip) -> None:
    model, tokenizer = CLIPModel.from_pretrained(root).eval(), CLIPTokenizer.from_pretrained(root)
    images = (255 * torch.rand(2, SIZE, SIZE, 3, generator=generator())).round() / 255
    processor = CLIPImageProcessor.from_pretrained(root)
    pixels = processor(images=[(255 * image).round().byte().numpy() for image in images], return_tensors="pt").pixel_values
    texts = ["a red mug", "a mug, view"]
    with torch.no_grad():
        seen = normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        read = normalize(model.get_text_features(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output, dim=-1)
        torch.testing.assert_close(clip.encode(images)[:, :, 0, 0], seen, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.embed(texts)[:, 0], read, atol=1e-5, rtol=1e-4)
    assert (seen[0] - seen[1]).abs().max() > 0.01 and (read[0] - read[1]).abs().max() > 0.01


def test_the_loss_is_the_written_formula(clip: Clip) -> None:
    images = torch.rand(2, 40, 40, 3, generator=generator())
    got = ClipSimilarity(guidance_scale=3.0, negative_scale=0.5, n_crops=2).loss(
        clip, images, prompts(clip, "a mug", "red"), T, generator(7)
    )
    crops = random_crops(images, 2, SIZE, generator(7))
    fits = [cosine_similarity(clip.encode(crops)[:, :, 0, 0], clip.embed([text])[:, 0].expand(4, -1), dim=-1) for text in ("a mug", "red")]
    torch.testing.assert_close(got.loss, 3 * (1 - fits[0] + 0.5 * fits[1]).mean())
    torch.testing.assert_close(got.metrics["similarity"], fits[0].mean())
    plain = ClipSimilarity(guidance_scale=3.0, n_crops=2).loss(clip, images, prompts(clip, "a mug"), T, generator(7))
    torch.testing.assert_close(plain.loss, 3 * (1 - fits[0]).mean())


def test_the_gradient_is_that_of_finite_differences_in_float64(root: Path) -> None:
    clip = Clip.load(root, dtype=torch.float64)
    images = 0.25 + 0.5 * torch.rand(2, 40, 40, 3, generator=generator(), dtype=torch.float64)  # resizing never overshoots 0 or 1
    prompt = prompts(clip, "a red mug", "a view")

    def loss(pictures: torch.Tensor) -> torch.Tensor:
        return ClipSimilarity(guidance_scale=10.0).loss(clip, pictures, prompt, T, generator(2)).loss

    leaf = images.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf)
    for seed in range(3):
        direction = torch.randn(images.shape, generator=generator(seed + 10), dtype=torch.float64)
        step = 1e-5 * direction
        found = (loss(images + step) - loss(images - step)) / 2e-5
        assert float(found) == pytest.approx(float((grad * direction).sum()), rel=1e-5) and abs(float(found)) > 1e-6


def test_optimising_a_picture_raises_its_fit_with_the_prompt_and_a_negative_one_holds_it_off(clip: Clip) -> None:
    prompt = prompts(clip, "a red mug", "a view", n=1)  # this random encoder says nearly the same to both: their cosine is 0.95

    def fits(pixels: torch.Tensor) -> tuple[float, float]:
        with torch.no_grad():
            seen = clip.encode(pixels.sigmoid())[:, :, 0, 0]
        return tuple(cosine_similarity(seen, embeds[:, 0], dim=-1).item() for embeds in (prompt.text, prompt.negative))  # type: ignore[return-value]

    def optimised(negative_scale: float) -> tuple[float, float]:
        pixels = torch.zeros(1, 32, 32, 3, requires_grad=True)
        optimizer, draws = torch.optim.Adam([pixels], lr=0.05), generator(1)
        for _ in range(60):
            optimizer.zero_grad()
            ClipSimilarity(negative_scale=negative_scale).loss(clip, pixels.sigmoid(), prompt, T[:1], draws).loss.backward()
            optimizer.step()
        return fits(pixels.detach())

    before, plain, held = fits(torch.zeros(1, 32, 32, 3)), optimised(0.0), optimised(0.5)
    assert plain[0] > before[0] + 0.25 and held[0] > before[0] + 0.25
    assert held[0] - held[1] > 1.5 * (plain[0] - plain[1])


def test_crops_are_squares_inside_the_picture_and_most_of_it() -> None:
    rows = torch.arange(40.0).view(1, 40, 1, 1).expand(1, 40, 60, 1)
    columns = torch.arange(60.0).view(1, 1, 60, 1).expand(1, 40, 60, 1)
    crops = random_crops(torch.cat([rows, columns], dim=-1), 50, 8, generator())
    assert crops.shape == (50, 8, 8, 2)
    down, right = (crops[:, -1, -1] - crops[:, 0, 0]).unbind(-1)
    torch.testing.assert_close(down, right, atol=0.5, rtol=0)
    sides = down * 8 / 7
    assert sides.min() > 40 * SMALLEST_CROP - 2 and sides.max() <= 41 and sides.std() > 1 and crops[:, 0, 0, 1].std() > 3


def test_what_it_cannot_do_is_said(clip: Clip, root: Path, tiny: Denoiser, caplog: pytest.LogCaptureFixture) -> None:
    for call in (lambda: clip.decode(torch.zeros(1, DIM, 1, 1)), lambda: clip.predict(torch.zeros(1, DIM, 1, 1), T[:1], torch.zeros(1))):
        with pytest.raises(UserError, match="CLIP compares pictures with words and denoises nothing. Use --guidance.method clip"):
            call()
    with pytest.raises(ValueError, match=r"needs CLIP, got latents of the shape \[8, 8, 8\]"):
        ClipSimilarity().loss(tiny, torch.rand(1, 8, 8, 3), PromptEmbeds(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4)), T[:1], generator())
    with pytest.raises(ValueError, match=r"must be \[B, S, S, 3\]"):
        clip.encode(torch.rand(1, 8, 9, 3))
    with caplog.at_level("WARNING"):
        clip.embed(["red mug " * 40])
    assert f"reads {MAX_TOKENS} tokens" in caplog.text
    other = Clip.load(root)
    other.drop_text_encoder()
    assert list(other.parts) == ["vision_model"]
    with pytest.raises(ValueError, match="embed all prompts before"):
        other.embed(["a mug"])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: (root / "model.safetensors").unlink(), "cannot be loaded: "),
        (lambda root: (root / "model.safetensors").write_bytes(b"\x10\x00"), "cannot be loaded: "),
        (lambda root: (root / "preprocessor_config.json").unlink(), "cannot be loaded: "),
        (lambda root: _edit(root / "preprocessor_config.json", crop_size=224), "its pictures have 224 pixels, but its network takes 28"),
    ],
    ids=["no weights", "cut off", "no constants", "another size"],
)
def test_a_broken_folder_is_a_sentence(tmp_path: Path, spoil, says: str) -> None:  # type: ignore[no-untyped-def]
    root = build_tiny_clip(tmp_path / "clip")
    spoil(root)
    with pytest.raises(UserError, match=says) as caught:
        Denoiser.load(root)
    assert caught.value.code == "model"


def test_half_precision_gives_unit_vectors_and_a_gradient(tmp_path: Path) -> None:
    clip = Denoiser.load(build_tiny_clip(tmp_path / "clip", dtype=torch.bfloat16), dtype=torch.bfloat16)
    images = torch.rand(2, SIZE, SIZE, 3, generator=generator()).requires_grad_()
    embeds = clip.encode(images)
    torch.testing.assert_close(embeds.flatten(1).norm(dim=1), torch.ones(2))
    embeds.sum().backward()
    assert embeds.dtype == torch.float32 and images.grad is not None and images.grad.isfinite().all() and images.grad.abs().max() > 0


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
