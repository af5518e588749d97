"""Toybox's image-conditioned sibling: its examples, its start from Toybox's weights, and that what it writes is a Zero123 that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.guidance.families import load_denoiser
from engine.guidance.picture_views import PictureViews
from engine.guidance.zero123 import Zero123
from engine.scene.cameras import orbit_cameras
from engine.scene.reference_view import FRAME
from engine.scene.view_prompts import PromptEmbeds
from engine.toybox.data import FOV_Y_DEG, VIEWS_PER_SHAPE, pack
from engine.toybox.pairs import PairSource, framed
from engine.toybox.prop import Part, PlacedProp, Prop
from engine.toybox.sdf import sphere
from engine.toybox.tracer import render_buffers
from engine.toybox.unet_training import Toybox
from engine.toybox.zero123_training import ExamplePool, Sibling, align, train

TOYBOX = Path(__file__).resolve().parents[3] / "engine/toybox/weights"
RADIUS = 0.6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard with one shape: a ball, seen from six sides."""
    folder = tmp_path_factory.mktemp("data")
    azimuth, elevation = torch.arange(VIEWS_PER_SHAPE) * 60.0 - 180, torch.arange(VIEWS_PER_SHAPE) * 10.0
    radius = torch.full_like(azimuth, 3.0)
    placed = PlacedProp(Prop((Part(sphere(RADIUS), (0.2, 0.4, 0.6), tinted=True),)), torch.zeros(3), 1.0)
    views = orbit_cameras(azimuth, elevation, radius, torch.full_like(radius, FOV_Y_DEG))
    shard = {
        "buffers": pack(render_buffers(placed, views, 64, 64, supersample=1)),
        "cameras": torch.stack([azimuth, elevation, radius], dim=-1),
        "kinds": torch.zeros(VIEWS_PER_SHAPE, dtype=torch.long),
        "shapes": torch.zeros(VIEWS_PER_SHAPE, dtype=torch.long),
    }
    save_file(shard, str(folder / "shard_0000.safetensors"))
    return folder


def test_an_example_is_two_views_and_the_move_between_them(data: Path) -> None:
    pairs = PairSource(data, 0).draw(8)
    assert pairs.given.shape == pairs.wanted.shape == (8, 64, 64, 3) and pairs.moves.shape == (8, 4)
    assert (pairs.given[:, 0, 0] == 1).all(), "the given picture stands over white"
    sine, cosine = pairs.moves[:, 1], pairs.moves[:, 2]
    torch.testing.assert_close(sine.square() + cosine.square(), torch.ones(8))
    steps = torch.rad2deg(torch.atan2(sine, cosine)) / 60  # the views stand in sixths of the circle, each 10 degrees higher
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    rise = -torch.rad2deg(pairs.moves[:, 0]) / 10
    torch.testing.assert_close((rise - steps) / 6, ((rise - steps) / 6).round(), atol=1e-3, rtol=0)


def test_the_given_picture_is_framed_as_a_run_frames_it(data: Path) -> None:
    pairs = PairSource(data, 0).draw(4)
    covered = (pairs.given < 0.99).any(-1).float().mean(dim=(1, 2))
    torch.testing.assert_close(covered, torch.full((4,), torch.pi / 4 / FRAME**2), atol=0.03, rtol=0)


def test_a_frame_takes_its_camera_along() -> None:
    images, opacity = torch.ones(1, 32, 32, 3), torch.zeros(1, 32, 32)
    images[0, 4:12, 18:26], opacity[0, 4:12, 18:26] = 0.0, 1.0
    cameras = orbit_cameras(*(torch.tensor([value]) for value in (0.0, 0.0, 3.0, 40.0)))
    out, seen = framed(images, opacity, cameras)
    dark = (out[0, ..., 0] < 0.5).nonzero().float()
    torch.testing.assert_close(dark.mean(dim=0), torch.full((2,), 15.5), atol=0.6, rtol=0)
    corner = (4 - 0.5) / 16 * 2**0.5 + 1 / 32  # half the square's diagonal to pixel middles, in -1..1, and half a pixel
    torch.testing.assert_close(seen.window[0, 3] / cameras.window[0, 3], torch.tensor(FRAME * corner), atol=1e-3, rtol=0)


def test_it_starts_as_toyboxs_unet_that_sees_no_picture() -> None:
    sibling = Sibling.from_toybox(TOYBOX)
    noisy, t, tokens = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500]), torch.zeros(1, 1, 192)
    with torch.no_grad():
        one, other = (sibling.unet(torch.cat([noisy, latents], dim=1), t, tokens).sample for latents in (noisy, 3 * noisy))
    torch.testing.assert_close(one, other)
    assert one.std() > 0.1


def test_the_loss_teaches_every_part(data: Path) -> None:
    sibling = Sibling.from_toybox(TOYBOX)
    teacher = Toybox.load(TOYBOX)
    pool, generator = ExamplePool(sibling, PairSource(data, 0), teacher), torch.Generator().manual_seed(1)
    pool.add(2)
    sibling.loss(pool.draw(2, generator), generator, teacher, trust=0.0).backward()
    seen = {name: p.grad for name, p in sibling.trained.items() if p.grad is not None}
    assert set(sibling.trained) - set(seen) == set()
    assert seen["unet.mid_block.resnets.0.conv1.lora_B.weight"].abs().sum() > 0, "the low-rank changes"
    assert seen["unet.conv_in.weight"][:, 8:].abs().sum() > 0, "the picture's latents"
    for name in ("projection.weight", "image_encoder.visual_projection.weight", "image_encoder.vision_model.embeddings.class_embedding"):
        assert seen[name].abs().sum() > 0, name


def test_it_follows_toybox_as_far_as_it_is_told_to(data: Path) -> None:
    """Told words in place of the picture's token, and blind to its latents, it says what Toybox says."""
    sibling, teacher = Sibling.from_toybox(TOYBOX), Toybox.load(TOYBOX)
    pool = ExamplePool(sibling, PairSource(data, 0), teacher)
    pool.add(4)
    examples = pool.draw(4, torch.Generator().manual_seed(1))
    sibling.tokens = lambda given, moves: examples.words  # type: ignore[method-assign]
    losses = {}
    with torch.no_grad():
        for trust in (0.0, 0.5, 1.0):
            losses[trust] = float(sibling.loss(examples, torch.Generator().manual_seed(2), teacher, trust))
    assert losses[1.0] < 0.01 * losses[0.0] and losses[1.0] < losses[0.5] < 0.3 * losses[0.0], losses


def test_the_image_encoder_learns_to_say_what_words_would(data: Path) -> None:
    torch.manual_seed(0)
    sibling = Sibling.from_toybox(TOYBOX)
    before, trained = sibling.unet.conv_in.weight.clone(), set(sibling.trained)
    losses = align(sibling, Toybox.load(TOYBOX), PairSource(data, 0), seconds=8.0)
    assert sum(losses[-3:]) / 3 < 0.8 * losses[0], losses
    assert torch.equal(before, sibling.unet.conv_in.weight) and set(sibling.trained) == trained


def test_what_it_writes_after_some_steps_is_a_model_that_runs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = train(data, TOYBOX, tmp_path / "model", seconds=4.0, batch=2, lr=3e-4)
    assert losses and all(loss == loss for loss in losses) and '"step": 1' in capsys.readouterr().out
    model = load_denoiser(tmp_path / "model")
    assert isinstance(model, Zero123) and model.image_size == 64 and model.prediction_type == "v_prediction"
    cameras = orbit_cameras(*(torch.tensor([value]) for value in (0.0, 0.0, 3.0, 40.0)))
    model.look_at(PictureViews(torch.rand(1, 64, 64, 3), cameras, torch.ones(1)))
    words = model.embed([""])
    prompt = model.condition(PromptEmbeds(words, words), cameras)
    noise, clean = model.predict(torch.randn(1, 8, 16, 16), torch.tensor([999]), prompt.text)
    assert torch.isfinite(noise).all() and torch.isfinite(clean).all()
