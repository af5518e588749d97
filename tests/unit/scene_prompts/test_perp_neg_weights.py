"""From which views Perp-Neg keeps a camera's picture away."""

from __future__ import annotations

import pytest
import torch

from engine.scene.perp_neg_weights import perp_neg_weights


def weights(azimuth: float, elevation: float = 0.0) -> list[float]:
    return perp_neg_weights(torch.tensor([azimuth]), torch.tensor([elevation]))[0].tolist()


def test_a_view_is_never_kept_away_from_itself() -> None:
    assert weights(0)[0] == pytest.approx(0, abs=1e-3)
    assert weights(90)[1] == pytest.approx(0, abs=1e-3)
    assert weights(-90)[1] == pytest.approx(0, abs=1e-3)


def test_every_other_view_is_kept_away_from_the_front_the_back_most() -> None:
    assert weights(90)[0] == pytest.approx(-(4 - 2.426), abs=1e-3)  # A + C
    assert weights(180)[0] == pytest.approx(-(1 + 0.967), abs=1e-3)
    assert weights(180)[1] == pytest.approx(-(1 - 0.606), abs=1e-3)
    falling = [weights(azimuth)[0] for azimuth in range(0, 181, 10)]
    assert falling == sorted(falling, reverse=True)


def test_weights_are_continuous_the_same_on_both_sides_and_never_push_towards_a_view() -> None:
    azimuth = torch.arange(-400.0, 401.0)
    got = perp_neg_weights(azimuth, torch.zeros_like(azimuth))
    assert (got <= 0).all()
    assert (got[1:] - got[:-1]).abs().max() < 0.05
    torch.testing.assert_close(got, got.flip(0))


def test_towards_the_poles_nothing_is_left_of_them() -> None:
    assert weights(180, 45) == pytest.approx([value / 2 for value in weights(180)])
    assert weights(120, 90) == weights(120, -90) == pytest.approx([0, 0])
