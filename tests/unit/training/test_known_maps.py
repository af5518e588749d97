"""Known-view losses on maps: closed forms, gradients, and that they shape a field. Several pictures are drawn by weight."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.config import make_config
from engine.errors import UserError
from engine.guidance.normal_estimate import estimate_normals
from engine.scene.cameras import camera_rays
from engine.scene.depth_estimate import estimate_depth
from engine.training.reference import KnownView, as_prompt, axis_cosines, known_camera, pearson
from engine.training.trainer import Trainer
from engine.training.training_config import ReferenceConfig
from tests.tiny_sd import build_tiny_sd
from tests.unit.training.test_reference import CPU, SMALL, NoTeacher

S = 32


def disc():
    """[S, S, 4], opaque and gray in the middle."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, S), torch.linspace(-1, 1, S), indexing="ij")
    inside = ((x.square() + y.square()) < 0.6).float()
    return torch.cat([0.5 * inside[..., None].expand(S, S, 3), inside[..., None]], dim=-1)


def view(config=None, depth=None, is_near=False, **maps):
    known = KnownView(disc(), config or ReferenceConfig(), CPU, **maps)
    if depth is not None:
        known.set_depth(depth, is_near=is_near)
    return known


def render_of(depth, opacity=None, normals=None):
    """What the losses read of a render: expected distance [1, S, S] over its opacity, and world normals."""
    opacity = torch.ones_like(depth) if opacity is None else opacity
    normal_image = None if normals is None else normals * 0.5 + 0.5
    return SimpleNamespace(depth=depth * opacity, opacity=opacity, normal_image=normal_image)


def test_pearson_is_numpys_and_its_gradient_is_right():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    assert pearson(one, other).item() == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert torch.autograd.gradcheck(pearson, (one.requires_grad_(), other.requires_grad_()))
    assert pearson(torch.ones(5), torch.arange(5.0)).item() == 0


def test_axis_cosines_are_those_of_the_rays():
    cameras = known_camera(ReferenceConfig(azimuth_deg=40, elevation_deg=20))
    _, directions = camera_rays(cameras, S, S)
    expected = -(directions @ cameras.camera_to_world[0, :3, 2]).view(1, S, S)
    torch.testing.assert_close(axis_cosines(cameras, S), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["distance", "nearness"])
def test_depth_is_right_up_to_scale_and_offset_and_wrong_if_turned_round(kind):
    config = ReferenceConfig()
    along_axis = 2 + 0.5 * torch.rand(S, S, generator=torch.Generator().manual_seed(0))
    bright = along_axis if kind == "distance" else 1 / along_axis
    known = view(depth=(bright - bright.min()) / (bright.max() - bright.min()), is_near=kind == "nearness")
    distance = along_axis[None] / axis_cosines(known_camera(config), S)
    assert known.depth_loss(render_of(distance)).item() == pytest.approx(0, abs=1e-5)
    opacity = 0.3 + 0.6 * torch.rand(1, S, S, generator=torch.Generator().manual_seed(1))
    assert known.depth_loss(render_of(distance, opacity)).item() == pytest.approx(0, abs=1e-5)
    turned = (5 - along_axis)[None] / axis_cosines(known_camera(config), S)
    assert known.depth_loss(render_of(turned)).item() > 1.8


def test_what_is_not_on_the_object_does_not_count():
    depth = torch.rand(S, S, generator=torch.Generator().manual_seed(0))
    known = view(depth=depth)
    distance = (2 + depth[None]) / axis_cosines(known.cameras, S)
    outside = disc()[..., 3] < 0.5
    spoilt = torch.where(outside, 9.0, distance)
    assert known.depth_loss(render_of(spoilt)).item() == pytest.approx(0, abs=1e-5)


def test_normals_are_the_cameras_turned_into_the_world():
    config = ReferenceConfig(azimuth_deg=90)
    towards = torch.tensor([0.5, 0.5, 1.0]).expand(S, S, 3)
    known = view(config, normals=towards)
    world = torch.tensor([1.0, 0, 0]).expand(1, S, S, 3)  # that camera stands at +X
    assert known.normal_loss(render_of(torch.ones(1, S, S), normals=world)).item() == pytest.approx(0, abs=1e-4)
    tilted = torch.tensor([math.cos(1.0), math.sin(1.0), 0]).expand(1, S, S, 3)
    assert known.normal_loss(render_of(torch.ones(1, S, S), normals=tilted)).item() == pytest.approx(1 - math.cos(1.0), abs=1e-4)
    with pytest.raises(ValueError, match="needs a render with normals"):
        known.normal_loss(render_of(torch.ones(1, S, S)))


def trained(views, n=40, **overrides):
    config = make_config("draft", SMALL | {key.replace("__", "."): str(value) for key, value in overrides.items()})
    trainer = Trainer(config, 0, CPU, NoTeacher(), views)
    for _ in range(n):
        trainer.train_step()
    return trainer


def rendered(trainer, shading="albedo"):
    return trainer.picture(trainer.known_views[0].cameras, S, S, shading=shading)


def test_a_depth_map_shapes_the_field():
    slope = torch.linspace(0, 1, S).expand(S, S)  # farther to the right
    losses = []
    for weight in (0, 3000):
        known = view(depth=slope)
        trainer = trained([known], n=30, reference__lambda_depth=weight, reference__lambda_rgb=0, render__size_px=16)
        losses.append(known.depth_loss(rendered(trainer)).item())
    assert losses[1] < 0.5 * losses[0]


def test_a_normal_map_shapes_the_field():
    tilt = torch.tensor([0.5 + 0.35, 0.5, 0.5 + 0.35]).expand(S, S, 3)  # to the right and to the camera
    losses = []
    for weight in (0, 3000):
        known = view(normals=tilt)
        trainer = trained([known], n=25, reference__lambda_normal=weight, reference__lambda_rgb=0, render__size_px=16)
        losses.append(known.normal_loss(rendered(trainer, "normal")).item())
    assert losses[1] < 0.7 * losses[0]


def test_pictures_are_drawn_by_weight():
    config = ReferenceConfig()
    views = [KnownView(disc(), replace(config, azimuth_deg=angle, weight=weight), CPU) for angle, weight in ((0, 3), (90, 1), (180, 0.001))]
    trainer = trained(views, n=0)
    counts = np.bincount([views.index(trainer._draw_known_view()) for _ in range(800)], minlength=3)
    assert counts[2] < 10 and counts[0] / 800 == pytest.approx(0.75, abs=0.05)


def test_the_pictures_stand_over_white_in_the_prompt():
    prompt = as_prompt([view(), view(ReferenceConfig(azimuth_deg=90, weight=2))])
    assert prompt.pictures.shape == (2, S, S, 3) and prompt.weights.tolist() == [1, 2]
    assert prompt.pictures[0, 0, 0].tolist() == [1, 1, 1] and prompt.pictures[0, S // 2, S // 2].tolist() == [0.5, 0.5, 0.5]
    torch.testing.assert_close(prompt.cameras.positions[1, 1], torch.tensor(0.0), atol=1e-5, rtol=0)


def tiny_estimator(folder, **config):
    """A random DPT in transformers' layout."""
    from transformers import DPTConfig, DPTForDepthEstimation

    settings = DPTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        backbone_out_indices=[0, 1, 2, 3],
        image_size=32,
        patch_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
    )
    DPTForDepthEstimation(settings).save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, **config}))
    pixels = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return folder


def test_an_estimator_sees_for_pictures_without_a_map(tmp_path):
    image = torch.rand(S, S, 3, generator=torch.Generator().manual_seed(0))
    depth, is_near = estimate_depth(tiny_estimator(tmp_path / "dpt"), image)
    assert depth.shape == (S, S) and depth.min() == 0 and depth.max() == 1 and is_near
    with pytest.raises(UserError, match="cannot be loaded: its kind is glpn, not one of depth_anything, dpt. Give --reference.depth-model"):
        estimate_depth(tiny_estimator(tmp_path / "glpn", model_type="glpn"), image)


def tiny_marigold(folder):
    """A random Marigold for normals in its published layout: Stable Diffusion's parts, a U-Net that takes two latents."""
    from diffusers import AutoencoderKL, DDIMScheduler, MarigoldNormalsPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    plain = build_tiny_sd(folder.with_name(folder.name + "-plain"), prediction_type="v_prediction")
    parts = {name: cls.from_pretrained(plain / name) for name, cls in (("vae", AutoencoderKL), ("scheduler", DDIMScheduler))}
    words = {
        "text_encoder": CLIPTextModel.from_pretrained(plain / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(plain / "tokenizer"),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel.from_config({**UNet2DConditionModel.load_config(plain / "unet"), "in_channels": 8})
    settings = {"prediction_type": "normals", "default_denoising_steps": 2, "default_processing_resolution": 32}
    MarigoldNormalsPipeline(unet=unet, **parts, **words, **settings).save_pretrained(folder)
    return folder


def test_normals_are_those_of_the_published_pipeline(tmp_path):
    from diffusers import MarigoldNormalsPipeline

    folder = tiny_marigold(tmp_path / "normals")
    image = torch.rand(S, S, 3, generator=torch.Generator().manual_seed(0))
    found = estimate_normals(folder, image)
    pipeline = MarigoldNormalsPipeline.from_pretrained(folder)
    theirs = pipeline(image.permute(2, 0, 1)[None], generator=torch.Generator().manual_seed(0), output_type="pt").prediction[0]
    torch.testing.assert_close(2 * found - 1, theirs.permute(1, 2, 0), atol=1e-4, rtol=0)
    torch.testing.assert_close((2 * found - 1).norm(dim=-1), torch.ones(S, S))
    assert found.flatten(0, 1).std(0).min() > 0.01, "they differ from pixel to pixel"
    assert torch.equal(estimate_normals(folder, image), found)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("model_index.json", {"_class_name": "MarigoldDepthPipeline"}, "it is a MarigoldDepthPipeline, not a MarigoldNormalsPipeline"),
        ("scheduler/scheduler_config.json", {"_class_name": "EulerDiscreteScheduler"}, "its scheduler is a EulerDiscreteScheduler, not"),
    ],
)
def test_what_estimates_no_normals_is_a_sentence(tmp_path, file, change, says):
    folder = tiny_marigold(tmp_path / "normals")
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=f"The normal model in .* cannot be loaded: {says}.*Give --reference.normal-model") as caught:
        estimate_normals(folder, torch.rand(S, S, 3))
    assert caught.value.code == "model"


def test_an_estimator_whose_map_nothing_pulls_to_is_refused():
    with pytest.raises(UserError, match="reference.normal-model has no effect while reference.lambda-normal is 0. Raise it"):
        ReferenceConfig(normal_model="folder")
    assert ReferenceConfig(normal_model="folder", lambda_normal=100.0).normal_model == "folder"


def test_a_metric_estimator_means_distance(tmp_path):
    folder = tiny_estimator(tmp_path / "dpt", depth_estimation_type="metric")
    assert not estimate_depth(folder, torch.rand(S, S, 3))[1]
