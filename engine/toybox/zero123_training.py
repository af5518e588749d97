"""Training of Toybox's image-conditioned sibling: from one picture of a prop to what it looks like from elsewhere.

    python -m engine.toybox.zero123_training --data FOLDER --toybox engine/toybox/weights --out FOLDER --seconds 3600

It is laid out as Zero123 is (`engine.guidance.zero123`), so `--model FOLDER --image PICTURE` runs through the very code that
Zero123-XL runs through. It starts from Toybox's autoencoder, which stays, and U-Net, whose layers for words are taught pictures.
Two views of one shape in one dress make an example: the first over white and framed as a run frames it, the second as Toybox's
own pictures are. v-prediction with min-SNR weights as in `unet_training`.

No weights of it ship yet: the script is tested, but it was never trained for more than some steps, too few to see the loss fall.

Shapes: B examples, C h w latents, D = TEXT_DIM.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from engine.guidance.zero123 import N_MOVE, camera_moves
from engine.scene.cameras import Cameras, orbit_cameras
from engine.scene.reference_view import FRAME
from engine.toybox.appearance import Looks, draw_background, draw_light, paint
from engine.toybox.data import FOV_Y_DEG, VIEWS_PER_SHAPE, load_shard, shard_paths, unpack
from engine.toybox.models import IMAGE_SIZE, LATENT_CHANNELS, TEXT_DIM
from engine.toybox.prompts import draw_subject
from engine.toybox.props import KINDS
from engine.toybox.unet_training import EMA_DECAY, velocity_loss

# Examples without their picture, for classifier-free guidance.
NO_PICTURE_SHARE = 0.1
# Lit, unlit and clay, as Toybox's own pictures; the picture that is given is never clay.
SHADING_SHARE = (0.5, 0.4, 0.1)
WHITE = 1.0


@dataclass(frozen=True)
class Pairs:
    """B examples: given [B, S, S, 3] over white, wanted [B, S, S, 3], and moves [B, 4] from the first camera to the second."""

    given: Tensor
    wanted: Tensor
    moves: Tensor


class PairSource:
    """Draws examples from the shards of `engine.toybox.data` in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        self.shards = [load_shard(path) for path in shard_paths(folder)]
        if not self.shards:
            raise FileNotFoundError(f"no shards in {folder}; write some with python -m engine.toybox.data --out {folder}")
        self._kinds = list(KINDS.values())

    def draw(self, n: int) -> Pairs:
        first, second, kinds = self._rows(n)
        subjects = [draw_subject(self._kinds[k], self.rng) for k in kinds]
        nothing = (float("nan"),) * 3
        tint = torch.tensor([subject.tint or nothing for subject in subjects])
        pattern = torch.tensor([subject.pattern_index for subject in subjects])
        shares = torch.tensor(SHADING_SHARE)
        wanted_shading = torch.multinomial(shares, n, replacement=True, generator=self.generator)
        given_shading = torch.multinomial(shares[:2], n, replacement=True, generator=self.generator)
        cameras, wanted = self._paint(second, tint, pattern, wanted_shading, draw_background(n, self.generator))
        given_cameras, given = self._paint(first, tint, pattern, given_shading, torch.full((n, 2, 3), WHITE))
        given, given_cameras = framed(given, unpack(first["buffers"])["opacity"], given_cameras)
        moves = camera_moves(cameras, given_cameras, is_stable=False)  # [B, B, 4]
        return Pairs(given, wanted, moves.diagonal(dim1=0, dim2=1).T)

    def _rows(self, n: int) -> tuple[dict[str, Tensor], dict[str, Tensor], list[int]]:
        """Two different views each of n shapes, and their kinds. The views of a shape lie side by side in a shard."""
        firsts, seconds, kinds = [], [], []
        for _ in range(n):
            shard = self.rng.choice(self.shards)
            shape = self.rng.randrange(len(shard["kinds"]) // VIEWS_PER_SHAPE)
            one, other = self.rng.sample(range(shape * VIEWS_PER_SHAPE, (shape + 1) * VIEWS_PER_SHAPE), 2)
            firsts.append((shard, one))
            seconds.append((shard, other))
            kinds.append(int(shard["kinds"][one]))
        return _stacked(firsts), _stacked(seconds), kinds

    def _paint(self, rows: dict[str, Tensor], tint: Tensor, pattern: Tensor, shading: Tensor, background: Tensor) -> tuple[Cameras, Tensor]:
        azimuth, elevation, radius = rows["cameras"].unbind(-1)
        cameras = orbit_cameras(azimuth, elevation, radius, torch.full_like(radius, FOV_Y_DEG))
        light, ambient = draw_light(F.normalize(cameras.positions, dim=-1), self.generator)
        return cameras, paint(unpack(rows["buffers"]), Looks(tint, pattern, shading, light, ambient, background))


def _stacked(rows: list[tuple[dict[str, Tensor], int]]) -> dict[str, Tensor]:
    return {name: torch.stack([shard[name][row] for shard, row in rows]) for name in ("buffers", "cameras")}


def framed(images: Tensor, opacity: Tensor, cameras: Cameras) -> tuple[Tensor, Cameras]:
    """The pictures [B, S, S, 3] over white in the frame of `engine.scene.reference_view`, and cameras that see as much as it.

    As a run does, the frame's middle is taken for the middle of the world.
    """
    size = images.shape[1]
    place = (torch.arange(size, device=images.device) + 0.5) / size * 2 - 1  # pixel middles in -1..1
    boxes = []
    for mask in opacity >= 0.5:
        rows, columns = mask.nonzero(as_tuple=True)
        y, x = place[rows], place[columns]
        middle_x, middle_y = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
        half = FRAME * (torch.hypot(x - middle_x, y - middle_y).max() + 1 / size)
        boxes.append(torch.stack([half, middle_x, middle_y]))
    half, middle_x, middle_y = torch.stack(boxes).unbind(-1)
    zero = torch.zeros_like(half)
    transform = torch.stack([torch.stack([half, zero, middle_x], -1), torch.stack([zero, half, middle_y], -1)], 1)  # [B, 2, 3]
    grid = F.affine_grid(transform, [len(images), 3, size, size], align_corners=False)
    darkness = F.grid_sample(WHITE - images.permute(0, 3, 1, 2), grid, align_corners=False)  # outside: 0, which is white
    return (WHITE - darkness).permute(0, 2, 3, 1).clamp(0, 1), Cameras(cameras.camera_to_world, cameras.window * half[:, None])


@dataclass
class Sibling:
    """The parts of a Zero123 folder. Their libraries ship no types a checker can use, hence Any."""

    unet: Any
    vae: Any
    image_encoder: Any
    projection: torch.nn.Linear
    scheduler: Any

    @staticmethod
    def from_toybox(folder: Path) -> Sibling:
        """Fresh eyes on Toybox's U-Net: its input layer sees nothing of the picture yet."""
        old: Any = UNet2DConditionModel.from_pretrained(str(folder / "unet"), torch_dtype=torch.float32)
        settings = {key: value for key, value in old.config.items() if not key.startswith(("_", "addition_"))}
        unet: Any = UNet2DConditionModel(**{**settings, "in_channels": 2 * LATENT_CHANNELS})
        state = {name: value for name, value in old.state_dict().items() if not name.startswith("add_embedding.")}
        state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])], dim=1)
        unet.load_state_dict(state)
        vae = AutoencoderKL.from_pretrained(str(folder / "vae"), torch_dtype=torch.float32)
        scheduler = DDIMScheduler.from_pretrained(str(folder / "scheduler"))
        return Sibling(unet, vae, make_image_encoder(), torch.nn.Linear(TEXT_DIM + N_MOVE, TEXT_DIM), scheduler)

    @property
    def trained(self) -> dict[str, torch.nn.Parameter]:
        parts = {"unet": self.unet, "image_encoder": self.image_encoder, "projection": self.projection}
        return {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}

    def save(self, folder: Path) -> None:
        """A folder that `engine.guidance.zero123.Zero123` loads, in half precision."""
        for name in ("unet", "vae", "image_encoder"):
            part, file = getattr(self, name), "model.safetensors" if name == "image_encoder" else "diffusion_pytorch_model.safetensors"
            (part.config.save_pretrained if name == "image_encoder" else part.save_config)(str(folder / name))
            state = {key: value.detach().half().contiguous() for key, value in part.state_dict().items() if value.is_floating_point()}
            save_file(state, str(folder / name / file), metadata={"format": "pt"})
        self.scheduler.save_pretrained(str(folder / "scheduler"))
        for name, body in (("clip_camera_projection", {"embedding_dim": TEXT_DIM}), ("feature_extractor", PIXELS)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            file = "config.json" if name == "clip_camera_projection" else "preprocessor_config.json"
            (folder / name / file).write_text(json.dumps(body, indent=1), encoding="utf-8")
        layer = {f"proj.{key}": value.detach().half().contiguous() for key, value in self.projection.state_dict().items()}
        save_file(layer, str(folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents [B, C, h, w] of images [B, S, S, 3] in [0, 1]; the autoencoder's factor is 1."""
        latents: Tensor = self.vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
        return latents

    def loss(self, pairs: Pairs, generator: torch.Generator) -> Tensor:
        """Min-SNR weighted loss of the velocity, a scalar."""
        n = len(pairs.moves)
        embedding = self.image_encoder((pairs.given.permute(0, 3, 1, 2) - 0.5) / 0.5).image_embeds  # [B, D], see PIXELS
        tokens = self.projection(torch.cat([embedding, pairs.moves], dim=-1))[:, None]  # [B, 1, D]
        shown = (torch.rand(n, generator=generator) >= NO_PICTURE_SHARE).float()
        tokens, latents = tokens * shown[:, None, None], self.encode(pairs.given) * shown[:, None, None, None]

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            velocity: Tensor = self.unet(torch.cat([noisy, latents], dim=1), timesteps, tokens).sample
            return velocity

        return velocity_loss(predict, self.encode(pairs.wanted), self.scheduler.alphas_cumprod, generator)


def make_image_encoder() -> Any:
    """CLIP's vision transformer at toy size, trained from nothing: it tells the thing and its colours, the latents the rest."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=TEXT_DIM,
            intermediate_size=2 * TEXT_DIM,
            projection_dim=TEXT_DIM,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=IMAGE_SIZE,
            patch_size=8,
        )
    )


PIXELS = {
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}, "size": {"shortest_edge": IMAGE_SIZE}, "resample": 3,
    "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "CLIPImageProcessor",
}  # fmt: skip


def train(data: Path, toybox: Path, out: Path, *, seconds: float, batch: int, lr: float, seed: int = 0) -> list[float]:
    """Train for `seconds` by the clock and write the averaged weights to `out`. Returns the loss of each step."""
    sibling = Sibling.from_toybox(toybox)
    sibling.vae.eval().requires_grad_(False)
    sibling.unet.set_attn_processor(AttnProcessor())  # on a CPU its backward pass is the faster one, see unet_training
    sibling.unet.train()
    parameters = sibling.trained
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    source, generator = PairSource(data, seed), torch.Generator().manual_seed(seed)
    losses: list[float] = []
    began = time.monotonic()
    while not losses or time.monotonic() - began < seconds:
        share = min(1.0, (time.monotonic() - began) / seconds)
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (len(losses) + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))
        loss = sibling.loss(source.draw(batch), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        losses.append(loss.item())
        decay = min(EMA_DECAY, len(losses) / (len(losses) + 9))
        torch._foreach_lerp_(list(average.values()), [p.data for p in parameters.values()], 1 - decay)
        if len(losses) % 25 == 1:
            recent = sum(losses[-25:]) / len(losses[-25:])
            print(json.dumps({"step": len(losses), "s": round(time.monotonic() - began), "loss": round(recent, 4)}), flush=True)
    for name, p in parameters.items():
        p.data.copy_(average[name])
    sibling.save(out)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description="Train Toybox's image-conditioned sibling.")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards, see engine.toybox.data")
    parser.add_argument("--toybox", type=Path, required=True, help="folder of Toybox's weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="length of the learning rate's cosine, by the clock")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.data, args.toybox, args.out, seconds=args.seconds, batch=args.batch, lr=args.lr)


if __name__ == "__main__":
    main()
