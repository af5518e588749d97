"""Whole images: closed forms, conservation, gradients, agreement of the two renderers."""

from __future__ import annotations

import math

import pytest
import torch

from engine.fields.field import RadianceField, make_field
from engine.fields.field_config import FieldConfig
from engine.rendering.march import intersect_box
from engine.rendering.occupancy import OccupancyGrid
from engine.rendering.render import MIN_VISIBLE_TRANSMITTANCE, render, render_image, step_size_for
from engine.rendering.shading import SHADINGS, shade
from engine.scene.cameras import Cameras, camera_rays, orbit_cameras

STEP = step_size_for(64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cameras(*azimuths: float, elevation: float = 20.0) -> Cameras:
    n = len(azimuths)
    return orbit_cameras(torch.tensor(azimuths), torch.full((n,), elevation), torch.full((n,), 2.9), torch.full((n,), 40.0))


def small_field(**changes: object) -> RadianceField:
    return make_field(FieldConfig(**{"n_levels": 3, "finest_resolution": 32, **changes}), generator())  # type: ignore[arg-type]


def ball_field(radius: float = 0.5, color: tuple[float, float, float] = (0.9, 0.2, 0.1)) -> RadianceField:
    """A hard ball of one color, stored in the finest level."""
    field = small_field(blob_density=0.0)
    axis = torch.linspace(-1, 1, 33)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    finest = field.encoding.levels[-1].data
    finest[0] = 40 * (radius - (x**2 + y**2 + z**2).sqrt())
    finest[1:] = torch.logit(torch.tensor(color))[:, None, None, None]
    return field


def grid_for(field: RadianceField, resolution: int = 24) -> OccupancyGrid:
    grid = OccupancyGrid(resolution)
    grid.update(field.density, 0, generator(1))
    return grid


def test_uniform_fog_in_the_box_has_beer_lambert_opacity_and_blends_the_background() -> None:
    sigma = 0.8
    field = small_field(blob_density=0.0, density_scale=1.0)
    for level in field.encoding.levels:
        level.data.zero_()
    field.encoding.levels[-1].data[0] = math.log(math.expm1(sigma))
    assert field.density(torch.rand(10, 3, generator=generator())).sub(sigma).abs().max() < 1e-5
    view = cameras(0.0, elevation=0.0)
    background = torch.tensor([[0.1, 0.5, 0.9]])
    out = render(field, view, 16, 16, OccupancyGrid(8), step_size=0.02, background=background)
    t_near, t_far = intersect_box(*camera_rays(view, 16, 16), torch.tensor([[-1.0] * 3, [1.0] * 3]))
    expected = 1 - torch.exp(-sigma * (t_far - t_near).clamp(min=0)).reshape(1, 16, 16)
    assert (out.opacity - expected).abs().max() < 0.02  # half a step at either end
    blended = 0.5 * out.opacity[..., None] + (1 - out.opacity[..., None]) * background
    torch.testing.assert_close(out.image, blended, atol=1e-5, rtol=0)


def test_ball_has_its_color_its_silhouette_and_its_depth() -> None:
    field = ball_field(0.5)
    view = cameras(0.0, 120.0)
    out = render_image(field, view, 48, 48, grid_for(field), step_size=STEP / 2, background=torch.ones(2, 3))
    rays_o, rays_d = camera_rays(view, 48, 48)
    closest = -(rays_o * rays_d).sum(-1)
    miss = (rays_o + closest[:, None] * rays_d).norm(dim=-1).reshape(2, 48, 48)
    assert (out.opacity[miss < 0.44] > 0.98).all() and (out.opacity[miss > 0.56] < 0.02).all()
    assert (out.image[miss < 0.45] - torch.tensor([0.9, 0.2, 0.1])).abs().max() < 0.02
    hit = closest.reshape(2, 48, 48) - (0.25 - miss**2).clamp(min=0).sqrt()
    # density grows by 400 per unit of depth: light dies as exp(-200 x^2), on average sqrt(pi / 800) below the surface
    straight = miss < 0.1
    torch.testing.assert_close((out.depth / out.opacity)[straight], hit[straight] + math.sqrt(math.pi / 800), atol=0.01, rtol=0)


def test_rays_that_miss_return_the_background_exactly() -> None:
    background = torch.rand(2, 24, 24, 3, generator=generator())
    field = ball_field(0.3)
    out = render(field, cameras(0.0, 90.0), 24, 24, grid_for(field), step_size=STEP, background=background, generator=generator())
    untouched = torch.bincount(out.ray_indices, minlength=out.n_rays).reshape(2, 24, 24) == 0
    assert untouched.float().mean() > 0.3
    assert torch.equal(out.image[untouched], background[untouched]) and (out.opacity[untouched] == 0).all()


@pytest.mark.parametrize("shading", SHADINGS)
def test_training_and_preview_renderers_agree(shading: str) -> None:
    field, view = ball_field(), cameras(10.0, 200.0, -70.0)
    arguments = {"step_size": STEP, "background": torch.rand(3, 3, generator=generator()), "shading": shading, "ambient_ratio": 0.3}
    light = torch.nn.functional.normalize(torch.randn(3, 3, generator=generator(2)), dim=-1)
    grid = grid_for(field)
    out = render(field, view, 20, 20, grid, light_direction=light, **arguments)  # type: ignore[arg-type]
    pieces = render_image(field, view, 20, 20, grid, light_direction=light, max_rays_per_chunk=333, **arguments)  # type: ignore[arg-type]
    for name in ("image", "opacity", "depth", "normal_image"):
        ours, theirs = getattr(out, name), getattr(pieces, name)
        assert (ours is None) == (theirs is None) == (name == "normal_image" and shading == "albedo")
        if ours is not None:
            # the preview renderer stops behind opaque matter, where nothing visible is lost; depth is in world units, up to 4
            torch.testing.assert_close(ours, theirs, atol=MIN_VISIBLE_TRANSMITTANCE * (4 if name == "depth" else 1), rtol=0)


def test_pruning_hidden_samples_changes_no_visible_digit_and_saves_samples() -> None:
    field, view = ball_field(), cameras(0.0)
    grid, arguments = grid_for(field), {"step_size": STEP / 2, "background": torch.zeros(1, 3)}
    whole = render(field, view, 32, 32, grid, **arguments)  # type: ignore[arg-type]
    pruned = render(field, view, 32, 32, grid, prune=True, **arguments)  # type: ignore[arg-type]
    assert (whole.image - pruned.image).abs().max() <= MIN_VISIBLE_TRANSMITTANCE
    assert len(pruned.weights) < 0.7 * len(whole.weights)


def test_gradient_of_an_image_matches_finite_differences() -> None:
    field = small_field().double()
    view = cameras(30.0)
    view = Cameras(view.camera_to_world.double(), view.window.double())
    grid = grid_for(field.float()).double()
    field = field.double()
    cotangent = torch.linspace(-1, 1, 12 * 12 * 3, dtype=torch.float64).reshape(1, 12, 12, 3)
    light = torch.tensor([[0.6, -0.64, 0.48]], dtype=torch.float64)

    def value() -> torch.Tensor:
        out = render(
            field, view, 12, 12, grid, step_size=0.1, background=torch.full((1, 3), 0.3, dtype=torch.float64),
            shading="lambertian", ambient_ratio=0.2, light_direction=light,
        )  # fmt: skip
        return (out.image * cotangent).sum() + out.depth.sum() + out.weights.square().sum()

    for level in (0, 2):
        parameter = field.encoding.levels[level]
        (gradient,) = torch.autograd.grad(value(), parameter)
        direction = torch.randn(parameter.shape, generator=generator(4), dtype=torch.float64)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-6)
            after = value()
            parameter.sub_(direction, alpha=2e-6)
            before = value()
            parameter.add_(direction, alpha=1e-6)
        torch.testing.assert_close((gradient * direction).sum(), (after - before) / 2e-6, rtol=1e-4, atol=1e-6)


def test_background_gets_the_gradient_of_what_passes_through() -> None:
    field = small_field()
    background = torch.rand(1, 16, 16, 3, generator=generator(), requires_grad=True)
    out = render(field, cameras(0.0), 16, 16, grid_for(field), step_size=STEP, background=background)
    out.image.sum().backward()
    torch.testing.assert_close(background.grad, (1 - out.opacity.detach())[..., None].expand_as(background))


def test_same_generator_same_image_and_no_generator_no_noise() -> None:
    field, view = small_field(), cameras(0.0, 77.0)
    grid = grid_for(field)

    def image(g: torch.Generator | None) -> torch.Tensor:
        return render(field, view, 16, 16, grid, step_size=STEP, background=torch.zeros(2, 3), generator=g).image

    state = torch.random.get_rng_state()
    assert torch.equal(image(generator(3)), image(generator(3))) and torch.equal(image(None), image(None))
    assert not torch.equal(image(generator(3)), image(generator(4)))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_orbiting_a_ball_shows_the_same_picture_from_everywhere() -> None:
    field = ball_field()
    out = render_image(field, cameras(0.0, 90.0, 180.0, -90.0), 32, 32, grid_for(field), step_size=STEP, background=torch.zeros(4, 3))
    for k in range(1, 4):
        assert (out.image[k] - out.image[0]).abs().mean() < 0.004


def test_lit_ball_is_bright_where_the_light_is() -> None:
    """Light from the right (+X), seen from the front: Lambert's cosine over the disc."""
    field = ball_field(0.6, (0.5, 0.5, 0.5))
    out = render_image(
        field, cameras(0.0, elevation=0.0), 41, 41, grid_for(field), step_size=STEP / 2, background=torch.zeros(1, 3),
        shading="textureless", ambient_ratio=0.0, light_direction=torch.tensor([[1.0, 0.0, 0.0]]), with_normals=True,
    )  # fmt: skip
    row = out.image[0, 20, :, 0]
    assert row[:18].max() < 0.05 and row[29] > 0.7  # column 29 is at 0.78 of the radius
    torch.testing.assert_close(row[20:30], out.normal_image[0, 20, 20:30, 0] * 2 - 1, atol=0.03, rtol=0)
    assert out.normal_image[0, 20, 20, 1] < 0.05  # the middle faces the camera at -Y


def test_an_empty_field_renders_the_background() -> None:
    field = small_field(blob_density=0.0)
    field.encoding.levels[0].data[0] = -30.0
    background = torch.rand(1, 3, generator=generator())
    out = render(field, cameras(0.0), 8, 8, OccupancyGrid(8), step_size=STEP, background=background)
    torch.testing.assert_close(out.image, background.expand(1, 8, 8, 3), atol=1e-6, rtol=0)
    away = Cameras(torch.eye(4)[None] + torch.tensor([[0.0, 0, 0, 5], [0, 0, 0, 5], [0, 0, 0, -5], [0, 0, 0, 0]]), cameras(0.0).window)
    nothing = render(field, away, 8, 8, OccupancyGrid(8), step_size=STEP, background=background, shading="normal", generator=generator())
    assert nothing.weights.shape == (0,) and torch.equal(nothing.image, background.expand(1, 8, 8, 3))


def test_shading_follows_its_formulas() -> None:
    albedo = torch.tensor([[0.2, 0.4, 0.6]] * 3)
    normals = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    light = torch.tensor([[0.0, 0.6, 0.8]] * 3)
    torch.testing.assert_close(shade(albedo, None, None, 0.1, "albedo"), albedo)
    expected = torch.tensor([[0.1 + 0.9 * 0.8], [0.1], [0.1]])
    torch.testing.assert_close(shade(albedo, normals, light, 0.1, "textureless"), expected.expand(3, 3))
    torch.testing.assert_close(shade(albedo, normals, light, 0.1, "lambertian"), albedo * expected)
    torch.testing.assert_close(shade(albedo, normals, light, 1.0, "lambertian"), albedo)
    torch.testing.assert_close(shade(albedo, normals, None, 0.0, "normal")[0], torch.tensor([0.5, 0.5, 1.0]))


def test_wrong_arguments_are_refused_by_text() -> None:
    field, view = small_field(), cameras(0.0)
    with pytest.raises(ValueError, match=r"background must be \[1, 3\] or \[1, 8, 8, 3\], got \[3\]"):
        render(field, view, 8, 8, OccupancyGrid(8), step_size=STEP, background=torch.zeros(3))
    with pytest.raises(ValueError, match=r"light_direction must be \[1, 3\]"):
        render(field, view, 8, 8, OccupancyGrid(8), step_size=STEP, background=torch.zeros(1, 3), light_direction=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="shading is 'phong', but must be one of albedo, lambertian"):
        shade(torch.zeros(1, 3), None, None, 1.0, "phong")
    with pytest.raises(ValueError, match="needs normals"):
        shade(torch.zeros(1, 3), None, None, 1.0, "normal")
