"""Shap-E (2305.02463): a rough shape from words, drawn by diffusion in the weights of a small implicit function.

Its parts are loaded one after the other, each by its class and freed before the next, so that never more than the prior (0.6 GB in
half precision) is held. The renderer's own marching cubes are not used: its table of cases is missing in the safetensors copy.

Shapes: N D the latent's tokens and their width, M positions, G points per grid axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.guidance.loading import dtype_for, loading_errors, weights_of  # isort: skip - before diffusers, see there

import torch
from diffusers import HeunDiscreteScheduler, PriorTransformer
from diffusers.pipelines.shap_e.renderer import ShapERenderer
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from engine.errors import UserError
from engine.guidance.helpers import renderer_folder

# OpenAI's own settings for text (their notebook, and diffusers' example).
N_STEPS, GUIDANCE_SCALE = 64, 15.0
# Positions that the implicit function is asked for at once.
CHUNK = 1 << 15
StepFn = Callable[[int, int], None]
"""Called with the denoising steps that are done and how many there are; may raise to end."""


def draw_latent(root: Path, prompt: str, *, seed: int, device: torch.device | str, n_steps: int = N_STEPS, report: StepFn) -> Tensor:
    """Latent [1, N, D] float32 of an object, as ShapEPipeline draws it from the same noise; all that drew it is freed again.

    Args:
        root: folder in diffusers' ShapE layout.
        seed: of the noise, drawn on the CPU so that every device draws the same.
    Raises: UserError, code "model".
    """
    dtype = dtype_for(device, None)
    with torch.no_grad(), loading_errors(root):
        text = _embed(root, prompt, device, dtype)  # [2, E]: nothing, and the prompt
        prior: Any = PriorTransformer.from_pretrained(root, subfolder="prior", **weights_of(root / "prior", dtype))
        prior = prior.to(device=device).eval().requires_grad_(False)
        scheduler = HeunDiscreteScheduler.from_pretrained(root, subfolder="scheduler", local_files_only=True)
    scheduler.set_timesteps(n_steps, device=device)
    n, width = int(prior.config.num_embeddings), int(prior.config.embedding_dim)
    noise = torch.randn(1, n * width, generator=torch.Generator().manual_seed(seed)).reshape(1, n, width)
    latent = noise.to(device=device) * scheduler.init_noise_sigma
    timesteps = scheduler.timesteps  # Heun looks twice at each level but the last
    with torch.no_grad():
        for i, timestep in enumerate(timesteps):
            report(i, len(timesteps))
            scaled = scheduler.scale_model_input(latent, timestep).to(dtype=dtype).expand(2, -1, -1)
            # Its output is the clean latent (or whatever the scheduler says) and a variance that is not asked for.
            found = prior(scaled, timestep=timestep, proj_embedding=text).predicted_image_embedding[..., :width].float()
            guided = found[:1] + GUIDANCE_SCALE * (found[1:] - found[:1])
            latent = scheduler.step(guided, timestep=timestep, sample=latent).prev_sample
    report(len(timesteps), len(timesteps))
    return latent.float()


def _embed(root: Path, prompt: str, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """[2, E]: zeros for the empty prompt, and CLIP's pooled text with a mean square of 1, as Shap-E was trained."""
    tokenizer = CLIPTokenizer.from_pretrained(root, subfolder="tokenizer", local_files_only=True)
    encoder: Any = CLIPTextModelWithProjection.from_pretrained(root, subfolder="text_encoder", **weights_of(root / "text_encoder", dtype))
    encoder = encoder.to(device=device).eval()
    n_tokens = int(tokenizer.model_max_length)
    tokens = tokenizer(prompt, truncation=True, max_length=n_tokens).input_ids
    padded = torch.tensor([tokens + [0] * (n_tokens - len(tokens))], device=device)  # filled up with 0, unlike other users of CLIP
    text = encoder(padded).text_embeds
    text = text / text.norm(dim=-1, keepdim=True) * math.sqrt(text.shape[-1])
    return torch.cat([torch.zeros_like(text), text])


class ImplicitShape:
    """The function that a latent stands for: positions in [-1, 1]^3 (Z up, front -Y, as ours) to signed distances and colors.

    In float32 also on a GPU: its frequencies go up to 2^14, which half precision cannot tell apart.

    Args:
        latent: [1, N, D] float32.
    Raises: UserError, code "model", if the folder has no whole renderer with safetensors.
    """

    def __init__(self, root: Path, latent: Tensor, device: torch.device | str) -> None:
        folder = renderer_folder(root)
        with loading_errors(root):
            renderer, loaded = ShapERenderer.from_pretrained(folder, output_loading_info=True, **weights_of(folder, torch.float32))
        lacking = [name for name in loaded["missing_keys"] if not name.startswith("mesh_decoder.")]
        if lacking:
            text = f"The renderer in {folder} lacks {len(lacking)} of its weights, the first of them {lacking[0]}."
            raise UserError(text, "Fetch the folder again.", "model")
        self._mlp: Any = renderer.mlp.to(device=device).eval().requires_grad_(False)
        self._device = device
        with torch.no_grad():
            drawn = renderer.params_proj.to(device=device)(latent.to(device=device))
            for name, parameter in self._mlp.named_parameters():
                if f"nerstf.{name}" in drawn:
                    parameter.copy_(drawn[f"nerstf.{name}"][0])

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distances [M] float32 in (-1, 1), positive inside, not in world units; colors [M, 3] in [0, 1], sRGB. On the CPU."""
        distances, colors = [], []
        with torch.no_grad():
            for part in positions.split(CHUNK):
                found = self._mlp(
                    position=part[None].to(device=self._device), direction=None, ts=None, nerf_level="fine", rendering_mode="stf"
                )
                distances.append(found.signed_distance[0, :, 0].float().cpu())
                colors.append(found.channels[0].float().cpu())
        return torch.cat(distances), torch.cat(colors)
