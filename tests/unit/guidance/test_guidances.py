"""SDS and the image target: their gradients against the written formulas, and whether they rebuild a known picture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.guidance.ddim import falling_levels
from engine.guidance.denoiser import Denoiser
from engine.guidance.distillation import Guidance, classifier_free, distillation_loss, limit, rescale
from engine.guidance.guidances import GUIDANCES
from engine.guidance.image_target import ImageTarget
from engine.guidance.oracle import OracleDenoiser
from engine.guidance.sds import SDS
from tests.guidance_problems import generator, gradient, optimise, prompt_of

SIZE = 8
# VSD learns as it goes and has tests of its own.
WITHOUT_STATE = sorted(set(GUIDANCES) - {"vsd", "clip"})  # CLIP is no diffusion model: test_clip.py


def known_images(n: int = 2) -> Tensor:
    return torch.rand(n, SIZE, SIZE, 3, generator=generator(7))


# Parts


def test_distillation_loss_has_exactly_the_given_gradient() -> None:
    latents = torch.randn(3, 4, 2, 2, generator=generator()).requires_grad_()
    grad = torch.randn(3, 4, 2, 2, generator=generator(1))
    distillation_loss(latents, grad).backward()
    torch.testing.assert_close(latents.grad, grad / 3, atol=1e-6, rtol=1e-5)


def test_classifier_free_at_one_is_the_text_and_at_zero_the_other() -> None:
    text, uncond = torch.tensor([3.0]), torch.tensor([1.0])
    assert [classifier_free(text, uncond, s).item() for s in (0.0, 1.0, 7.5)] == [1.0, 3.0, 16.0]


def test_whole_rescale_gives_the_texts_contrast_and_none_changes_nothing() -> None:
    text = torch.randn(2, 4, 8, 8, generator=generator())
    guided = 5 * torch.randn(2, 4, 8, 8, generator=generator(1)) + 1
    torch.testing.assert_close(rescale(guided, text, 1.0).std(dim=(1, 2, 3)), text.std(dim=(1, 2, 3)))
    assert rescale(guided, text, 0.0) is guided
    torch.testing.assert_close(rescale(guided, text, 0.5), 0.5 * (guided + rescale(guided, text, 1.0)))


def test_views_that_are_one_sample_share_one_factor_of_rescale() -> None:
    """MVDream's x0 loss: x0' = phi f x0 + (1 - phi) x0, f = std(x0 text) / std(x0) over the four views of a sample."""
    text = torch.randn(8, 4, 8, 8, generator=generator()) * torch.arange(1, 9).view(8, 1, 1, 1)
    guided = 5 * torch.randn(8, 4, 8, 8, generator=generator(1)) + torch.arange(8).view(8, 1, 1, 1)
    got = rescale(guided, text, 0.3, views_per_sample=4)
    for group in (slice(0, 4), slice(4, 8)):
        factor = text[group].std() / guided[group].std()
        torch.testing.assert_close(got[group], 0.3 * factor * guided[group] + 0.7 * guided[group])
    assert (got - rescale(guided, text, 0.3)).abs().max() > 0.1


def test_limits_are_what_their_names_say() -> None:
    grad = torch.stack([torch.full((1, 2, 2), 10.0), torch.tensor([[[0.3, -0.3], [0.3, -0.3]]])])
    assert limit(grad, 2.0, "off", 1.0).abs().amax(dim=(1, 2, 3)).tolist() == pytest.approx([2.0, 0.3])
    assert limit(grad, 0.0, "clip", 1.0).square().mean(dim=(1, 2, 3)).sqrt().tolist() == pytest.approx([1.0, 0.3])
    assert limit(grad, 0.0, "normalize", 2.0).square().mean(dim=(1, 2, 3)).sqrt().tolist() == pytest.approx([2.0, 2.0])
    assert limit(torch.zeros(1, 1, 2, 2), 0.0, "normalize", 1.0).abs().max() == 0
    assert limit(grad, 0.0, "off", 1.0) is grad


def test_levels_fall_in_equal_steps_whose_next_would_be_clean() -> None:
    got = [level.tolist() for level in falling_levels(torch.tensor([899, 39]), 4)]
    assert got == [[899, 39], [674, 29], [449, 19], [224, 9]]
    assert [level.tolist() for level in falling_levels(torch.tensor([7]), 1)] == [[7]]
    assert [level.tolist() for level in falling_levels(torch.tensor([1, 0]), 4)] == [[1, 0], [1, 0], [0, 0], [0, 0]]


# Gradients


@pytest.mark.parametrize("weight", ["sigma", "uniform"])
def test_sds_gradient_is_autograd_of_the_written_formula(tiny: Denoiser, weight: str) -> None:
    images = torch.rand(2, 40, 24, 3, generator=generator())
    prompt = prompt_of(tiny, ["a red mug", "a mug"], "foggy")
    timesteps = torch.tensor([100, 700])
    guidance = SDS(guidance_scale=20.0, timestep_weight=weight)  # type: ignore[arg-type]
    got = gradient(guidance, tiny, images, prompt, timesteps)

    latents = tiny.encode(images.requires_grad_())
    noise = torch.randn(latents.shape, generator=generator(5))
    alpha_bar = tiny.alphas_cumprod[timesteps].view(2, 1, 1, 1)
    with torch.no_grad():
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        eps_text = tiny.predict_noise(noisy, timesteps, prompt.text)
        eps_negative = tiny.predict_noise(noisy, timesteps, prompt.negative)
        w = 1 - alpha_bar if weight == "sigma" else 1.0
        formula = w * (eps_negative + 20.0 * (eps_text - eps_negative) - noise)
    ((formula * latents).sum() / 2).backward()
    assert images.grad is not None and images.grad.abs().max() > 1e-3
    torch.testing.assert_close(got, images.grad, atol=1e-5, rtol=1e-3)


def test_sds_towards_one_known_picture_is_free_of_noise() -> None:
    """eps_hat - eps = alpha / sigma (z - mu) when the score is a delta's: the drawn noise cancels, whatever the CFG scale."""
    mu = known_images(1)
    oracle = OracleDenoiser(mu)
    images = torch.rand(1, SIZE, SIZE, 3, generator=generator(2))
    timesteps = torch.tensor([400])
    alpha_bar = oracle.alphas_cumprod[400]
    got = gradient(SDS(), oracle, images, prompt_of(oracle, ["anything"]), timesteps)
    wanted = 2 * (alpha_bar * (1 - alpha_bar)).sqrt() * (2 * images - 2 * mu)  # the outer 2 from z = 2 x - 1
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_latent_target_with_sds_weight_has_the_gradient_of_sds(tiny: Denoiser) -> None:
    images = torch.rand(2, 32, 32, 3, generator=generator())
    prompt = prompt_of(tiny, ["a red mug", "a mug"])
    timesteps = torch.tensor([50, 600])
    target = ImageTarget(guidance_scale=12.0, rescale=0.0, space="latent", timestep_weight="sds")
    got = gradient(target, tiny, images, prompt, timesteps)
    wanted = gradient(SDS(guidance_scale=12.0), tiny, images, prompt, timesteps)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-3)


def test_image_target_pulls_each_pixel_by_its_difference_to_the_target() -> None:
    mu = known_images(1)
    oracle = OracleDenoiser(mu)
    images = torch.rand(3, SIZE, SIZE, 3, generator=generator(2))
    got = gradient(ImageTarget(rescale=0.0), oracle, images, prompt_of(oracle, ["x"] * 3), torch.tensor([100, 400, 900]))
    torch.testing.assert_close(got, (images - mu) / 3, atol=1e-4, rtol=1e-3)


def test_image_targets_gradient_of_a_flat_difference_does_not_depend_on_render_size() -> None:
    oracle = OracleDenoiser(torch.full((1, SIZE, SIZE, 3), 0.8))
    guidance = ImageTarget(rescale=0.0)
    losses = []
    for size in (4, 8, 24):
        images = torch.full((1, size, size, 3), 0.3, requires_grad=True)
        losses.append(guidance.loss(oracle, images, prompt_of(oracle, ["x"]), torch.tensor([300]), generator()).loss.item())
    assert losses == pytest.approx([0.5 * 0.25 * SIZE * SIZE * 3] * 3, rel=1e-4)


def test_image_target_needs_no_gradient_of_the_encoder(tiny: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    encode = tiny.encode
    monkeypatch.setattr(tiny, "encode", lambda images: seen.append(images.requires_grad) or encode(images))
    gradient(ImageTarget(), tiny, torch.rand(1, 32, 32, 3, generator=generator()), prompt_of(tiny, ["a mug"]), torch.tensor([300]))
    assert seen == [False]


@pytest.mark.parametrize("method", WITHOUT_STATE)
def test_model_gets_no_gradient_and_the_same_seed_gives_the_same_loss(tiny: Denoiser, method: str) -> None:
    images = torch.rand(2, 16, 16, 3, generator=generator()).requires_grad_()
    prompt = prompt_of(tiny, ["a red mug", "a mug"])
    guidance = GUIDANCES[method]()
    first, second = (guidance.loss(tiny, images, prompt, torch.tensor([100, 800]), generator(3)) for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    assert first.loss.requires_grad and first.loss.ndim == 0
    assert all(not metric.requires_grad and metric.ndim == 0 for metric in first.metrics.values())
    other = guidance.loss(tiny, images, prompt, torch.tensor([100, 800]), generator(4))
    assert not torch.equal(first.loss, other.loss)


@pytest.mark.parametrize("method", WITHOUT_STATE)
def test_images_of_a_batch_do_not_influence_each_other(tiny: Denoiser, method: str) -> None:
    images = torch.rand(2, 32, 32, 3, generator=generator())
    changed = torch.stack([images[0], 1 - images[1]])
    prompt = prompt_of(tiny, ["a red mug", "a mug"])
    both = [gradient(GUIDANCES[method](), tiny, batch, prompt, torch.tensor([300, 500])) for batch in (images, changed)]
    torch.testing.assert_close(both[0][0], both[1][0], atol=1e-5, rtol=1e-3)
    assert (both[0][1] - both[1][1]).abs().max() > 1e-4


# Whole trainings under an exact score


@pytest.mark.parametrize(
    "guidance",
    [SDS(), SDS(rms_limit="normalize"), ImageTarget(), ImageTarget(n_ddim_steps=4), ImageTarget(space="latent", timestep_weight="sds")],
    ids=["sds", "sds-normalized", "image-target", "image-target-4-steps", "latent-target"],
)
def test_the_known_picture_is_rebuilt(guidance: Guidance) -> None:
    oracle = OracleDenoiser(known_images(1))
    got = optimise(guidance, oracle, prompt_of(oracle, ["x"]))
    assert (got - known_images(1)).abs().max() < 0.02


@pytest.mark.parametrize("guidance", [SDS(guidance_scale=3.0), ImageTarget(guidance_scale=3.0)], ids=["sds", "image-target"])
def test_the_prompt_chooses_among_known_pictures(guidance: Guidance) -> None:
    oracle = OracleDenoiser(known_images(2), ["mug", "hat"], std=0.02)
    got = optimise(guidance, oracle, prompt_of(oracle, ["a hat", "a mug"]))
    wanted = known_images(2).flip(0)
    error, to_other = (got - wanted).abs().mean(dim=(1, 2, 3)), (got - known_images(2)).abs().mean(dim=(1, 2, 3))
    assert (error < 0.1).all() and (error < to_other / 2).all()


def test_a_render_of_another_size_is_pulled_to_the_same_picture() -> None:
    oracle = OracleDenoiser(torch.full((1, SIZE, SIZE, 3), 0.5) + 0.3 * torch.linspace(-1, 1, SIZE).view(1, 1, SIZE, 1))
    got = optimise(ImageTarget(), oracle, prompt_of(oracle, ["x"]), size=16)
    torch.testing.assert_close(oracle.decode(oracle.encode(got)), oracle.decode(oracle._centers), atol=0.04, rtol=0)
