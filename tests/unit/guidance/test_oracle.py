"""The oracle against its own definition: autograd of the density, and the identities of a denoiser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.guidance.ddim import sample
from engine.guidance.oracle import OracleDenoiser, linear_alphas_cumprod
from engine.scene.view_prompts import PromptEmbeds


def make(n: int = 3, size: int = 4, std: float = 0.3) -> OracleDenoiser:
    images = torch.rand(n, size, size, 3, generator=torch.Generator().manual_seed(n))
    return OracleDenoiser(images, ["red mug", "mug", "hat"][:n], std=std)


def log_density(oracle: OracleDenoiser, noisy: Tensor, alpha_bar: Tensor, weights: Tensor, std: float) -> Tensor:
    v = alpha_bar * std**2 + 1 - alpha_bar
    squares = (noisy[:, None] - alpha_bar.sqrt() * oracle._centers).square().sum(dim=(2, 3, 4))
    return torch.logsumexp(weights.log() - squares / (2 * v), dim=1).sum()


@pytest.mark.parametrize("level", [0, 300, 900])
def test_noise_is_minus_sigma_times_the_gradient_of_the_log_density(level: int) -> None:
    oracle = make()
    alpha_bar = oracle.alphas_cumprod[level]
    weights = torch.tensor([[0.2, 0.5, 0.3]])
    noisy = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (grad,) = torch.autograd.grad(log_density(oracle, noisy, alpha_bar, weights, 0.3), noisy)
    noise = oracle.predict_noise(noisy.detach(), torch.tensor([level]), weights[:, None])
    torch.testing.assert_close(noise, -(1 - alpha_bar).sqrt() * grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("std", [0.0, 0.3])
def test_noise_and_clean_mix_to_what_was_given(std: float) -> None:
    oracle = make(std=std)
    noisy = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([0, 100, 500, 999])
    noise, clean = oracle.predict(noisy, timesteps, oracle.embed(["hat"] * 4))
    torch.testing.assert_close(oracle.add_noise(clean, noise, timesteps), noisy, atol=1e-4, rtol=1e-4)


def test_texts_name_pictures_by_the_longest_name() -> None:
    got = make().embed(["a red mug, front view", "a blue mug", "a hat", "", "a dog"])[:, 0]
    third = [1 / 3] * 3
    torch.testing.assert_close(got, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], third, third]))


def test_sampling_without_spread_returns_the_named_picture() -> None:
    oracle = make(std=0.0)
    prompt = PromptEmbeds(oracle.embed(["hat", "red mug"]), oracle.embed(["hat", "red mug"]))
    got = sample(oracle, prompt, n_steps=5, guidance_scale=1.0, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, oracle.decode(oracle._centers)[[2, 0]], atol=1e-4, rtol=0)


def test_encode_and_decode_are_inverse() -> None:
    images = torch.rand(2, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(make().decode(make().encode(images)), images)


def test_zero_snr_levels_are_finite() -> None:
    levels = linear_alphas_cumprod()
    levels[-1] = 0
    oracle = OracleDenoiser(torch.rand(2, 4, 4, 3, generator=torch.Generator().manual_seed(0)), alphas_cumprod=levels)
    noise, clean = oracle.predict(torch.ones(1, 3, 4, 4), torch.tensor([999]), oracle.embed([""]))
    torch.testing.assert_close(clean, oracle._centers.mean(dim=0, keepdim=True))  # nothing is known: the mean of all
    torch.testing.assert_close(noise, torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize(("shape", "names"), [((2, 4, 5, 3), None), ((2, 4, 4, 3), ["one"])])
def test_wrong_pictures_are_refused(shape: tuple[int, ...], names: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        OracleDenoiser(torch.zeros(shape), names)
