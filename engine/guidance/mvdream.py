"""MVDream (2308.16512): four views of one object, a quarter turn apart, denoised as one.

A folder is Stable Diffusion's layout with another U-Net (class MultiViewUNetModel), as published in ashawkey's conversion.
Its own code is not needed and never run.

Shapes: B views, a multiple of four; T tokens, D their dimension.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from engine.guidance.denoiser import Denoiser
from engine.guidance.loading import dtype_for, loading_errors, weights_of
from engine.guidance.mvdream_unet import CAMERA_NUMBERS, load_published, make_unet
from engine.guidance.packed_prompt import map_embeds
from engine.guidance.stable_diffusion import StableDiffusion, noise_and_clean
from engine.scene.cameras import Cameras
from engine.scene.view_prompts import PromptEmbeds

N_VIEWS = 4


class MVDream(StableDiffusion):
    """Embeddings have one token more than the text: its first sixteen numbers are the view's camera.

    So guidances may join and repeat rows, as long as the four views of an object stay together.
    """

    views_per_sample = N_VIEWS

    @staticmethod
    def load(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> MVDream:
        """Load from a folder; safetensors only, nothing outside it is read, no code in it is run.

        Raises: UserError, code "model", if a part is missing, damaged or of another size.
        """
        from diffusers import AutoencoderKL, DDIMScheduler
        from transformers import CLIPTextModel, CLIPTokenizer

        dtype = dtype_for(device, dtype)
        with loading_errors(root):
            unet = _load_unet(root / "unet", dtype)
            vae = AutoencoderKL.from_pretrained(root, subfolder="vae", **weights_of(root / "vae", dtype))
            tokenizer = CLIPTokenizer.from_pretrained(root, subfolder="tokenizer", local_files_only=True)
            scheduler = DDIMScheduler.from_pretrained(root, subfolder="scheduler", local_files_only=True)
        model = MVDream(unet, vae, None, tokenizer, scheduler, device=device, dtype=dtype)
        model.read_text_later(root, {"text_encoder": CLIPTextModel}, dtype)
        return model

    def use_control_net(self, folder: Path, scale: float = 1.0) -> None:
        Denoiser.use_control_net(self, folder, scale)  # its U-Net is another: refused

    def condition(self, prompt: PromptEmbeds, cameras: Cameras) -> PromptEmbeds:
        """Every embedding of the prompt with its view's camera as one more token."""
        token = F.pad(camera_numbers(cameras.to(self.device)), (0, prompt.text.shape[-1] - CAMERA_NUMBERS))  # [B, D]

        def with_camera(value: Tensor) -> Tensor:  # [B, ..., T, D]
            more = token.view(len(token), *[1] * (value.ndim - 2), -1).expand(*value.shape[:-2], 1, -1)
            return torch.cat([value, more], dim=-2)

        return map_embeds(prompt, with_camera)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Denoiser`. Raises ValueError unless rows come in fours."""
        if len(noisy_latents) % N_VIEWS:
            raise ValueError(f"MVDream takes views in fours, got {len(noisy_latents)}")
        raw = self._unet(
            noisy_latents.to(dtype=self._dtype),
            timesteps,
            encoder_hidden_states=embeds[:, :-1].to(dtype=self._dtype),
            class_labels=embeds[:, -1, :CAMERA_NUMBERS].to(dtype=self._dtype),
            return_dict=False,
        )[0].float()
        return noise_and_clean(raw, noisy_latents, self.alpha_bar(timesteps), self.prediction_type)


def camera_numbers(cameras: Cameras) -> Tensor:
    """[B, 16] float32: camera_to_world row by row, its position moved onto the unit sphere.

    The world is Blender's and azimuth 0 stands at -Y in MVDream's own code too. The matrices are those of the world, not
    relative to the first view: that is ImageDream's (2308.16512, section 3.1; the released `get_camera`).
    """
    matrices = cameras.camera_to_world.clone()
    matrices[:, :3, 3] = F.normalize(matrices[:, :3, 3], dim=-1)
    return matrices.flatten(1)


def _load_unet(folder: Path, dtype: torch.dtype) -> Any:
    found = sorted(folder.glob("*.safetensors"))
    files = [file for file in found if ".fp16." not in file.name] or found  # the same weights in two precisions: one is enough
    if not files:
        raise ValueError("its unet has no .safetensors file")
    published = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):  # weights come from the file; there is nothing to draw
        unet = make_unet(published, N_VIEWS)
    load_published(unet, {name: tensor.to(dtype) for file in files for name, tensor in load_file(str(file)).items()})
    return unet
