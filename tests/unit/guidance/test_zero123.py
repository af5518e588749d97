"""Zero123 against its published layout, and against its pipeline's steps written out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.errors import UserError
from engine.guidance.image_target import ImageTarget
from engine.guidance.picture_views import PictureViews
from engine.guidance.sds import SDS
from engine.guidance.zero123 import ClipPixels, Zero123, camera_moves
from engine.scene.view_prompts import PromptEmbeds
from tests.tiny_zero123 import DIM, MEAN, STD, build_tiny_zero123
from tests.unit.guidance.test_picture_views import orbit

# Shapes of the published conversions. Sources: github.com/dreamgaussian/dreamgaussian zero123.py (CLIPCameraProjection: `proj`,
# 768 + 4 to 768; _get_latent_model_input: 4 noisy and 4 picture channels), github.com/kxhit/zero123-hf
# scripts/convert_zero123_to_diffusers.py with configs/sd-objaverse-finetune-c_concat-256.yaml (U-Net: Stable Diffusion 1.x's at
# image_size 32 with in_channels 8), and the same repository's pipeline (image encoder: clip-vit-large-patch14, dimension 768).
PUBLISHED_PROJECTION = {"proj.weight": (768, 772), "proj.bias": (768,)}
PUBLISHED_UNET = {
    "conv_in.weight": (320, 8, 3, 3),
    "conv_out.weight": (4, 320, 3, 3),
    "time_embedding.linear_1.weight": (1280, 320),
    "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "down_blocks.2.attentions.1.transformer_blocks.0.attn1.to_out.0.weight": (1280, 1280),
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
    "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_v.weight": (320, 768),
    "up_blocks.0.upsamplers.0.conv.weight": (1280, 1280, 3, 3),
}
PUBLISHED_UNET_CONFIG = {
    "sample_size": 32, "in_channels": 8, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
    "cross_attention_dim": 768, "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_zero123(tmp_path_factory.mktemp("zero123") / "zero123-xl")


@pytest.fixture
def model(root: Path) -> Zero123:
    return Zero123.load(root)


def pictures(*places: tuple[float, float], weights: tuple[float, ...] = ()) -> PictureViews:
    n = len(places)
    generator = torch.Generator().manual_seed(3)
    return PictureViews(torch.rand(n, 64, 64, 3, generator=generator), orbit(*places), torch.tensor(weights or (1.0,) * n))


def no_words(model: Zero123, n: int) -> PromptEmbeds:
    rows = model.embed([""]).expand(n, -1, -1)
    return PromptEmbeds(rows, rows)


def noisy(n: int) -> Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_published_layout_is_the_one_that_is_loaded(root: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in UNet2DConditionModel(**PUBLISHED_UNET_CONFIG).state_dict().items()}
    assert {name: shapes[name] for name in PUBLISHED_UNET} == PUBLISHED_UNET and len(shapes) == 686
    ours = load_file(str(root / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"))
    assert {name: tuple(value.shape) for name, value in ours.items()} == {"proj.weight": (DIM, DIM + 4), "proj.bias": (DIM,)}
    assert set(ours) == set(PUBLISHED_PROJECTION)


def test_one_view_is_what_the_published_pipeline_computes(root: Path, model: Zero123) -> None:
    views, cameras = pictures((20, 10)), orbit((75, -5), radius=3.3)
    model.look_at(views)
    prompt = model.condition(no_words(model, 1), cameras)
    z, t = noisy(1), torch.tensor([400])
    noise, clean = model.predict(z, t, prompt.text)

    # Written out anew, step by step: CLIP embedding and move through the layer, the picture's unscaled latents as channels.
    image = views.pictures.permute(0, 3, 1, 2)
    pixels = torch.nn.functional.interpolate(image, (28, 28), mode="bicubic", antialias=True).clamp(0, 1)
    pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    embedding = model._text_encoder(pixels).image_embeds
    distance = 0.5 / 0.9 / math.tan(math.radians(49.1 / 2)) * math.tan(math.radians(20)) * (3.3 - 3.0)
    move = torch.tensor([[math.radians(10 - -5), math.sin(math.radians(55)), math.cos(math.radians(55)), distance]])
    layer = load_file(str(root / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"))
    token = torch.cat([embedding, move], dim=1) @ layer["proj.weight"].T + layer["proj.bias"]
    small = torch.nn.functional.interpolate(image, (32, 32), mode="bilinear", antialias=True)
    latents = model._vae.encode(2 * small - 1).latent_dist.mode()
    expected = model._unet(torch.cat([z, latents], dim=1), t, encoder_hidden_states=token[:, None]).sample
    torch.testing.assert_close(noise, expected, atol=2e-5, rtol=1e-4)
    a = model.alpha_bar(t)
    torch.testing.assert_close(clean, (z - (1 - a).sqrt() * expected) / a.sqrt(), atol=1e-4, rtol=1e-4)


def test_without_a_picture_both_conditions_are_zero(model: Zero123) -> None:
    model.look_at(pictures((0, 0), (90, 0)))
    prompt = model.condition(no_words(model, 1), orbit((30, 0)))
    z, t = noisy(1), torch.tensor([400])
    expected = model._unet(torch.cat([z, torch.zeros_like(z)], dim=1), t, encoder_hidden_states=torch.zeros(1, 1, DIM)).sample
    torch.testing.assert_close(model.predict_noise(z, t, prompt.negative), expected, atol=2e-5, rtol=1e-4)


def test_several_pictures_answer_by_their_shares(root: Path, model: Zero123) -> None:
    cameras, z, t = orbit((30, 0), (0, 0)), noisy(2), torch.tensor([300, 600])
    views = pictures((0, 0), (90, 0))
    alone = []
    for i in range(2):
        one = Zero123.load(root)
        one.look_at(PictureViews(views.pictures[i : i + 1], views.cameras[i : i + 1], torch.ones(1)))
        alone.append(one.predict_noise(z, t, one.condition(no_words(one, 2), cameras).text))
    model.look_at(views)
    both = model.predict_noise(z, t, model.condition(no_words(model, 2), cameras).text)
    torch.testing.assert_close(both[0], 2 / 3 * alone[0][0] + 1 / 3 * alone[1][0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(both[1], alone[0][1], atol=2e-5, rtol=1e-4)


def test_moves_follow_the_published_signs() -> None:
    higher_to_the_left = camera_moves(orbit((90, 30)), orbit((0, 0)), is_stable=False)
    torch.testing.assert_close(higher_to_the_left, torch.tensor([[[-math.pi / 6, 1.0, 0.0, 0.0]]]), atol=1e-6, rtol=0)
    wrapped = camera_moves(orbit((-170, 0)), orbit((170, 0)), is_stable=False)
    torch.testing.assert_close(
        wrapped[0, 0, 1:3], torch.tensor([math.sin(math.radians(20)), math.cos(math.radians(20))]), atol=1e-5, rtol=0
    )
    assert camera_moves(orbit((0, 0), radius=4.0), orbit((0, 0)), is_stable=False)[0, 0, 3] > 0
    stable = camera_moves(orbit((90, 30), radius=4.0), orbit((0, 20)), is_stable=True)
    torch.testing.assert_close(stable[0, 0, 3], torch.tensor(math.radians(70)))


def test_the_stable_kind_is_known_by_its_path(tmp_path: Path) -> None:
    assert Zero123.load(build_tiny_zero123(tmp_path / "stable-zero123-diffusers" / "snapshot"))._is_stable
    assert not Zero123.load(build_tiny_zero123(tmp_path / "stable" / "zero123-xl"))._is_stable


@pytest.mark.parametrize("guidance", [SDS(guidance_scale=5.0), ImageTarget(guidance_scale=3.0)])
def test_guidances_pull_towards_what_the_pictures_say(model: Zero123, guidance: SDS | ImageTarget) -> None:
    model.look_at(pictures((0, 0), (120, 20)))
    model.drop_text_encoder()
    images = torch.rand(3, 32, 32, 3, requires_grad=True)
    prompt = model.condition(no_words(model, 3), orbit((0, 0), (60, 10), (200, 0)))
    loss = guidance.loss(model, images, prompt, torch.tensor([300, 500, 700]), torch.Generator().manual_seed(0)).loss
    loss.backward()
    assert images.grad is not None and torch.isfinite(images.grad).all() and (images.grad.flatten(1).norm(dim=1) > 0).all()


def test_pictures_are_looked_at_first(model: Zero123) -> None:
    with pytest.raises(ValueError, match="look_at.* before condition"):
        model.condition(no_words(model, 1), orbit((0, 0)))
    model.drop_text_encoder()
    with pytest.raises(ValueError, match="before drop_text_encoder"):
        model.look_at(pictures((0, 0)))


def test_pixels_are_those_of_clips_own_processor(root: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), (64, 64), mode="bilinear")
    images = (images * 255).round() / 255
    theirs = CLIPImageProcessorPil.from_pretrained(str(root / "feature_extractor"))
    expected = theirs((images[0].permute(1, 2, 0).numpy() * 255).round().astype("uint8"), return_tensors="pt").pixel_values
    found = ClipPixels.load(root / "feature_extractor" / "preprocessor_config.json")(images.permute(0, 2, 3, 1))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)  # it rounds to 8 bits


def test_a_broken_folder_is_a_sentence(tmp_path: Path) -> None:
    root = build_tiny_zero123(tmp_path / "model")
    file = root / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"
    save_file({"proj.weight": torch.zeros(DIM, DIM), "proj.bias": torch.zeros(DIM)}, str(file))
    with pytest.raises(UserError, match=r"cannot be loaded: the weights of clip_camera_projection have .*, not \[D, D \+ 4\]"):
        Zero123.load(root)
    file.unlink()
    with pytest.raises(UserError, match="clip_camera_projection has no .safetensors file. Fetch the folder again"):
        Zero123.load(root)
    (root / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps({"size": 224}))
    with pytest.raises(UserError, match="cannot be loaded"):
        Zero123.load(root)
