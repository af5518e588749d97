"""The weighted sum of scores: each method against its written formula, Perp-Neg against its algebra, and what is asked of the U-Net."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from engine.guidance.csd import CSD
from engine.guidance.denoiser import Denoiser
from engine.guidance.nfsd import NFSD
from engine.guidance.oracle import OracleDenoiser
from engine.guidance.score_distillation import ScoreDistillation, noise_level_weight
from engine.guidance.scores import Score, ScoreWeights, combine, perp_neg, predict_scores
from engine.guidance.sds import SDS
from engine.guidance.sds_bridge import SDSBridge
from engine.scene.view_prompts import PromptEmbeds
from tests.guidance_problems import generator, gradient, optimise, prompt_of

TIMESTEPS = torch.tensor([100, 700])  # below and above NFSD's bound
S = 12.0
METHODS: dict[str, ScoreDistillation] = {
    "sds": SDS(guidance_scale=S),
    "csd": CSD(guidance_scale=S, negative_scale=0.4),
    "nfsd": NFSD(guidance_scale=S),
    "bridge": SDSBridge(guidance_scale=S),
    "bridge-half": SDSBridge(guidance_scale=S, bridge=0.5),
}


def written(method: str, text: Tensor, empty: Tensor, negative: Tensor, flawed: Tensor, noise: Tensor) -> Tensor:
    """The papers' formulas, in float64."""
    sds = negative + S * (text - negative) - noise
    if method == "sds":
        return sds
    if method == "csd":
        return S * (text - empty) + 0.4 * (empty - negative)
    if method == "nfsd":
        domain = torch.stack([empty[0], empty[1] - negative[1]])  # t = 100 and t = 700
        return S * (text - empty) + domain
    bridge = S * (text - flawed)
    return bridge if method == "bridge" else 0.5 * sds + 0.5 * bridge


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_its_formula(tiny: Denoiser, method: str) -> None:
    guidance = METHODS[method]
    images = torch.rand(2, 32, 32, 3, generator=generator())
    prompt = prompt_of(tiny, ["a red mug", "a mug"], "foggy")
    got = gradient(guidance, tiny, images, prompt, TIMESTEPS)

    latents = tiny.encode(images.requires_grad_())
    noise = torch.randn(latents.shape, generator=generator(5))
    alpha_bar = tiny.alphas_cumprod[TIMESTEPS].view(2, 1, 1, 1)
    with torch.no_grad():
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        roles = [prompt.of(role) for role in ("text", "empty", "negative", "flawed")]
        scores = [tiny.predict_noise(noisy, TIMESTEPS, embeds).double() for embeds in roles]
        wanted = noise_level_weight(guidance.timestep_weight, alpha_bar) * written(method, *scores, noise.double())
    (wanted * latents / 2).sum().backward()
    assert images.grad is not None and images.grad.abs().max() > 1e-3
    torch.testing.assert_close(got, images.grad, atol=1e-5, rtol=1e-3)


def test_sds_is_bit_for_bit_what_it_was_before_the_sum(tiny: Denoiser) -> None:
    """The direction, written as it stood in sds.py before other methods shared it."""
    prompt = prompt_of(tiny, ["a red mug", "a mug"], "foggy")
    noisy, noise = (torch.randn(2, *tiny.latent_shape, generator=generator(seed)) for seed in (1, 2))
    for s in (100.0, 7.5, 4.3):
        weights = SDS(guidance_scale=s).weights(TIMESTEPS / 1000)
        got = combine(predict_scores(tiny, noisy, TIMESTEPS, prompt, weights.roles()), weights, noise)
        both = torch.cat([prompt.text, prompt.negative])
        with torch.no_grad():
            text, uncond = tiny.predict_noise(noisy.repeat(2, 1, 1, 1), TIMESTEPS.repeat(2), both).chunk(2)
        assert torch.equal(got, uncond + s * (text - uncond) - noise)


@pytest.mark.parametrize("guidance", [*METHODS.values(), SDSBridge(bridge=0.0)])
def test_weights_sum_to_nothing_where_the_denoiser_is_of_one_mind(guidance: ScoreDistillation) -> None:
    """The same prediction e for all prompts: SDS moves by e - noise, the noise-free methods not at all; NFSD by e at little noise."""
    e, noise = torch.randn(2, 4, 2, 2, generator=generator()), torch.randn(2, 4, 2, 2, generator=generator(1))
    weights = guidance.weights(torch.tensor([0.1, 0.7]))
    got = combine({role: Score(e, e) for role in weights.roles()}, weights, noise)
    part = {SDS: 1.0, CSD: 0.0, NFSD: 0.0, SDSBridge: 1 - getattr(guidance, "bridge", 0.0)}[type(guidance)]
    wanted = part * (e - noise)
    if isinstance(guidance, NFSD):
        wanted[0] = e[0]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_a_hundredfold_guidance_keeps_the_digits_of_nearly_equal_predictions() -> None:
    base = 1000 + torch.rand(1, 4, 8, 8, generator=generator(), dtype=torch.float64)
    text, empty, negative = base + 1e-3, base, base - 1e-3
    exact = 100 * (text - empty) + 100 * (empty - negative)
    scores = {role: Score(value.float(), value.float()) for role, value in (("text", text), ("empty", empty), ("negative", negative))}
    got = combine(scores, ScoreWeights(text=100, empty=-0.0, negative=-100), torch.zeros(1, 4, 8, 8))  # type: ignore[arg-type]
    assert (got.double() - exact).abs().max() < 0.02  # what float32 keeps of 1000; a plain sum is off by as much as 100 times that


class Counting(OracleDenoiser):
    """Remembers how many evaluations each call asked for."""

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        self.calls = [*getattr(self, "calls", []), len(embeds)]
        return super().predict(noisy_latents, timesteps, embeds)


@pytest.mark.parametrize(
    ("guidance", "negative", "against", "evaluations"),
    [
        (SDS(), "", 0, 2),
        (SDS(), "hat", 2, 4),
        (CSD(), "hat", 0, 2),
        (CSD(negative_scale=0.5), "hat", 0, 3),
        (CSD(negative_scale=0.5), "", 0, 2),
        (CSD(negative_scale=1.0), "hat", 0, 2),
        (NFSD(), "hat", 0, 3),
        (NFSD(), "", 0, 2),
        (SDSBridge(), "hat", 0, 2),
        (SDSBridge(bridge=0.0), "hat", 0, 2),
        (SDSBridge(bridge=0.5), "hat", 0, 3),
    ],
)
def test_a_step_costs_what_the_guide_says(guidance: ScoreDistillation, negative: str, against: int, evaluations: int) -> None:
    denoiser = Counting(torch.rand(2, 8, 8, 3, generator=generator()), ["mug", "hat"], std=0.1)
    prompt = prompt_of(denoiser, ["mug"], negative, flaws="hat")
    if against:
        prompt = dataclasses.replace(prompt, against=prompt.empty[:, None].expand(-1, against, -1, -1), against_weights=-torch.ones(1, 2))  # type: ignore[index]
    guidance.loss(denoiser, torch.rand(1, 8, 8, 3), prompt, torch.tensor([500]), generator())
    assert denoiser.calls == [evaluations]


# Perp-Neg


def test_perp_neg_leaves_what_lies_along_the_prompt_and_turns_away_from_the_rest() -> None:
    base, text, other = (torch.randn(2, 4, 3, 3, generator=generator(seed), dtype=torch.float64) for seed in range(3))
    d = text - base
    assert torch.equal(perp_neg(text, base, [other], torch.zeros(2, 1)), text)
    along = base + 0.7 * d  # says the same as the prompt, weaker: nothing to turn away from
    torch.testing.assert_close(perp_neg(text, base, [along], -2 * torch.ones(2, 1)), text)
    got = perp_neg(text, base, [other], torch.tensor([[-1.0], [-0.5]])) - base
    inner = lambda x, y: (x * y).sum(dim=(1, 2, 3))  # noqa: E731
    torch.testing.assert_close(inner(got, d), inner(d, d))  # as far along the prompt as before
    perpendicular = (other - base) - (inner(other - base, d) / inner(d, d)).view(2, 1, 1, 1) * d
    torch.testing.assert_close(got - d, torch.tensor([-1.0, -0.5]).view(2, 1, 1, 1) * perpendicular)
    assert torch.isfinite(perp_neg(base, base, [other], -torch.ones(2, 1))).all()  # a prompt that says nothing


def test_perp_neg_is_the_same_in_epsilon_and_in_x0(tiny: Denoiser) -> None:
    prompt = prompt_of(tiny, ["a red mug", "a mug"])
    against = tiny.embed(["red view", "mug view"])[None].expand(2, -1, -1, -1)
    prompt = dataclasses.replace(prompt, against=against, against_weights=torch.tensor([[-1.5, -0.2], [0.0, -1.0]]))
    noisy = torch.randn(2, *tiny.latent_shape, generator=generator())
    score = predict_scores(tiny, noisy, TIMESTEPS, prompt, ("text", "negative"))["text"]
    torch.testing.assert_close(tiny.add_noise(score.clean, score.noise, TIMESTEPS), noisy, atol=2e-5, rtol=1e-4)
    plain = predict_scores(tiny, noisy, TIMESTEPS, dataclasses.replace(prompt, against=None, against_weights=None), ("text",))["text"]
    assert (score.noise - plain.noise).abs().max() > 1e-4


def test_perp_neg_moves_the_answer_by_the_perpendicular_part_of_what_it_is_kept_away_from() -> None:
    """Under Gaussians of one width SDS ends at base + s [(text - base) + w (other - base)_perpendicular], in closed form."""
    text, base, other = 0.5 + 0.06 * torch.randn(3, 8, 8, 3, generator=generator())
    oracle = OracleDenoiser(torch.stack([text, base, other]), ["mug", "thing", "hat"], std=0.3)
    against = oracle.embed(["hat"])[:, None]
    prompt = dataclasses.replace(prompt_of(oracle, ["mug"], "thing"), against=against, against_weights=-torch.ones(1, 1))
    got = optimise(SDS(guidance_scale=2.0), oracle, prompt)
    d, away = text - base, other - base
    wanted = base + 2 * (d - (away - (away * d).sum() / (d * d).sum() * d))
    assert (wanted - (base + 2 * d)).abs().mean() > 0.05  # not what it would be without
    assert (got[0] - wanted).abs().mean() < 0.01


def test_a_role_that_was_not_embedded_is_named(tiny: Denoiser) -> None:
    prompt = PromptEmbeds(tiny.embed(["a mug"]), tiny.embed([""]))
    with pytest.raises(ValueError, match="the flawed prompt was not embedded"):
        SDSBridge().loss(tiny, torch.rand(1, 32, 32, 3), prompt, torch.tensor([3]), generator())
    with pytest.raises(ValueError, match="go together"):
        PromptEmbeds(prompt.text, prompt.negative, against=prompt.text[:, None])
