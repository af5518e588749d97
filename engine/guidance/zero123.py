"""Zero123, Zero123-XL and Stable Zero123 in diffusers' layout: Stable Diffusion whose prompt is a picture and a camera's move.

The U-Net sees the picture twice: its latents as four more input channels, and its CLIP embedding, projected together with
the move from the picture's camera to the wanted one, in place of the text's. Zero-1-to-3 (2303.11328), section 3.2.

A folder holds unet, vae, scheduler, image_encoder, feature_extractor and clip_camera_projection, as ashawkey's and bennyguo's
conversions do. kxhit's has the last one under the name cc_projection; renamed, it loads too.

Shapes: B views, R pictures, D dimension of the embedding, C h w latents.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from engine.guidance.clip_pixels import ClipPixels
from engine.guidance.denoiser import Denoiser
from engine.guidance.loading import dtype_for, loading_errors, weights_of
from engine.guidance.packed_prompt import map_embeds
from engine.guidance.picture_views import PictureViews, half_heights, relative_angles_deg, shares
from engine.guidance.stable_diffusion import StableDiffusion, noise_and_clean
from engine.scene.cameras import Cameras
from engine.scene.view_prompts import PromptEmbeds

# The move from one camera to another, see `camera_moves`.
N_MOVE = 4
STABLE = re.compile(r"stable[-_ ]?zero-?123", re.IGNORECASE)
# What the models were trained on: objects in a unit cube, through a lens of 35 mm before a sensor of 32 mm (its renderer's settings).
MODEL_FOV_DEG = 49.1
MODEL_HALF_SIZE = 0.5
# Ours: the object's nominal half size in the world, see CameraConfig.
WORLD_HALF_SIZE = 0.9


class Zero123(StableDiffusion):
    """A denoiser that knows what the object looks like from somewhere, once `look_at` has told it.

    Embeddings are packed: a row holds each picture's share, projected embedding and latents one after the other, padded to
    whole tokens of D. A row of zeros is the model's unconditional input. So any guidance can join and repeat rows.
    """

    def __init__(
        self,
        unet: Any,
        vae: Any,
        image_encoder: Any,
        projection: torch.nn.Linear,
        scheduler: Any,
        pixels: ClipPixels,
        *,
        is_stable: bool,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(unet, vae, image_encoder, None, scheduler, device=device, dtype=dtype)
        self._projection = projection.to(device=device, dtype=torch.float32).requires_grad_(False)
        self._pixels = pixels
        self._is_stable = is_stable
        self._views: PictureViews | None = None
        self._clip_embeds = self._image_latents = torch.zeros(0)

    @staticmethod
    def load(root: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Zero123:
        """Load from a folder; safetensors only, nothing outside it is read.

        Stable Zero123 takes the picture's own height instead of a change of distance. Nothing inside a folder says which
        one it is, so one that has "stable-zero123" in its path is taken for that.

        Raises: UserError, code "model", if a part is missing, damaged or of another size.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPVisionModelWithProjection

        dtype = dtype_for(device, dtype)
        with loading_errors(root):
            unet = UNet2DConditionModel.from_pretrained(root, subfolder="unet", **weights_of(root / "unet", dtype))
            vae = AutoencoderKL.from_pretrained(root, subfolder="vae", **weights_of(root / "vae", dtype))
            encoder: Any = CLIPVisionModelWithProjection
            image_encoder = encoder.from_pretrained(root, subfolder="image_encoder", **weights_of(root / "image_encoder", dtype))
            scheduler = DDIMScheduler.from_pretrained(root, subfolder="scheduler", local_files_only=True)
            projection = load_projection(root / "clip_camera_projection")
            pixels = ClipPixels.load(root / "feature_extractor" / "preprocessor_config.json")
        is_stable = STABLE.search(str(root.resolve())) is not None
        return Zero123(unet, vae, image_encoder, projection, scheduler, pixels, is_stable=is_stable, device=device, dtype=dtype)

    def embed(self, prompts: list[str]) -> Tensor:
        """Words mean nothing to it: zeros [P, 1, D], which `condition` replaces."""
        return torch.zeros(len(prompts), 1, self._dim, device=self.device)

    @property
    def _dim(self) -> int:
        return self._projection.out_features

    @torch.no_grad()
    def look_at(self, views: PictureViews) -> None:
        """Encode the pictures that all later views are made from. Not available after `drop_text_encoder`, which drops CLIP."""
        if self._text_encoder is None:
            raise ValueError("the image encoder was dropped; look at all pictures before drop_text_encoder()")
        views = views.to(self.device)
        self.check_images(views.pictures)
        pixels = self._pixels(views.pictures).to(dtype=self._dtype)
        self._clip_embeds = self._text_encoder(pixels).image_embeds.float()  # [R, D]
        # Without the scaling factor: the models were trained that way.
        self._image_latents = self.encode(views.pictures) / self._scaling_factor  # [R, C, h, w]
        self._views = views

    def use_control_net(self, folder: Path, scale: float = 1.0) -> None:
        Denoiser.use_control_net(self, folder, scale)  # its U-Net is another: refused

    def condition(self, prompt: PromptEmbeds, cameras: Cameras) -> PromptEmbeds:
        """What each of B cameras shall see: packed rows for `text`, rows of zeros for whatever else the prompt holds."""
        if self._views is None:
            raise ValueError("look_at() must be called before condition()")
        rows = self._packed(cameras.to(self.device), self._views)  # [B, T, D]
        return map_embeds(prompt, lambda value: rows.new_zeros(*value.shape[:-2], *rows.shape[-2:]), text=rows)

    def _packed(self, cameras: Cameras, views: PictureViews) -> Tensor:
        n, n_views = len(cameras), len(views.cameras)
        moves = camera_moves(cameras, views.cameras, is_stable=self._is_stable)  # [B, R, 4]
        joined = torch.cat([self._clip_embeds.expand(n, -1, -1), moves], dim=-1)
        tokens = self._projection(joined)  # [B, R, D]
        latents = self._image_latents.flatten(1).expand(n, n_views, -1)
        flat = torch.cat([shares(cameras, views)[..., None], tokens, latents], dim=-1).flatten(1)  # [B, R (1 + D + C h w)]
        return F.pad(flat, (0, -flat.shape[1] % self._dim)).view(n, -1, self._dim)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Denoiser`. Each picture's own answer, averaged by share; the U-Net runs only where a picture has one."""
        n = len(noisy_latents)
        per_view = 1 + self._dim + math.prod(self.latent_shape)
        flat = embeds.flatten(1)
        rows = flat[:, : flat.shape[1] // per_view * per_view].view(n, -1, per_view)  # [B, R, ...]
        share = rows[..., 0]
        nowhere = share.sum(dim=1) == 0  # unconditional: once, not once for each picture
        share = torch.cat([torch.where(nowhere, 1.0, share[:, 0])[:, None], share[:, 1:]], dim=1)
        row, view = share.nonzero(as_tuple=True)
        tokens = rows[row, view, 1 : 1 + self._dim][:, None]  # [K, 1, D]
        latents = rows[row, view, 1 + self._dim :].view(-1, *self.latent_shape)
        inputs = torch.cat([noisy_latents[row], latents], dim=1).to(dtype=self._dtype)
        answers = self._unet(inputs, timesteps[row], encoder_hidden_states=tokens.to(dtype=self._dtype), return_dict=False)[0].float()
        raw = torch.zeros_like(noisy_latents).index_add_(0, row, share[row, view].view(-1, 1, 1, 1) * answers)
        return noise_and_clean(raw, noisy_latents, self.alpha_bar(timesteps), self.prediction_type)


def camera_moves(cameras: Cameras, others: Cameras, *, is_stable: bool) -> Tensor:
    """[B, R, 4]: from each of R pictures' cameras to each of B others, as the models read it.

    Change of polar angle from above (so minus that of elevation) in radians, sine and cosine of the change of azimuth, and
    change of distance in the models' own units; Stable Zero123 has the picture's own polar angle there instead.
    Our azimuth turns as theirs does, counter-clockwise seen from above. Distances differ in lens and in the object's size, so
    what counts is how large the object is seen: the distance at which the models' lens would show it as large.
    Source: the published training code's `get_T`; threestudio's stable-zero123 guidance for the last.
    """
    azimuth, elevation = (torch.deg2rad(angle) for angle in relative_angles_deg(cameras, others))
    if is_stable:
        x, y, z = others.positions.unbind(-1)
        last = (math.pi / 2 - torch.atan2(z, torch.hypot(x, y))).expand_as(azimuth)
    else:
        to_distance = MODEL_HALF_SIZE / WORLD_HALF_SIZE / math.tan(math.radians(MODEL_FOV_DEG) / 2)
        last = to_distance * (half_heights(cameras)[:, None] - half_heights(others))
    return torch.stack([-elevation, azimuth.sin(), azimuth.cos(), last], dim=-1)


def load_projection(folder: Path) -> torch.nn.Linear:
    """The layer from (embedding, move) to embedding. Raises ValueError if it is not there in safetensors, or fits nothing."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder.name} has no .safetensors file")
    tensors = load_file(str(files[0]))
    if len(tensors) != 2:
        raise ValueError(f"{folder.name} is not one layer")
    weight, bias = (next((value for name, value in tensors.items() if name.endswith(kind)), torch.zeros(0)) for kind in ("weight", "bias"))
    if weight.ndim != 2 or weight.shape[1] != weight.shape[0] + N_MOVE or bias.shape != weight.shape[:1]:
        raise ValueError(f"the weights of {folder.name} have the shape {list(weight.shape)}, not [D, D + {N_MOVE}]")
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return layer
