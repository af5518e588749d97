"""What a job's model computes in, and how far that moves what it says."""

from __future__ import annotations

import pytest
import torch

from engine.guidance.denoiser import Denoiser
from engine.guidance.image_target import ImageTarget
from engine.guidance.model_table import find_model, is_installed, model_folder
from engine.guidance.precision import job_dtype
from engine.guidance.sds import SDS
from engine.scene.view_prompts import PromptEmbeds

CPU = torch.device("cpu")
TOYBOX = find_model("toybox")
needs_bfloat16 = pytest.mark.skipif(job_dtype(CPU) != torch.bfloat16, reason="this processor would emulate bfloat16, for minutes")


@pytest.mark.parametrize(
    ("device", "capabilities", "wanted"),
    [
        ("cpu", {"avx512_bf16": True}, torch.bfloat16),
        ("cpu", {"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ("cpu", {"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ("cpu", {"neon": True, "bf16": True}, torch.float32),
        ("cuda", {"avx512_bf16": True}, torch.float16),
    ],
)
def test_half_precision_only_where_it_is_fast(device: str, capabilities: dict[str, bool], wanted: torch.dtype) -> None:
    assert job_dtype(torch.device(device), capabilities) == wanted


@pytest.fixture(scope="module")
def pair() -> tuple[Denoiser, Denoiser]:
    """Toybox in float32 and in bfloat16."""
    if not is_installed(TOYBOX):
        pytest.skip("Toybox is not trained yet")
    folder = model_folder(TOYBOX)
    return Denoiser.load(folder, CPU, torch.float32), Denoiser.load(folder, CPU, torch.bfloat16)


def rms(values: torch.Tensor) -> float:
    return values.square().mean().sqrt().item()


def scene(denoiser: Denoiser) -> tuple[torch.Tensor, PromptEmbeds]:
    """Two pictures [2, 64, 64, 3]: a red ball and a blue one before gray."""
    axis = torch.linspace(-1, 1, 64)
    ball = (axis[:, None] ** 2 + axis[None, :] ** 2 < 0.4).float()[None, :, :, None]
    colors = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.2, 0.8]])[:, None, None, :]
    text = denoiser.embed(["a red mug, front view", "a blue mug, side view"])
    return ball * colors + (1 - ball) * 0.5, PromptEmbeds(text, denoiser.embed(["", ""]))


@pytest.mark.needs_weights
@needs_bfloat16
@pytest.mark.parametrize("timestep", [100, 500, 900])
def test_bfloat16_says_the_same(pair: tuple[Denoiser, Denoiser], timestep: int) -> None:
    exact, fast = pair
    images, prompt = scene(exact)
    torch.testing.assert_close(fast.embed(["a mug"]), exact.embed(["a mug"]), rtol=0, atol=0)  # the text encoder stays float32
    timesteps = torch.full((2,), timestep)
    noise = torch.randn(2, *exact.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = exact.encode(images)
        noisy = exact.add_noise(latents, noise, timesteps)
        wanted, found = (denoiser.predict_noise(noisy, timesteps, prompt.text) for denoiser in pair)
        assert rms(found - wanted) < 0.01 * rms(wanted)
        assert rms(fast.decode(latents) - exact.decode(latents)) < 0.5 / 255
        assert rms(fast.encode(images) - latents) < 0.01 * rms(latents)


@pytest.mark.needs_weights
@needs_bfloat16
def test_bfloat16_teaches_the_same(pair: tuple[Denoiser, Denoiser]) -> None:
    """The gradient of a step moves far less than another draw of the noise moves it."""
    images, prompt = scene(pair[0])
    timesteps = torch.tensor([400, 600])
    for guidance in (ImageTarget(), SDS()):
        grads = []
        for denoiser, seed in ((pair[0], 0), (pair[1], 0), (pair[0], 1)):
            rendered = images.clone().requires_grad_()
            guidance.loss(denoiser, rendered, prompt, timesteps, torch.Generator().manual_seed(seed)).loss.backward()
            assert rendered.grad is not None
            grads.append(rendered.grad)
        exact, fast, other_draw = grads
        assert rms(fast - exact) < 0.1 * rms(other_draw - exact)
