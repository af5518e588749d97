"""Pictures as a prompt: angles, shares and gradients against closed forms."""

from __future__ import annotations

import pytest
import torch

from engine.guidance.picture_views import PictureViews, angle_scale, angles_between_deg, half_heights, scale_gradient, shares
from engine.scene.cameras import Cameras, orbit_cameras


def orbit(*places: tuple[float, float], radius: float = 3.0, fov: float = 40.0) -> Cameras:
    azimuth, elevation = torch.tensor(places, dtype=torch.float32).T
    return orbit_cameras(azimuth, elevation, torch.full_like(azimuth, radius), torch.full_like(azimuth, fov))


def views(*places: tuple[float, float], weights: tuple[float, ...] = ()) -> PictureViews:
    n = len(places)
    return PictureViews(torch.zeros(n, 4, 4, 3), orbit(*places), torch.tensor(weights or (1.0,) * n))


def test_angles_are_those_on_the_sphere() -> None:
    found = angles_between_deg(orbit((0, 0), (10, 80)), orbit((90, 0), (0, 0), (0, 1e-3), (180, 80), (10, -80)))
    expected = torch.tensor([[90, 0, 1e-3, 100, 80.1528], [88.2735, 80.1528, 80.1518, 19.9235, 160]])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


def test_the_nearest_picture_says_most_and_far_ones_nothing() -> None:
    found = shares(orbit((0, 0), (45, 0), (30, 0)), views((0, 0), (90, 0)))
    torch.testing.assert_close(found, torch.tensor([[1, 0], [0.5, 0.5], [2 / 3, 1 / 3]]))
    torch.testing.assert_close(shares(orbit((45, 0)), views((0, 0), (90, 0), weights=(3, 1))), torch.tensor([[0.75, 0.25]]))


def test_a_picture_without_weight_says_nothing_even_from_its_own_side() -> None:
    torch.testing.assert_close(shares(orbit((0, 0), (120, 0)), views((0, 0), (120, 0), weights=(0, 1))), torch.tensor([[0.0, 1], [0, 1]]))


def test_the_model_is_silent_where_a_picture_speaks() -> None:
    cameras = orbit((0, 0), (45, 0), (90, 0), (180, 0))
    torch.testing.assert_close(angle_scale(cameras, orbit((0, 0))), torch.tensor([0, 0.25, 0.5, 1.0]))
    torch.testing.assert_close(angle_scale(cameras, orbit((0, 0), (180, 0))), torch.tensor([0, 0.5, 1.0, 0]))


def test_only_the_gradient_is_scaled() -> None:
    images = torch.rand(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    scaled = scale_gradient(images, torch.tensor([0.25, 1.0], dtype=torch.float64))
    assert torch.equal(scaled, images)
    scaled.square().sum().backward()
    torch.testing.assert_close(images.grad, 2 * images.detach() * torch.tensor([0.25, 1.0]).view(2, 1, 1, 1).double())


def test_half_heights_are_those_of_the_window_at_the_origin() -> None:
    cameras = orbit((0, 0), (20, 30), radius=2.0, fov=90.0)
    torch.testing.assert_close(half_heights(cameras), torch.full((2,), 2.0))
    torch.testing.assert_close(half_heights(Cameras(cameras.camera_to_world, cameras.window, True)), torch.ones(2))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights \[R\] for 2 > 0 cameras, got \[2, 4, 4, 3\] and \[1\]"):
        PictureViews(torch.zeros(2, 4, 4, 3), orbit((0, 0), (1, 0)), torch.ones(1))
