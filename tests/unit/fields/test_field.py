"""The field as a whole: what stands there at the start, ranges, normals, settings."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import pytest
import torch

from engine.errors import UserError
from engine.fields.activations import trunc_exp
from engine.fields.field import make_field
from engine.fields.field_config import FieldConfig

CONFIGS = {
    "dense": FieldConfig(finest_resolution=32, n_levels=3),
    "dense exp": FieldConfig(finest_resolution=32, n_levels=3, activation="exp"),
    "dense network": FieldConfig(finest_resolution=32, n_levels=3, features=3, hidden_width=16),
    "hash network": FieldConfig(encoding="hash", n_levels=4, features=2, log2_table_size=12, hidden_width=16),
    "hash linear": FieldConfig(encoding="hash", n_levels=4, features=2, log2_table_size=12),
    "dense gaussian": FieldConfig(finest_resolution=32, n_levels=3, blob="gaussian"),
    "dense exp sphere": FieldConfig(finest_resolution=32, n_levels=3, activation="exp", blob="sphere"),
    "hash deep network": FieldConfig(encoding="hash", n_levels=4, features=2, log2_table_size=12, hidden_width=16, hidden_layers=3),
    "frequency": FieldConfig(encoding="frequency", n_levels=6, hidden_width=32, hidden_layers=3),
    "frequency by differences": FieldConfig(encoding="frequency", n_levels=3, hidden_width=16, normals="finite_difference"),
    "dense by differences": FieldConfig(finest_resolution=32, n_levels=3, normals="finite_difference"),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, half: float = 1.0, seed: int = 0) -> torch.Tensor:
    return (torch.rand(n, 3, generator=generator(seed)) * 2 - 1) * half


@every_config
def test_values_are_in_range_and_empty_outside_the_box(config: FieldConfig) -> None:
    field = make_field(config, generator())
    for parameter in field.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator(1)) * 0.3)
    positions = points(500, 1.5)
    densities, albedo = field(positions)
    outside = (positions.abs() > 1).any(dim=1)
    assert densities.shape == (500,) and albedo.shape == (500, 3)
    assert (densities[outside] == 0).all() and (densities[~outside] > 0).any() and (densities >= 0).all()
    assert (albedo > 0).all() and (albedo < 1).all()
    torch.testing.assert_close(field.density(positions), densities)
    assert field.background(torch.nn.functional.normalize(positions, dim=-1)).shape == (500, 3)


@every_config
def test_starts_as_a_gray_blob_that_one_can_see_through(config: FieldConfig) -> None:
    field = make_field(config, generator())
    _, albedo = field(points(300, 0.4))
    assert (albedo - 0.5).abs().max() < 0.02
    t = torch.linspace(-1, 1, 400)
    ray = torch.stack([torch.zeros(400), t, torch.zeros(400)], dim=1)
    opacity = 1 - math.exp(-field.density(ray).mean().item() * 2)
    assert 0.8 < opacity < 0.999
    aside = ray + torch.tensor([0.7, 0.0, 0.0])
    assert 1 - math.exp(-field.density(aside).mean().item() * 2) < 0.15


@every_config
def test_normals_of_the_blob_are_those_of_a_sphere(config: FieldConfig) -> None:
    field = make_field(config, generator())
    positions = torch.nn.functional.normalize(points(400, seed=3), dim=-1) * 0.35
    normals = field.normals(positions, create_graph=False)
    cosine = (normals * torch.nn.functional.normalize(positions, dim=-1)).sum(-1)
    assert cosine.min() > 0.99 and not normals.requires_grad
    torch.testing.assert_close(normals.norm(dim=-1), torch.ones(400))


def test_normals_of_a_stored_sphere_are_outward() -> None:
    """Without blob: the sphere is in the grid, so this is about the derivative of what is stored."""
    for name in ("dense", "dense by differences"):
        field = make_field(dataclasses.replace(CONFIGS[name], blob_density=0.0), generator())
        axis = torch.linspace(-1, 1, 33)
        x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
        center = torch.tensor([0.1, -0.2, 0.05])
        distance = torch.stack([x, y, z], dim=-1).sub(center).norm(dim=-1) - 0.5
        field.encoding.levels[-1].data[0] = -distance
        outward = torch.nn.functional.normalize(points(400, seed=4), dim=-1)
        normals = field.normals(center + outward * 0.5, create_graph=False)
        assert torch.rad2deg(torch.acos((normals * outward).sum(-1).clamp(-1, 1))).max() < 4, name


@every_config
def test_normals_carry_a_gradient_to_the_parameters(config: FieldConfig) -> None:
    field = make_field(config, generator()).double()
    positions = points(6, 0.5).double()
    for parameter in (*field.encoding.parameters(), *field.decoder.parameters()):
        parameter.data.add_(torch.randn(parameter.shape, generator=generator(2), dtype=torch.float64) * 0.05)
    cotangent = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)

    def value() -> torch.Tensor:
        return (field.evaluate(positions, with_normals=True).normals * cotangent).sum()

    parameter = next(iter((*field.encoding.parameters(), *field.decoder.parameters())))
    (d_parameter,) = torch.autograd.grad(value(), parameter)
    direction = torch.randn(parameter.shape, generator=generator(3), dtype=torch.float64)
    h = 1e-6
    with torch.no_grad():
        parameter.add_(direction, alpha=h)
    after = value().item()
    with torch.no_grad():
        parameter.sub_(direction, alpha=2 * h)
    before = value().item()
    expected = (after - before) / (2 * h)
    assert abs(expected) > 1e-3
    torch.testing.assert_close((d_parameter * direction).sum().item(), expected, rtol=1e-5, atol=1e-7)


@every_config
def test_evaluate_agrees_with_its_parts(config: FieldConfig) -> None:
    field = make_field(config, generator())
    positions = points(50, 0.6)
    found = field.evaluate(positions, with_normals=True)
    torch.testing.assert_close(found.densities, field.density(positions))
    torch.testing.assert_close(found.albedo, field(positions)[1])
    torch.testing.assert_close(found.normals, field.normals(positions, create_graph=False), atol=1e-5, rtol=0)
    assert field.evaluate(positions, with_normals=False).normals is None


def test_frozen_changes_no_value_and_no_gradient_and_ends_with_its_block() -> None:
    field = make_field(CONFIGS["dense"], generator())
    positions = points(50, 0.6)

    def gradient() -> torch.Tensor:
        total = field.density(positions).sum() + field.evaluate(positions, with_normals=True).normals[:, 0].sum()
        return torch.autograd.grad(total, field.encoding.levels[0])[0]

    plain = gradient()
    with torch.no_grad(), field.frozen():
        field.density(positions)
        with torch.enable_grad(), field.frozen():
            torch.testing.assert_close(gradient(), plain)
    field.encoding.levels[0].data.add_(1.0)
    with field.frozen():
        changed = field.density(positions).detach()
    torch.testing.assert_close(field.density(positions).detach(), changed)
    assert not torch.allclose(gradient(), plain)


@every_config
def test_same_seed_same_field_and_no_global_draw(config: FieldConfig) -> None:
    state = torch.random.get_rng_state()
    a, b = (make_field(config, generator(7)).state_dict() for _ in range(2))
    other = make_field(config, generator(8)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a[name], b[name]) for name in a) and any(not torch.equal(a[name], other[name]) for name in a)


@every_config
def test_parameter_groups_hold_every_parameter_once(config: FieldConfig) -> None:
    field = make_field(config, generator())
    groups = field.parameter_groups(0.01)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in field.parameters())
    assert groups[0]["lr"] == pytest.approx(0.1 if list(field.encoding.parameters()) else 0.01)
    torch.optim.Adam(groups)


def test_finer_levels_of_a_dense_grid_learn_more_slowly() -> None:
    config = replace(CONFIGS["dense"], level_rate=0.25)
    rates = [group["lr_scale"] for group in make_field(config, generator()).parameter_groups(1.0) if group["name"].startswith("level")]
    assert len(rates) == config.n_levels and all(fine == pytest.approx(coarse / 4) for coarse, fine in zip(rates, rates[1:]))


def test_max_level_closes_detail() -> None:
    field = make_field(CONFIGS["dense"], generator())
    field.encoding.levels[-1].data.add_(5.0)
    positions = points(20, 0.5)
    field.max_level = 0.34
    closed = field.density(positions)
    field.max_level = 1.0
    assert field.max_level == 1.0 and (field.density(positions) > closed + 1).all()


def test_trunc_exp_is_exp_with_a_bounded_slope() -> None:
    x = torch.tensor([-3.0, 0.0, 14.0, 20.0], requires_grad=True)
    value = trunc_exp(x)
    value.sum().backward()
    torch.testing.assert_close(value.detach(), x.detach().exp())
    torch.testing.assert_close(x.grad, x.detach().clamp(max=15.0).exp())


def test_frozen_adds_the_levels_up_once_also_inside_a_frozen_block_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    field = make_field(CONFIGS["dense"], generator())
    positions, calls, volume = points(5, 0.5), [], field.encoding.volume
    monkeypatch.setattr(field.encoding, "volume", lambda: calls.append(1) or volume())
    with torch.no_grad(), field.frozen():
        field.density(positions)
        with torch.enable_grad(), field.frozen():
            field.density(positions)
            field.evaluate(positions, with_normals=True)
        field.density(positions)
    assert len(calls) == 2  # one for each mode
    field.density(positions)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"n_levels": 0}, "field.n-levels is 0, but must lie in 1..16"),
        ({"finest_resolution": 4}, "field.finest-resolution is 4, but must lie in 8..256"),
        ({"finest_resolution": 512}, "field.finest-resolution is 512, but must lie in 8..256"),
        ({"features": 2}, "field.features is 2, but a dense grid that no network reads holds exactly 4 numbers"),
        ({"encoding": "frequency"}, "field.encoding is frequency, whose waves need a network"),
        ({"hidden_layers": 3}, "field.hidden-layers is 3, but field.hidden-width is 0"),
        ({"background_degree": 0}, "field.background-degree is 0, but must lie in 1..8"),
        ({"blob_radius": 0.0}, "field.blob-radius is 0, but must lie in 0.01..1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, float], text: str) -> None:
    with pytest.raises(UserError, match=text):
        FieldConfig(**values)
    FieldConfig(encoding="hash", finest_resolution=2048, features=2)
