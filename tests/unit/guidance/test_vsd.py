"""VSD: its adapters, what they learn, and that it keeps a distribution where SDS finds a point."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from engine.errors import UserError
from engine.guidance.denoiser import Denoiser
from engine.guidance.oracle import OracleDenoiser
from engine.guidance.sds import SDS
from engine.guidance.vsd import VSD, AdaptedScore
from engine.scene.view_prompts import PromptEmbeds
from tests.guidance_problems import generator, gradient, optimise, prompt_of
from tests.tiny_sd import build_tiny_sd

TIMESTEPS = torch.tensor([100, 700])


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def denoiser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    """A model of its own: hooks are put on it."""
    return Denoiser.load(build_tiny_sd(tmp_path_factory.mktemp("vsd"), prediction_type=request.param))


def cameras(*distances: float) -> Tensor:
    poses = torch.eye(4).repeat(len(distances), 1, 1)
    poses[:, 2, 3] = torch.tensor(distances)
    return poses


def problem(denoiser: Denoiser) -> tuple[Tensor, PromptEmbeds]:
    """Latents [2, C, h, w] and their prompt."""
    latents = denoiser.encode(torch.rand(2, 32, 32, 3, generator=generator())).detach()
    return latents, dataclasses.replace(prompt_of(denoiser, ["a red mug", "a mug"]), camera_to_world=cameras(1.0, 2.0))


def test_untrained_adapters_change_nothing_and_trained_ones_only_what_is_asked_through_them(denoiser: Denoiser) -> None:
    latents, prompt = problem(denoiser)
    plain = denoiser.predict_noise(latents, TIMESTEPS, prompt.text)
    score = AdaptedScore(denoiser, 2, 1e-2, generator())
    assert torch.equal(score.noise(latents, TIMESTEPS, prompt), plain)
    for step in range(3):
        score.learn(latents, prompt, generator(step))
    assert (score.noise(latents, TIMESTEPS, prompt) - plain).abs().max() > 1e-4
    assert torch.equal(denoiser.predict_noise(latents, TIMESTEPS, prompt.text), plain)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in denoiser.network.parameters())
    score.adapters.remove()
    with score.adapters.on(prompt.camera_to_world):
        assert torch.equal(denoiser.predict_noise(latents, TIMESTEPS, prompt.text), plain)


def test_the_adapters_gradient_is_the_finite_difference_of_their_loss(denoiser: Denoiser) -> None:
    latents, prompt = problem(denoiser)
    score = AdaptedScore(denoiser, 2, 1e-2, generator())
    for parameter in score.adapters.parameters():  # away from the start, where half of the gradient is zero
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator(1))
    score.training_loss(latents, prompt, generator(2)).backward()
    for name in ("up", "down", "camera"):
        chosen = [parameter for key, parameter in score.adapters.named_parameters() if key.startswith(name)]
        directions = [parameter.grad / parameter.grad.norm() for parameter in chosen]  # type: ignore[operator,union-attr]
        slope = sum((parameter.grad * direction).sum() for parameter, direction in zip(chosen, directions))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, direction in zip(chosen, directions):
                    parameter += sign * 1e-2 * direction
                values.append(score.training_loss(latents, prompt, generator(2)).item())
                for parameter, direction in zip(chosen, directions):
                    parameter -= sign * 1e-2 * direction
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(float(slope), rel=0.05, abs=1e-4), name
    score.adapters.remove()


def test_the_adapters_learn_what_the_renders_look_like(denoiser: Denoiser) -> None:
    latents, prompt = problem(denoiser)
    score = AdaptedScore(denoiser, 4, 3e-2, generator())

    def mean_loss() -> float:
        with torch.no_grad():
            return sum(score.training_loss(latents, prompt, generator(seed)).item() for seed in range(100, 108)) / 8

    before = mean_loss()
    for step in range(20):
        score.learn(latents, prompt, generator(step))
    assert mean_loss() < 0.97 * before
    elsewhere = dataclasses.replace(prompt, camera_to_world=cameras(2.0, 1.0))
    assert not torch.equal(score.noise(latents, TIMESTEPS, prompt), score.noise(latents, TIMESTEPS, elsewhere))
    score.adapters.remove()


def test_the_gradient_is_the_difference_of_the_two_scores_and_only_the_adapters_move(denoiser: Denoiser) -> None:
    images = torch.rand(2, 32, 32, 3, generator=generator())
    _, prompt = problem(denoiser)
    score = AdaptedScore(denoiser, 2, 1e-2, generator())
    for parameter in score.adapters.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator(1))
    latents = denoiser.encode(images.requires_grad_())
    noisy = denoiser.add_noise(latents.detach(), torch.randn(latents.shape, generator=generator(5)), TIMESTEPS)
    text, negative = (denoiser.predict_noise(noisy, TIMESTEPS, embeds) for embeds in (prompt.text, prompt.negative))
    wanted = (1 - denoiser.alpha_bar(TIMESTEPS)) * (negative + 7.5 * (text - negative) - score.noise(noisy, TIMESTEPS, prompt))
    (wanted.detach() * latents / 2).sum().backward()
    before = {name: value.clone() for name, value in score.adapters.state_dict().items()}
    got = gradient(VSD(renders=score), denoiser, images.detach(), prompt, TIMESTEPS)
    torch.testing.assert_close(got, images.grad, atol=1e-5, rtol=1e-3)
    assert any(not torch.equal(before[name], value) for name, value in score.adapters.state_dict().items())
    score.adapters.remove()


class GaussianScore:
    """The exact score of a cloud of renders, taken for a Gaussian."""

    def __init__(self, denoiser: Denoiser, latents: Tensor) -> None:
        self.denoiser = denoiser
        self.latents = latents

    def noise(self, noisy: Tensor, timesteps: Tensor, prompt: PromptEmbeds) -> Tensor:
        mean, variance = self.latents.mean(dim=0), self.latents.var(dim=0).mean()
        alpha_bar = self.denoiser.alpha_bar(timesteps)
        return (1 - alpha_bar).sqrt() * (noisy - alpha_bar.sqrt() * mean) / (alpha_bar * variance + 1 - alpha_bar)

    def learn(self, latents: Tensor, prompt: PromptEmbeds, generator: torch.Generator) -> None:
        self.latents = latents


def test_vsd_keeps_the_spread_of_the_prompts_pictures_where_sds_finds_their_middle() -> None:
    """48 renders under N(mu, 0.3^2): VSD's end as a cloud of that width, SDS's all at mu. The mean is mu for both."""
    picture = torch.full((1, 4, 4, 3), 0.6)
    oracle = OracleDenoiser(picture, std=0.3)  # in latents, twice the pictures
    start = 0.5 + 0.05 * torch.randn(48, 4, 4, 3, generator=generator())
    prompt = prompt_of(oracle, ["x"] * 48)
    score = GaussianScore(oracle, oracle.encode(start))
    spread = {}
    for name, guidance in (("vsd", VSD(guidance_scale=1.0, renders=score)), ("sds", SDS(guidance_scale=1.0))):
        ends = optimise(guidance, oracle, prompt, 4, 250, start=start, t_range=(0.02, 0.98))
        assert (ends.mean(dim=0) - picture).abs().mean() < 0.03
        spread[name] = ends.std(dim=0).mean().item()
    assert spread["vsd"] == pytest.approx(0.15, rel=0.15)
    assert spread["sds"] < 0.04


def test_a_model_without_a_network_is_refused_in_words() -> None:
    with pytest.raises(UserError, match="no network that guidance.method vsd could train. Use --guidance.method sds"):
        AdaptedScore(OracleDenoiser(torch.rand(1, 4, 4, 3)), 4, 1e-4, generator())
    with pytest.raises(ValueError, match="needs the score of the renders"):
        oracle = OracleDenoiser(torch.rand(1, 4, 4, 3))
        VSD().loss(oracle, torch.rand(1, 4, 4, 3), prompt_of(oracle, ["x"]), torch.tensor([3]), generator())
