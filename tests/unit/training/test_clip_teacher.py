"""CLIP beside a diffusion model: its loss is the written formula, and it is added to the other one's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

from engine.config import make_config
from engine.guidance.clip import random_crops
from engine.guidance.denoiser import Denoiser
from engine.guidance.model_table import find_model
from engine.guidance.picture_views import PictureViews
from engine.scene.cameras import Cameras, orbit_cameras
from engine.scene.scene_config import CameraConfig
from engine.training.clip_teacher import ClipTeacher, make_clip_teacher
from engine.training.teacher import DiffusionTeacher, make_prompts
from tests.tiny_clip import SIZE, build_tiny_clip
from tests.unit.training.test_teacher import oracle


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("clip"))


def cameras(*azimuths: float) -> Cameras:
    n = len(azimuths)
    return orbit_cameras(torch.tensor(azimuths), torch.zeros(n), torch.full((n,), 2.9), torch.full((n,), 40.0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def teacher_of(root: Path, prompt: str, pictures: PictureViews | None, **settings: str) -> ClipTeacher:
    overrides = {"guidance.clip_model": str(root), "guidance.view_prompts": "off", "guidance.n_crops": "2", **settings}
    config = make_config("draft", overrides).guidance
    return make_clip_teacher(prompt, config, CameraConfig(), pictures, torch.device("cpu"), "float32")


def test_words_and_pictures_pull_as_the_formula_says(root: Path) -> None:
    clip = Denoiser.load(root)
    pictures = PictureViews(torch.rand(2, 30, 30, 3, generator=generator()), cameras(0.0, 90.0), torch.tensor([3.0, 1.0]))
    images = torch.rand(2, 24, 24, 3, generator=generator(1)).requires_grad_()
    teacher = teacher_of(root, "a red mug", pictures, **{"guidance.clip_weight": "0,4,1,8"})
    got = teacher.loss(images, cameras(0.0, 180.0), "albedo", 9, 10, generator(3))
    embeds = clip.encode(random_crops(images, 2, SIZE, generator(3)))[:, :, 0, 0].view(2, 2, -1)
    words = 1 - cosine_similarity(embeds, clip.embed(["a red mug"])[0], dim=-1)
    seen = clip.encode(pictures.pictures)[:, :, 0, 0]
    near = torch.tensor([[1.0, 0.5], [0.0, 0.5]])  # of the front and the back view to the pictures at 0 and 90 degrees
    unlike = sum(near[:, r] * (0.75, 0.25)[r] * (1 - cosine_similarity(embeds, seen[r], dim=-1)) for r in range(2))
    torch.testing.assert_close(got, 8 * (words.mean() + unlike.mean()), atol=1e-4, rtol=1e-4)  # the last step
    got.backward()
    assert images.grad is not None and (images.grad.flatten(1).norm(dim=1) > 0).all()


def test_pictures_alone_need_no_words(root: Path) -> None:
    pictures = PictureViews(torch.rand(1, 30, 30, 3, generator=generator()), cameras(0.0), torch.ones(1))
    teacher = teacher_of(root, " ", pictures)
    images = torch.rand(1, 24, 24, 3, generator=generator(1))
    here, behind = (teacher.loss(images, cameras(azimuth), "albedo", 0, 10, generator(3)).item() for azimuth in (0.0, 180.0))
    assert here > 0.05 and behind == pytest.approx(0.0, abs=1e-4)


def test_its_loss_is_added_to_the_diffusion_models(root: Path) -> None:
    denoiser, beside = oracle(), teacher_of(root, "a mug", None)
    config = make_config("draft", {"guidance.method": "sds"}).guidance
    prompts = make_prompts(denoiser, find_model("toybox"), "a mug", "", config, CameraConfig())
    images = torch.rand(2, 16, 16, 3, generator=generator()).requires_grad_()

    def gradient(teacher: DiffusionTeacher | ClipTeacher, draws: torch.Generator) -> torch.Tensor:
        (grad,) = torch.autograd.grad(teacher.loss(images, cameras(0.0, 90.0), "albedo", 0, 10, draws), images)
        return grad

    draws = generator(4)
    first = gradient(DiffusionTeacher(denoiser, prompts, config), draws)
    second = gradient(beside, draws)  # the same generator goes on
    both = gradient(DiffusionTeacher(denoiser, prompts, config, beside=beside), generator(4))
    torch.testing.assert_close(both, first + second)
    assert second.abs().max() > 0
