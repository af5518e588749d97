"""Training of Toybox's image-conditioned sibling: from one picture of a prop to what it looks like from elsewhere.

    python -m engine.toybox.zero123_training --data FOLDER --toybox engine/toybox/weights --out FOLDER --seconds 3600

It is laid out as Zero123 is (`engine.guidance.zero123`), so `--model FOLDER --image PICTURE` runs through the very code that
Zero123-XL runs through. It starts from Toybox's autoencoder, which stays, and U-Net, whose layers for words are taught pictures:
first the new image encoder alone learns to say of a picture and a move what the words for the wanted view would have said to the
U-Net (`align`), then all learn together. Two views of one shape in one dress make an example (`engine.toybox.pairs`): the first over
white and framed as a run frames it, the second as Toybox's own pictures are. v-prediction with min-SNR weights as in `unet_training`.

Shapes: B examples, C h w latents, D = TEXT_DIM.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
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

from engine.guidance.zero123 import N_MOVE
from engine.toybox.models import IMAGE_SIZE, LATENT_CHANNELS, TEXT_DIM
from engine.toybox.pairs import PairSource
from engine.toybox.unet_training import EMA_DECAY, Toybox, velocity_loss

# Examples without their picture, for classifier-free guidance.
NO_PICTURE_SHARE = 0.1
# Share of the time in which the image encoder learns alone. Its steps take a fifth of the others'.
ALIGN_SHARE = 0.1
ALIGN_BATCH = 48
ALIGN_LR = 1e-3
POOL_SIZE = 12_000
POOL_START = 1_000
FRESH_PER_STEP = 8


@dataclass(frozen=True)
class Examples:
    """B encoded examples: given [B, S, S, 3], moves [B, 4], and the latents [B, C, h, w] of the given and the wanted picture."""

    given: Tensor
    moves: Tensor
    given_latents: Tensor
    wanted_latents: Tensor

    def rows(self, index: Tensor) -> Examples:
        return Examples(*(value[index] for value in vars(self).values()))


class ExamplePool:
    """Encoded examples; a few fresh ones replace the oldest at every step, so encoding costs little."""

    def __init__(self, sibling: Sibling, source: PairSource) -> None:
        self._sibling, self._source = sibling, source
        self._chunks: list[Examples] = []

    def add(self, n: int) -> None:
        pairs = self._source.draw(n)
        self._chunks.append(Examples(pairs.given, pairs.moves, self._sibling.encode(pairs.given), self._sibling.encode(pairs.wanted)))
        del self._chunks[: -POOL_SIZE // FRESH_PER_STEP]

    def draw(self, n: int, generator: torch.Generator) -> Examples:
        chosen = torch.randint(len(self._chunks), (n,), generator=generator).tolist()
        rows = [self._chunks[i].rows(torch.randint(len(self._chunks[i].moves), (1,), generator=generator)) for i in chosen]
        return Examples(*(torch.cat(values) for values in zip(*(vars(row).values() for row in rows))))


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
        settings = {key: value for key, value in old.config.items() if not key.startswith("_")}
        unet: Any = UNet2DConditionModel(**{**settings, "in_channels": 2 * LATENT_CHANNELS})
        state = old.state_dict()
        state["conv_in.weight"] = torch.cat([state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])], dim=1)
        unet.load_state_dict(state)
        vae = AutoencoderKL.from_pretrained(str(folder / "vae"), torch_dtype=torch.float32)
        vae.eval().requires_grad_(False)
        scheduler = DDIMScheduler.from_pretrained(str(folder / "scheduler"))
        return Sibling(unet, vae, make_image_encoder(), torch.nn.Linear(TEXT_DIM + N_MOVE, TEXT_DIM), scheduler)

    @property
    def trained(self) -> dict[str, torch.nn.Parameter]:
        return {f"unet.{name}": p for name, p in self.unet.named_parameters()} | self.eyes

    @property
    def eyes(self) -> dict[str, torch.nn.Parameter]:
        """What turns a picture and a move into the token that the U-Net reads in place of words."""
        parts = {"image_encoder": self.image_encoder, "projection": self.projection}
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

    def tokens(self, given: Tensor, moves: Tensor) -> Tensor:
        """[B, 1, D] of pictures [B, S, S, 3] and moves [B, 4]."""
        embedding = self.image_encoder((given.permute(0, 3, 1, 2) - 0.5) / 0.5).image_embeds  # [B, D], see PIXELS
        tokens: Tensor = self.projection(torch.cat([embedding, moves], dim=-1))[:, None]
        return tokens

    def loss(self, examples: Examples, generator: torch.Generator) -> Tensor:
        """Min-SNR weighted loss of the velocity, a scalar."""
        n = len(examples.moves)
        shown = (torch.rand(n, generator=generator) >= NO_PICTURE_SHARE).float()
        tokens = self.tokens(examples.given, examples.moves) * shown[:, None, None]
        latents = examples.given_latents * shown[:, None, None, None]

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            velocity: Tensor = self.unet(torch.cat([noisy, latents], dim=1), timesteps, tokens).sample
            return velocity

        return velocity_loss(predict, examples.wanted_latents, self.scheduler.alphas_cumprod, generator)


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


def rates(seconds: float, lr: float) -> Iterator[float]:
    """Learning rates, one a step: a short warm-up and a cosine over `seconds` by the clock; at least one step."""
    began, step = time.monotonic(), 0
    while step == 0 or time.monotonic() - began < seconds:
        share = min(1.0, (time.monotonic() - began) / seconds)
        yield lr * min(1.0, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))
        step += 1


class Descent:
    """AdamW with clipped gradients, and a printed line every 25 steps."""

    def __init__(self, what: str, parameters: dict[str, torch.nn.Parameter]) -> None:
        self._what, self._parameters = what, list(parameters.values())
        self._optimizer = torch.optim.AdamW(self._parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self._began = time.monotonic()
        self.losses: list[float] = []

    def step(self, loss: Tensor, rate: float) -> None:
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self.losses.append(loss.item())
        if len(self.losses) % 25 == 1:
            recent = self.losses[-25:]
            line = {self._what: len(self.losses), "s": round(time.monotonic() - self._began), "loss": round(sum(recent) / len(recent), 4)}
            print(json.dumps(line), flush=True)


def align(sibling: Sibling, teacher: Toybox, source: PairSource, *, seconds: float) -> list[float]:
    """Teach the image encoder to say what words would: the U-Net's embedding of its token against that of Toybox's prompt.

    Returns the squared error of each step; one is that of saying the same of all pictures.
    """
    heard = sibling.unet.add_embedding.requires_grad_(False)
    descent = Descent("align", sibling.eyes)
    for rate in rates(seconds, ALIGN_LR):
        pairs = source.draw(ALIGN_BATCH)
        with torch.no_grad():
            wanted = heard(teacher.embed(pairs.worded))
        said = heard(sibling.tokens(pairs.given, pairs.moves))
        descent.step(F.mse_loss(said, wanted) / F.mse_loss(wanted, wanted.mean(dim=0).expand_as(wanted)), rate)
    heard.requires_grad_(True)
    return descent.losses


def train(data: Path, toybox: Path, out: Path, *, seconds: float, batch: int, lr: float, bf16: bool = False, seed: int = 0) -> list[float]:
    """Train for `seconds` by the clock and write the averaged weights to `out`. Returns the loss of each step of the second part."""
    sibling, source, generator = Sibling.from_toybox(toybox), PairSource(data, seed), torch.Generator().manual_seed(seed)
    align(sibling, Toybox.load(toybox), source, seconds=ALIGN_SHARE * seconds)
    sibling.unet.set_attn_processor(AttnProcessor())  # on a CPU its backward pass is the faster one, see unet_training
    sibling.unet.train()
    parameters = sibling.trained
    average = {name: p.detach().clone() for name, p in parameters.items()}
    pool = ExamplePool(sibling, source)
    for _ in range(POOL_START // FRESH_PER_STEP if seconds > 60 else 1):
        pool.add(FRESH_PER_STEP)
    descent = Descent("step", parameters)
    for rate in rates((1 - ALIGN_SHARE) * seconds, lr):
        pool.add(FRESH_PER_STEP)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = sibling.loss(pool.draw(batch, generator), generator)
        descent.step(loss, rate)
        decay = min(EMA_DECAY, len(descent.losses) / (len(descent.losses) + 9))
        torch._foreach_lerp_(list(average.values()), [p.data for p in parameters.values()], 1 - decay)
    for name, p in parameters.items():
        p.data.copy_(average[name])
    sibling.save(out)
    return descent.losses


def main() -> None:
    parser = argparse.ArgumentParser(description="Train Toybox's image-conditioned sibling.")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards, see engine.toybox.data")
    parser.add_argument("--toybox", type=Path, required=True, help="folder of Toybox's weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="length of the learning rate's cosine, by the clock")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--bf16", action="store_true", help="worth it on processors with AMX or AVX512-BF16 only")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.data, args.toybox, args.out, seconds=args.seconds, batch=args.batch, lr=args.lr, bf16=args.bf16)


if __name__ == "__main__":
    main()
