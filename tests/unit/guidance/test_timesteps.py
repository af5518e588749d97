"""Noise levels of a run: windows, their sliding, and the ways of falling."""

from __future__ import annotations

import pytest
import torch

from engine.guidance.oracle import linear_alphas_cumprod
from engine.guidance.timesteps import Annealing, draw, dreamtime_level

ALPHAS = linear_alphas_cumprod()


def levels(step: int, annealing: Annealing = "uniform", batch: int = 4000) -> torch.Tensor:
    source = torch.Generator().manual_seed(step)
    return draw(step, 101, (0.02, (0.0, 0.98, 1.0, 0.5)), batch, source, alphas_cumprod=ALPHAS, annealing=annealing)


def test_uniform_fills_its_window_and_nothing_else() -> None:
    for step, top in ((0, 980), (50, 740), (100, 500)):
        drawn = levels(step)
        assert drawn.dtype == torch.int64
        assert 20 <= drawn.min() < 25 and top - 5 < drawn.max() <= top
        assert drawn.float().mean().item() == pytest.approx((20 + top) / 2, abs=15)  # 4000 draws: 3.5 standard errors


def test_linear_and_sqrt_fall_from_top_to_bottom() -> None:
    expected: dict[Annealing, list[int]] = {"linear": [980, 740, 20], "sqrt": [980, 500, 20]}
    for kind, wanted in expected.items():
        drawn = [
            draw(step, 101, (0.02, 0.98), 2, torch.Generator(), alphas_cumprod=ALPHAS, annealing=kind).tolist() for step in (0, 25, 100)
        ]
        assert drawn == [[level] * 2 for level in wanted]


def test_a_model_with_other_timesteps_gets_its_own_and_never_one_too_many() -> None:
    assert draw(0, 2, (1.0, 1.0), 3, torch.Generator(), alphas_cumprod=ALPHAS[:50]).tolist() == [49] * 3
    assert draw(0, 1, (0.0, 0.0), 1, torch.Generator(), alphas_cumprod=ALPHAS).tolist() == [0]


def test_the_same_generator_gives_the_same_levels() -> None:
    assert torch.equal(levels(3), levels(3))
    assert not torch.equal(levels(3), levels(4))


def test_a_window_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lower end first, got 0.6..0.5 at step 7"):
        draw(7, 10, (0.6, 0.5), 1, torch.Generator(), alphas_cumprod=ALPHAS)
    with pytest.raises(ValueError, match="annealing must be"):
        draw(7, 10, (0.1, 0.5), 1, torch.Generator(), alphas_cumprod=ALPHAS, annealing="cosine")  # type: ignore[arg-type]


def test_dreamtime_spends_steps_in_proportion_to_its_weight() -> None:
    """The levels of all steps together are the weight's own histogram: W(t) = sqrt((1 - a) / a) times the plateau and its flanks."""
    n_steps = 20_000
    got = [dreamtime_level(step / (n_steps - 1), 20, 980, ALPHAS) for step in range(0, n_steps, 10)]
    assert got[0] == 980 and dreamtime_level(1.0, 20, 980, ALPHAS) == 20 and got == sorted(got, reverse=True)
    t = torch.arange(20, 981, dtype=torch.float64)
    a = ALPHAS[20:981].double()
    prior = torch.where(t > 800, torch.exp(-((t - 800) ** 2) / (2 * 300**2)), torch.exp(-((t - 500).clamp(max=0) ** 2) / (2 * 100**2)))
    weight = ((1 - a) / a).sqrt() * prior
    for low, high in ((20, 400), (400, 600), (600, 800), (800, 981)):
        wanted = (weight[(t >= low) & (t < high)].sum() / weight.sum()).item()
        assert sum(low <= level < high for level in got) / len(got) == pytest.approx(wanted, abs=0.005)


def test_dreamtime_stays_in_its_window_also_for_zero_snr_and_a_window_of_one_level() -> None:
    zero_snr = torch.linspace(1, 0, 1000)
    got = [draw(step, 50, (0.02, 1.0), 1, torch.Generator(), alphas_cumprod=zero_snr, annealing="dreamtime").item() for step in range(50)]
    assert got == sorted(got, reverse=True) and got[0] == 999 and got[-1] == 20 and len(set(got)) > 40
    assert dreamtime_level(0.5, 300, 300, ALPHAS) == 300
