"""Compositing against closed forms, conservation and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from engine.rendering.composite import accumulate, weights_from_density
from engine.rendering.march import pack


def packed(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ray_indices = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return ray_indices, pack(ray_indices, len(counts))


def fog(counts: list[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    ray_indices, packed_info = packed(counts)
    M = len(ray_indices)
    densities = torch.rand(M, generator=generator, dtype=dtype) * 8
    deltas = torch.rand(M, generator=generator, dtype=dtype) * 0.2 + 0.01
    return densities, deltas, ray_indices, packed_info


def naive_weights(densities: torch.Tensor, deltas: torch.Tensor, packed_info: torch.Tensor) -> torch.Tensor:
    out = []
    for first, count in packed_info.tolist():
        transmittance = torch.ones((), dtype=densities.dtype)
        for i in range(first, first + count):
            alpha = 1 - torch.exp(-densities[i] * deltas[i])
            out.append(transmittance * alpha)
            transmittance = transmittance * (1 - alpha)
    return torch.stack(out)


@pytest.mark.parametrize("n_samples", [1, 7, 300])
def test_uniform_fog_has_beer_lambert_opacity(n_samples: int) -> None:
    sigma, length = 1.7, 0.9
    ray_indices, packed_info = packed([n_samples, 0, n_samples])
    densities = torch.full((2 * n_samples,), sigma)
    weights, transmittance = weights_from_density(densities, torch.full_like(densities, length / n_samples), packed_info)
    opacity = accumulate(weights, None, ray_indices, 3)[:, 0]
    expected = 1 - math.exp(-sigma * length)
    torch.testing.assert_close(opacity, torch.tensor([expected, 0.0, expected]), atol=2e-6, rtol=0)
    along = torch.arange(n_samples) * (length / n_samples)
    torch.testing.assert_close(transmittance[:n_samples], torch.exp(-sigma * along), atol=2e-6, rtol=0)


def test_weights_match_the_definition_sample_by_sample() -> None:
    densities, deltas, _, packed_info = fog([3, 0, 1, 9, 5])
    weights, _ = weights_from_density(densities, deltas, packed_info)
    torch.testing.assert_close(weights, naive_weights(densities, deltas, packed_info), atol=1e-12, rtol=1e-12)


def test_splitting_every_sample_in_two_changes_nothing() -> None:
    densities, deltas, ray_indices, packed_info = fog([4, 6, 0, 2])
    values = torch.rand(len(densities), 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole, _ = weights_from_density(densities, deltas, packed_info)
    halves, _ = weights_from_density(densities.repeat_interleave(2), deltas.repeat_interleave(2) / 2, packed_info * 2)
    sums = accumulate(whole, values, ray_indices, 4)
    split = accumulate(halves, values.repeat_interleave(2, dim=0), ray_indices.repeat_interleave(2), 4)
    torch.testing.assert_close(sums, split, atol=1e-12, rtol=0)


def test_weights_and_what_passes_through_add_up_to_one() -> None:
    densities, deltas, ray_indices, packed_info = fog([5, 1, 8, 3], seed=2)
    weights, transmittance = weights_from_density(densities, deltas, packed_info)
    last = packed_info.sum(1) - 1
    through = transmittance[last] * torch.exp(-densities[last] * deltas[last])
    torch.testing.assert_close(accumulate(weights, None, ray_indices, 4)[:, 0] + through, torch.ones(4, dtype=torch.float64))


def test_gradients_match_finite_differences_also_of_single_weights() -> None:
    densities, deltas, ray_indices, packed_info = fog([4, 0, 3, 5], seed=3)
    densities.requires_grad_()
    # each weight and each transmittance gets its own cotangent: stable-dreamfusion's kernel had exactly this term wrong
    assert torch.autograd.gradcheck(lambda d: weights_from_density(d, deltas, packed_info), (densities,))
    values = torch.rand(len(densities), 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda d, v: accumulate(weights_from_density(d, deltas, packed_info)[0], v, ray_indices, 4), (densities, values)
    )


def test_entropy_of_weights_has_the_gradient_of_the_definition() -> None:
    densities, deltas, _, packed_info = fog([6, 9], seed=5)

    def entropy(weights: torch.Tensor) -> torch.Tensor:
        w = weights.clamp(1e-6, 1 - 1e-6)
        return -(w * w.log() + (1 - w) * (1 - w).log()).mean()

    ours, exact = densities.clone().requires_grad_(), densities.clone().requires_grad_()
    entropy(weights_from_density(ours, deltas, packed_info)[0]).backward()
    entropy(naive_weights(exact, deltas, packed_info)).backward()
    torch.testing.assert_close(ours.grad, exact.grad, atol=1e-12, rtol=1e-9)


def test_float32_stays_exact_behind_many_opaque_rays() -> None:
    n_rays, n_samples = 4000, 20
    _, packed_info = packed([n_samples] * n_rays)
    densities = torch.full((n_rays * n_samples,), 80.0)
    densities[-n_samples:] = 0.5  # the last ray is thin fog, after an optical depth of 300,000
    weights, _ = weights_from_density(densities, torch.full_like(densities, 0.05), packed_info)
    alone, _ = weights_from_density(densities[-n_samples:], torch.full((n_samples,), 0.05), packed([n_samples])[1])
    torch.testing.assert_close(weights[-n_samples:], alone, atol=1e-6, rtol=0)


def test_stop_takes_the_weights_that_little_light_reaches_and_no_others() -> None:
    densities, deltas, _, packed_info = fog([40, 0, 60], seed=9)
    whole, transmittance = weights_from_density(densities, deltas, packed_info)
    stop = 1.001 * float(transmittance.median())  # between two of them: finite differences must not carry one across
    weights, _ = weights_from_density(densities, deltas, packed_info, stop)
    assert torch.equal(weights, torch.where(transmittance >= stop, whole, 0.0))
    assert 0 < int((weights > 0).sum()) < len(weights)
    assert torch.autograd.gradcheck(lambda d: weights_from_density(d, deltas, packed_info, stop)[0], (densities.requires_grad_(),))


def test_no_samples_at_all_is_allowed() -> None:
    empty = torch.zeros(0)
    weights, transmittance = weights_from_density(empty, empty, torch.zeros(5, 2, dtype=torch.int64))
    assert weights.shape == transmittance.shape == (0,)
    assert accumulate(weights, None, torch.zeros(0, dtype=torch.int64), 5).eq(0).all()


def test_wrong_shapes_are_refused_by_text() -> None:
    with pytest.raises(ValueError, match=r"packed_info \[R, 2\] int64"):
        weights_from_density(torch.zeros(3), torch.zeros(3), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"must be \[M\]"):
        weights_from_density(torch.zeros(3), torch.zeros(2), torch.zeros(1, 2, dtype=torch.int64))
