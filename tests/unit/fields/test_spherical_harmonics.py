"""Spherical harmonics by what defines them, in plain torch; and the learned background that sees by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from engine.fields.field import make_field
from engine.fields.field_config import FieldConfig
from engine.fields.spherical_harmonics import harmonics, harmonics_twin

DEGREE = 8
NUMBERS = [(l, m) for l in range(DEGREE) for m in range(-l, l + 1)]  # noqa: E741  the letters of every book


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def directions(n: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 3, generator=generator(seed), dtype=torch.float64), dim=-1)


def quadrature() -> tuple[Tensor, Tensor]:
    """Directions [K, 3] and weights [K] that integrate polynomials up to degree 2 * DEGREE over the sphere exactly."""
    z, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(DEGREE + 1))
    n = 2 * DEGREE + 1
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    radius = (1 - z * z).sqrt()[:, None]
    x = torch.stack([radius * angle.cos(), radius * angle.sin(), z[:, None].expand(-1, n)], dim=-1)
    return x.reshape(-1, 3), (weights[:, None] * (2 * math.pi / n)).expand(-1, n).reshape(-1)


def test_they_are_orthonormal_on_the_sphere() -> None:
    x, weights = quadrature()
    features = harmonics_twin(x, DEGREE)
    assert float(weights.sum()) == pytest.approx(4 * math.pi)
    torch.testing.assert_close(features.t() @ (weights[:, None] * features), torch.eye(DEGREE**2, dtype=torch.float64), atol=1e-13, rtol=0)


def test_they_are_those_of_the_books_in_order_and_sign() -> None:
    """scipy's complex ones have the Condon-Shortley sign; their real and imaginary parts times sqrt(2) are ours for m > 0 and m < 0."""
    x = directions(200)
    theta, phi = torch.acos(x[:, 2]).numpy(), torch.atan2(x[:, 1], x[:, 0]).numpy()
    columns = []
    for degree, m in NUMBERS:
        both = scipy.special.sph_harm_y(degree, abs(m), theta, phi)
        columns.append(both.real if m == 0 else math.sqrt(2) * (both.real if m > 0 else both.imag))
    torch.testing.assert_close(harmonics_twin(x, DEGREE), torch.from_numpy(np.stack(columns, axis=-1)), atol=1e-12, rtol=0)


def test_the_first_nine_are_the_polynomials_that_tiny_cuda_nn_has() -> None:
    """Also off the sphere, where other forms of the same harmonics differ."""
    x, y, z = (at := 1.3 * directions(50)).unbind(dim=-1)
    one, two = math.sqrt(3 / (4 * math.pi)), math.sqrt(15 / (4 * math.pi))
    expected = (
        *(torch.full_like(x, math.sqrt(1 / (4 * math.pi))), -one * y, one * z, -one * x),
        *(two * x * y, -two * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1), -two * x * z, two / 2 * (x * x - y * y)),
    )
    torch.testing.assert_close(harmonics_twin(at, 3), torch.stack(expected, dim=-1))


def test_gradients_are_of_the_polynomials_and_not_projected_to_the_sphere() -> None:
    """Of -0.4886 x along x, where a projected gradient would be zero."""
    at = torch.tensor([[1.0, 0.0, 0.0]]).requires_grad_()
    (d_at,) = torch.autograd.grad(harmonics(at, 2)[0, 3], at)
    torch.testing.assert_close(d_at, torch.tensor([[-math.sqrt(3 / (4 * math.pi)), 0.0, 0.0]]))


def test_a_lower_degree_is_the_front_of_a_higher_one() -> None:
    x, all_of_them = directions(20), harmonics_twin(directions(20), DEGREE)
    for degree in range(1, DEGREE):
        assert torch.equal(harmonics(x, degree), harmonics(x, DEGREE)[:, : degree**2])
        torch.testing.assert_close(harmonics(x, degree), all_of_them[:, : degree**2])


def test_a_background_sees_by_what_it_is_told_and_by_waves_otherwise() -> None:
    seen = directions(300).float()
    waves, constant, fine = (
        make_field(FieldConfig(**values), generator())
        for values in (
            {},
            {"background_encoding": "spherical-harmonics", "background_degree": 1},
            {"background_encoding": "spherical-harmonics", "background_degree": 5},
        )
    )
    assert [field.background_network.hidden.in_features for field in (waves, constant, fine)] == [27, 1, 25]
    assert constant.background(seen).std(dim=0).max() < 1e-6 < fine.background(seen).std(dim=0).min()
    colors = fine.background(seen)
    assert colors.shape == (300, 3) and (colors > 0).all() and (colors < 1).all()
    without_an_option = make_field(FieldConfig(background_degree=5), generator())
    assert all(torch.equal(a, b) for a, b in zip(waves.parameters(), without_an_option.parameters(), strict=True))


def test_a_background_learns_a_sky_above_a_ground() -> None:
    """Red above the horizon and blue below, from directions alone."""
    field = make_field(FieldConfig(background_encoding="spherical-harmonics"), generator())
    seen = directions(500).float()
    wanted = torch.where(seen[:, 2:] > 0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    optimizer = torch.optim.Adam(field.background_network.parameters(), lr=0.05)
    for _ in range(60):
        loss = (field.background(seen) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    up_and_down = field.background(torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]))
    assert loss < 0.03 and up_and_down[0, 0] > 0.95 and up_and_down[1, 2] > 0.95
