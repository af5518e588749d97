"""The weights of the six views against hand-worked values."""

from __future__ import annotations

import pytest
import torch

from engine.scene.view_weights import VIEWS, view_weights

# azimuth, elevation -> front, left side, back, right side, overhead, bottom
CASES = [
    (0.0, 0.0, [1, 0, 0, 0, 0, 0]),
    (90.0, 0.0, [0, 1, 0, 0, 0, 0]),
    (180.0, 0.0, [0, 0, 1, 0, 0, 0]),
    (-180.0, 0.0, [0, 0, 1, 0, 0, 0]),
    (-90.0, 0.0, [0, 0, 0, 1, 0, 0]),
    (270.0, 0.0, [0, 0, 0, 1, 0, 0]),
    (45.0, 0.0, [0.5, 0.5, 0, 0, 0, 0]),
    (-30.0, 0.0, [2 / 3, 0, 0, 1 / 3, 0, 0]),
    (135.0, 45.0, [0, 0.25, 0.25, 0, 0.5, 0]),
    (720.0 + 22.5, -9.0, [0.675, 0.225, 0, 0, 0, 0.1]),
    (33.0, 90.0, [0, 0, 0, 0, 1, 0]),
    (33.0, -90.0, [0, 0, 0, 0, 0, 1]),
]


@pytest.mark.parametrize(("azimuth", "elevation", "expected"), CASES)
def test_weights_equal_the_values_worked_out_by_hand(azimuth: float, elevation: float, expected: list[float]) -> None:
    weights = view_weights(torch.tensor([azimuth]), torch.tensor([elevation]))
    torch.testing.assert_close(weights, torch.tensor([expected], dtype=torch.float32), atol=1e-6, rtol=0)


def test_weights_sum_to_one_and_are_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    azimuth = (torch.rand(500, generator=generator) - 0.5) * 2000
    elevation = (torch.rand(500, generator=generator) - 0.5) * 180
    weights = view_weights(azimuth, elevation)
    assert weights.shape == (500, len(VIEWS))
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(500), atol=1e-5, rtol=0)


def test_weights_are_continuous_everywhere() -> None:
    azimuth = torch.linspace(-200, 200, 4001)
    for elevation in (-40.0, 0.0, 40.0):
        weights = view_weights(azimuth, torch.full_like(azimuth, elevation))
        # 0.1 degree a step, slope at most 1/90 per degree
        assert (weights[1:] - weights[:-1]).abs().max() <= 0.1 / 90 + 1e-5


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must both be \[B\]"):
        view_weights(torch.zeros(2), torch.zeros(3))
