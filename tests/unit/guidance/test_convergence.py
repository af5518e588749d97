"""Where each method ends under an exact score: docs/guidance.md states these results, these tests hold them.

"mug" and "hat" are Gaussians of one width round two pictures, or, without a name in the text, the mixture of both.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.guidance.csd import CSD
from engine.guidance.distillation import Guidance
from engine.guidance.image_target import ImageTarget
from engine.guidance.inversion import invert, rising_levels
from engine.guidance.ism import ISM
from engine.guidance.nfsd import NFSD
from engine.guidance.oracle import OracleDenoiser
from engine.guidance.scores import Score
from engine.guidance.sdi import SDI
from engine.guidance.sds import SDS
from engine.guidance.sds_bridge import SDSBridge
from tests.guidance_problems import generator, gradient, optimise, prompt_of

SIZE = 4


def pictures() -> Tensor:
    return 0.5 + 0.08 * torch.randn(2, SIZE, SIZE, 3, generator=generator(3))


def oracle(std: float = 0.2) -> OracleDenoiser:
    return OracleDenoiser(pictures(), ["mug", "hat"], std=std)


def end_of(guidance: Guidance, denoiser: OracleDenoiser, negative: str = "hat", **settings: Any) -> Tensor:
    prompt = prompt_of(denoiser, ["mug"], negative)
    prompt = dataclasses.replace(prompt, flawed=prompt.empty)  # as if flaws hid what it is
    return optimise(guidance, denoiser, prompt, SIZE, 200, **settings)[0]


# How far beyond the prompt


@pytest.mark.parametrize(
    ("guidance", "times"),
    [(SDS(guidance_scale=1.0), 1.0), (SDS(guidance_scale=3.0), 3.0), (SDS(guidance_scale=3.0, timestep_weight="x0"), 3.0)],
    ids=["1", "3", "3-x0"],
)
def test_sds_ends_as_many_times_as_far_from_the_negative_as_its_scale(guidance: SDS, times: float) -> None:
    mug, hat = pictures()
    got = end_of(guidance, oracle())
    assert (got - (hat + times * (mug - hat))).abs().mean() < 0.012 * times


def test_whole_rescale_takes_the_overshoot_of_a_target_back() -> None:
    mug, hat = pictures()
    plain, rescaled = (end_of(ImageTarget(guidance_scale=4.0, rescale=phi), oracle()) for phi in (0.0, 1.0))
    assert (plain - (hat + 4 * (mug - hat))).abs().mean() < 0.05
    assert (rescaled - mug).abs().mean() < 0.25 * (plain - mug).abs().mean()


def test_csd_and_the_bridge_never_arrive_between_gaussians_of_one_width() -> None:
    """Their direction is the difference of two scores, here the same everywhere: no picture is good enough."""
    denoiser = oracle()
    prompt = prompt_of(denoiser, ["mug"], "hat")
    prompt = dataclasses.replace(prompt, empty=prompt.negative, flawed=prompt.negative)
    for guidance in (CSD(), SDSBridge()):
        here, there = (gradient(guidance, denoiser, image[None], prompt, torch.tensor([400])) for image in pictures())
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)
        assert here.abs().max() > 1e-3


# Which picture, and whether it is the picture

ALL = {
    "sds": SDS(guidance_scale=3.0),
    "csd": CSD(),
    "nfsd": NFSD(),
    "bridge": SDSBridge(),
    "ism": ISM(),
    "sdi": SDI(guidance_scale=3.0, inversion_scale=-3.0, rescale=0.0),
    "image-target": ImageTarget(guidance_scale=3.0, rescale=0.0),
}
# Those that pull to the set of pictures itself, not only to what tells one from the other. NFSD does at little noise, but leaves
# the drawn noise in there, so that its pull drowns in it for long.
HELD = ("sds", "ism", "sdi", "image-target")


@pytest.mark.parametrize("method", ALL)
def test_the_prompt_chooses_and_methods_with_a_density_term_find_the_picture(method: str) -> None:
    mug, hat = pictures()
    got = end_of(ALL[method], oracle(0.05), "")
    to_mug, to_hat = (got - mug).abs().mean(), (got - hat).abs().mean()
    assert to_mug < to_hat  # the classifier that CSD climbs is sure, wherever the picture lies
    if method in HELD:
        assert to_mug < 0.04


@pytest.mark.parametrize("method", ["csd", "bridge", *HELD])
def test_dirt_stays_unless_something_pulls_to_the_pictures(method: str) -> None:
    """Once the prompt is decided CSD and the bridge say nothing about dirt that lies across what tells the pictures apart."""
    mug, hat = pictures()
    apart = (mug - hat) / (mug - hat).norm()
    dirt = torch.randn(SIZE, SIZE, 3, generator=generator(9))
    dirt = 0.1 * (dirt - (dirt * apart).sum() * apart)
    got = end_of(ALL[method], oracle(0.05), "", start=(mug + dirt)[None], t_range=(0.02, 0.4))
    left = (got - mug).norm() / dirt.norm()
    assert left < 0.3 if method in HELD else left > 0.9


@pytest.mark.parametrize("guidance", [SDS(guidance_scale=1.0, timestep_weight="x0"), ImageTarget(rescale=0.0)], ids=["sds", "target"])
def test_much_noise_alone_finds_the_mean_and_falling_noise_one_of_the_modes(guidance: Guidance) -> None:
    denoiser = OracleDenoiser(pictures(), std=0.02)
    prompt = prompt_of(denoiser, ["anything"])
    mean = pictures().mean(dim=0)
    start = (0.5 * mean + 0.5 * pictures()[0])[None]
    apart = (pictures()[0] - mean).abs().mean()
    blurred = optimise(guidance, denoiser, prompt, SIZE, 200, start=start, t_range=(0.9, 0.98))[0]
    sharp = optimise(guidance, denoiser, prompt, SIZE, 200, start=start, t_range=(0.02, (0.0, 0.98, 1.0, 0.1)))[0]
    assert (blurred - mean).abs().mean() < 0.2 * apart
    assert (pictures() - sharp).abs().mean(dim=(1, 2, 3)).min() < 0.4 * apart


# Inversion


def test_inversion_follows_the_exact_path_of_a_gaussian() -> None:
    """The probability flow of N(mu, std^2) keeps (z - a mu) / sqrt(a^2 std^2 + s^2); the walk comes nearer with every step."""
    denoiser = OracleDenoiser(pictures()[:1], std=0.5)
    z = denoiser.encode(pictures()[1:])
    mu = denoiser.encode(pictures()[:1])
    prompt = denoiser.embed(["x"])
    end = torch.tensor([700])

    def predict(noisy: Tensor, level: Tensor) -> Score:
        return Score(*denoiser.predict(noisy, level, prompt))

    def width(level: Tensor) -> Tensor:
        alpha_bar = denoiser.alpha_bar(level)
        return (alpha_bar * 0.25 + 1 - alpha_bar).sqrt()

    first = torch.tensor([0])
    exact = denoiser.alpha_bar(end).sqrt() * mu + width(end) / width(first) * (z - denoiser.alpha_bar(first).sqrt() * mu)
    errors = []
    for n_steps in (5, 20, 80):
        got, last_noise = invert(denoiser, z, rising_levels(end, n_steps), predict, generator=generator())
        errors.append(((got - exact).norm() / exact.norm()).item())
        assert last_noise.shape == got.shape
    assert errors[0] > 2.5 * errors[1] > 2.5 * 2.5 * errors[2] and errors[2] < 0.03  # of first order


def test_eta_adds_ddpms_noise_of_each_step() -> None:
    denoiser = OracleDenoiser(pictures()[:1], std=0.5)
    z, levels = torch.zeros(500, 3, SIZE, SIZE), [torch.full((500,), level) for level in (200, 400)]

    def predict(noisy: Tensor, level: Tensor) -> Score:
        return Score(torch.zeros_like(noisy), noisy)

    got, _ = invert(denoiser, z, levels, predict, generator=generator(), eta=0.5)
    low, high = denoiser.alphas_cumprod[[200, 400]]
    assert got.std().item() == pytest.approx(0.5 * ((1 - low) / (1 - high) * (1 - high / low)).sqrt().item(), rel=0.02)


def test_levels_rise_from_nothing_in_equal_steps() -> None:
    assert [level.tolist() for level in rising_levels(torch.tensor([900, 40]), 4)] == [[0, 0], [225, 10], [450, 20], [675, 30], [900, 40]]


def test_ism_asks_nothing_of_a_model_that_says_the_same_to_both_prompts() -> None:
    """Both ends of the interval agree on a path to one picture, so at scale 1 the gradient is a hundredth of SDS's."""
    denoiser = OracleDenoiser(pictures()[:1])
    prompt = prompt_of(denoiser, ["x"])
    sizes = [
        gradient(guidance, denoiser, pictures()[1:], prompt, torch.tensor([500])).norm()
        for guidance in (ISM(guidance_scale=1.0, n_inversion_steps=20), SDS(guidance_scale=1.0, timestep_weight="x0"))
    ]
    assert sizes[0] < 0.01 * sizes[1]


def test_mvdreams_loss_is_the_latent_target_with_rescale() -> None:
    """2308.16512, section 3.3: 1/2 |z - sg(phi f x0 + (1 - phi) x0)|^2 summed over an image, f = std(x0 text) / std(x0 guided)."""
    denoiser = oracle()
    image = pictures()[:1].clone().requires_grad_()
    prompt = prompt_of(denoiser, ["mug"], "hat")
    timesteps = torch.tensor([300])
    got = gradient(ImageTarget(space="latent", guidance_scale=50.0, rescale=0.5), denoiser, image.detach(), prompt, timesteps)
    z = denoiser.encode(image)
    noisy = denoiser.add_noise(z.detach(), torch.randn(z.shape, generator=generator(5)), timesteps)
    text, negative = (denoiser.predict(noisy, timesteps, embeds)[1] for embeds in (prompt.text, prompt.negative))
    x0 = negative + 50 * (text - negative)
    x0 = 0.5 * (text.std() / x0.std()) * x0 + 0.5 * x0
    (0.5 * (z - x0.detach()).square().sum()).backward()
    torch.testing.assert_close(got, image.grad, atol=1e-5, rtol=1e-4)
