"""Noise levels of a run: windows, their sliding, and the two ways of falling."""

from __future__ import annotations

import pytest
import torch

from engine.guidance.timesteps import Annealing, draw


def levels(step: int, annealing: Annealing = "uniform", batch: int = 4000) -> torch.Tensor:
    return draw(step, 101, (0.02, (0.0, 0.98, 1.0, 0.5)), batch, torch.Generator().manual_seed(step), annealing=annealing)


def test_uniform_fills_its_window_and_nothing_else() -> None:
    for step, top in ((0, 980), (50, 740), (100, 500)):
        drawn = levels(step)
        assert drawn.dtype == torch.int64
        assert 20 <= drawn.min() < 25 and top - 5 < drawn.max() <= top
        assert drawn.float().mean().item() == pytest.approx((20 + top) / 2, abs=15)  # 4000 draws: 3.5 standard errors


def test_linear_and_sqrt_fall_from_top_to_bottom() -> None:
    expected: dict[Annealing, list[int]] = {"linear": [980, 740, 20], "sqrt": [980, 500, 20]}
    for kind, wanted in expected.items():
        drawn = [draw(step, 101, (0.02, 0.98), 2, torch.Generator(), annealing=kind).tolist() for step in (0, 25, 100)]
        assert drawn == [[level] * 2 for level in wanted]


def test_a_model_with_other_timesteps_gets_its_own_and_never_one_too_many() -> None:
    assert draw(0, 2, (1.0, 1.0), 3, torch.Generator(), num_train_timesteps=50).tolist() == [49] * 3
    assert draw(0, 1, (0.0, 0.0), 1, torch.Generator()).tolist() == [0]


def test_the_same_generator_gives_the_same_levels() -> None:
    assert torch.equal(levels(3), levels(3))
    assert not torch.equal(levels(3), levels(4))


def test_a_window_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lower end first, got 0.6..0.5 at step 7"):
        draw(7, 10, (0.6, 0.5), 1, torch.Generator())
    with pytest.raises(ValueError, match="annealing must be"):
        draw(7, 10, (0.1, 0.5), 1, torch.Generator(), annealing="cosine")  # type: ignore[arg-type]
