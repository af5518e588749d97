"""Training of Toybox's image-conditioned sibling: from one picture of a prop to what it looks like from elsewhere.

    python -m engine.toybox.zero123_training --data FOLDER --toybox engine/toybox/weights --out FOLDER --seconds 3600

It changes none of Toybox's weights: `engine.guidance.toybox_image` adds what is learnt here to Toybox's own U-Net when it is loaded.
That is low-rank changes of every layer, an input layer that sees the picture, norms and biases, and a small image encoder.
First the new image encoder alone learns to say of a picture and a move what the words for the wanted view would have said to the
U-Net (`align`), then all learn together. Two views of one shape in one dress make an example (`engine.toybox.pairs`): the first over
white and framed as a run frames it, the second as Toybox's own pictures are. v-prediction with min-SNR weights as in `unet_training`.

Shapes: B examples, C h w latents, D = TEXT_DIM.
"""

from __future__ import annotations

import argparse
import json
import math
import os
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
from torch import Tensor, nn
from torch.nn.utils import parametrize

from engine.guidance.families import DIFFUSERS_STEM
from engine.guidance.toybox_image import ENCODER_FILE, LOW_RANK, UNET_CLASS, UNET_FILE, image_encoder, pack, widened
from engine.guidance.zero123 import N_MOVE
from engine.toybox.models import IMAGE_SIZE, TEXT_DIM
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
SAVE_EVERY_S = 600.0
# Steps between two looks for shards that were written meanwhile.
REFRESH_EVERY = 100
# How far Toybox is followed at the beginning, down to nothing at the end. It was told the words and so knows what no picture at much noise
# can show; the student's gradients are then far less noisy. And how much the eyes are held to the words meanwhile.
TRUST, WORDS_WEIGHT = 0.9, 0.05
RANK = 9
# Learning rate of what is trained whole, against that of the low-rank changes: norms bear far less.
WHOLE_SHARE = 0.5
# CLIP's vision transformer at toy size, trained from nothing: it tells the thing and its colors, the latents the rest.
EYES = {
    "hidden_size": 128, "intermediate_size": 256, "projection_dim": TEXT_DIM, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": IMAGE_SIZE, "patch_size": 8,
}  # fmt: skip
PIXELS = {
    "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}, "size": {"shortest_edge": IMAGE_SIZE}, "resample": 3,
    "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "CLIPImageProcessor",
}  # fmt: skip


@dataclass(frozen=True)
class Examples:
    """B encoded examples: given [B, S, S, 3], moves [B, 4], what Toybox would be told of the wanted picture [B, tokens, D], and the
    latents [B, C, h, w] of the given and the wanted picture."""

    given: Tensor
    moves: Tensor
    words: Tensor
    given_latents: Tensor
    wanted_latents: Tensor

    def rows(self, index: Tensor) -> Examples:
        return Examples(*(value[index] for value in vars(self).values()))


class ExamplePool:
    """Encoded examples; a few fresh ones replace the oldest at every step, so encoding costs little."""

    def __init__(self, sibling: Sibling, source: PairSource, teacher: Toybox) -> None:
        self._sibling, self._source, self._teacher = sibling, source, teacher
        self._chunks: list[Examples] = []

    @torch.no_grad()
    def add(self, n: int) -> None:
        pairs = self._source.draw(n)
        words, encode = self._teacher.embed(pairs.worded), self._sibling.encode
        self._chunks.append(Examples(pairs.given, pairs.moves, words, encode(pairs.given), encode(pairs.wanted)))
        del self._chunks[: -POOL_SIZE // FRESH_PER_STEP]

    def draw(self, n: int, generator: torch.Generator) -> Examples:
        chosen = torch.randint(len(self._chunks), (n,), generator=generator).tolist()
        rows = [self._chunks[i].rows(torch.randint(len(self._chunks[i].moves), (1,), generator=generator)) for i in chosen]
        return Examples(*(torch.cat(values) for values in zip(*(vars(row).values() for row in rows))))


class LowRank(nn.Module):
    """A trained change of a frozen weight, W + up down, as a parametrization of its layer; at first nothing changes.

    Both are named as in a LoRA file: A [rank, ...] is drawn, B [n_out, rank] is zero.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, *weight.shape[1:], generator=generator) / weight[0].numel() ** 0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down.flatten(1)).view_as(weight)


@dataclass
class Sibling:
    """The parts of a Zero123. Their libraries ship no types a checker can use, hence Any."""

    unet: Any
    vae: Any
    image_encoder: Any
    projection: nn.Linear
    scheduler: Any
    low_rank: dict[str, LowRank]

    @staticmethod
    def from_toybox(folder: Path, rank: int = RANK, seed: int = 0) -> Sibling:
        """Fresh eyes on Toybox's U-Net: its input layer sees nothing of the picture yet."""
        unet = widened(UNet2DConditionModel.from_pretrained(str(folder / "unet"), torch_dtype=torch.float32))
        generator, low_rank = torch.Generator().manual_seed(seed), {}
        for name, layer in list(unet.named_modules()):
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and name != "conv_in":
                layer.weight.requires_grad_(False)
                low_rank[name] = LowRank(layer.weight, rank, generator)
        for name, change in low_rank.items():
            parametrize.register_parametrization(unet.get_submodule(name), "weight", change)
        vae = AutoencoderKL.from_pretrained(str(folder / "vae"), torch_dtype=torch.float32)
        vae.eval().requires_grad_(False)
        scheduler = DDIMScheduler.from_pretrained(str(folder / "scheduler"))
        return Sibling(unet, vae, image_encoder(EYES), nn.Linear(TEXT_DIM + N_MOVE, TEXT_DIM), scheduler, low_rank)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """By the name in the file: low-rank changes, input layer, norms and biases of the U-Net, and the eyes."""
        whole = {f"unet.{name}": p for name, p in self.unet.named_parameters() if p.requires_grad and "parametrizations" not in name}
        changes = {f"unet.{name}.lora_A.weight": change.down for name, change in self.low_rank.items()}
        changes |= {f"unet.{name}.lora_B.weight": change.up for name, change in self.low_rank.items()}
        return whole | changes | self.eyes

    @property
    def eyes(self) -> dict[str, nn.Parameter]:
        """What turns a picture and a move into the token that the U-Net reads in place of words."""
        parts = {"image_encoder": self.image_encoder, "projection": self.projection}
        return {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}

    def save(self, folder: Path, values: dict[str, Tensor]) -> None:
        """The folder that `engine.guidance.toybox_image` loads, with `values` for what is trained; each file whole or not at all."""
        settings = {
            "unet/config.json": {"_class_name": UNET_CLASS, "base": "toybox"},
            "image_encoder/config.json": {"model_type": "clip_vision_model", **EYES},
            "clip_camera_projection/config.json": {"embedding_dim": TEXT_DIM},
            "feature_extractor/preprocessor_config.json": PIXELS,
        }
        for name, body in settings.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        projection = {f"proj.{name}": value.half().contiguous() for name, value in _under("projection.", values).items()}
        files = {
            UNET_FILE: pack(_under("unet.", values)),
            ENCODER_FILE: pack(_under("image_encoder.", values)),
            f"clip_camera_projection/{DIFFUSERS_STEM}.safetensors": projection,
        }
        for name, tensors in files.items():
            partial = folder / (name + ".partial")
            save_file(tensors, str(partial), metadata={"format": "pt"})
            os.replace(partial, folder / name)

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

    def loss(self, examples: Examples, generator: torch.Generator, teacher: Toybox, trust: float) -> Tensor:
        """Min-SNR weighted loss of the velocity, a scalar; by `trust` it follows what Toybox says when it is told the words."""
        n = len(examples.moves)
        shown = (torch.rand(n, generator=generator) >= NO_PICTURE_SHARE).float()
        tokens = self.tokens(examples.given, examples.moves)
        untold = teacher.embed([[("", 1.0)]])
        words = torch.where(shown[:, None, None] > 0, examples.words, untold)
        latents = examples.given_latents * shown[:, None, None, None]

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            velocity: Tensor = self.unet(torch.cat([noisy, latents], dim=1), timesteps, tokens * shown[:, None, None]).sample
            return velocity

        def lesson(noisy: Tensor, timesteps: Tensor) -> Tensor:
            velocity: Tensor = teacher.unet(noisy, timesteps, words).sample
            return velocity

        loss = velocity_loss(predict, examples.wanted_latents, self.scheduler.alphas_cumprod, generator, lesson, trust)
        return loss + trust * WORDS_WEIGHT * misheard(tokens, examples.words, teacher)


def _under(prefix: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.detach() for name, value in values.items() if name.startswith(prefix)}


def rates(seconds: float, lr: float) -> Iterator[float]:
    """Learning rates, one a step: a short warm-up and a cosine over `seconds` by the clock; at least one step."""
    began, step = time.monotonic(), 0
    while step == 0 or time.monotonic() - began < seconds:
        share = min(1.0, (time.monotonic() - began) / seconds)
        yield lr * min(1.0, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))
        step += 1


def misheard(tokens: Tensor, words: Tensor, teacher: Toybox) -> Tensor:
    """How far Toybox's U-Net hears something else in tokens [B, 1, D] than in words [B, tokens, D]; 1: the same of all pictures."""
    heard = teacher.unet.add_embedding
    with torch.no_grad():
        wanted = heard(words)
    return F.mse_loss(heard(tokens), wanted) / F.mse_loss(wanted, wanted.mean(dim=0).expand_as(wanted)).clamp_min(1e-6)


class Descent:
    """AdamW with clipped gradients, and a printed line every 25 steps. What is not low-rank learns at `whole_share` of the rate."""

    def __init__(self, what: str, parameters: dict[str, nn.Parameter], whole_share: float = 1.0) -> None:
        self._what, self._parameters = what, list(parameters.values())
        low_rank = [p for name, p in parameters.items() if LOW_RANK in name]
        whole = [p for name, p in parameters.items() if LOW_RANK not in name]
        groups = [{"params": low_rank, "share": 1.0}, {"params": whole, "share": whole_share}]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self._began = time.monotonic()
        self.losses: list[float] = []

    def step(self, loss: Tensor, rate: float) -> None:
        """One step down `loss` at the learning rate `rate`."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
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
    descent = Descent("align", sibling.eyes)
    for rate in rates(seconds, ALIGN_LR):
        pairs = source.draw(ALIGN_BATCH)
        with torch.no_grad():
            words = teacher.embed(pairs.worded)
        descent.step(misheard(sibling.tokens(pairs.given, pairs.moves), words, teacher), rate)
    return descent.losses


def train(data: Path, toybox: Path, out: Path, *, seconds: float, batch: int, lr: float, bf16: bool = False, seed: int = 0) -> list[float]:
    """Train for `seconds` by the clock and write the averaged weights to `out`. Returns the loss of each step of the second part."""
    sibling, source, teacher = Sibling.from_toybox(toybox, seed=seed), PairSource(data, seed), Toybox.load(toybox)
    align(sibling, teacher, source, seconds=ALIGN_SHARE * seconds)
    return learn(sibling, teacher, source, out, seconds=(1 - ALIGN_SHARE) * seconds, batch=batch, lr=lr, bf16=bf16, seed=seed)


def learn(
    sibling: Sibling,
    teacher: Toybox,
    source: PairSource,
    out: Path,
    *,
    seconds: float,
    batch: int,
    lr: float,
    bf16: bool,
    seed: int,
) -> list[float]:
    """Teach all of it; the averaged weights are written to `out` at the end, and now and then before. Returns the loss of each step."""
    generator = torch.Generator().manual_seed(seed)
    for unet in (sibling.unet, teacher.unet):
        unet.set_attn_processor(AttnProcessor())  # on a CPU its backward pass is the faster one, see unet_training
    sibling.unet.train()
    sibling.image_encoder.train()
    parameters = sibling.trained
    average = {name: p.detach().clone() for name, p in parameters.items()}
    pool = ExamplePool(sibling, source, teacher)
    for _ in range(POOL_START // FRESH_PER_STEP if seconds > 60 else 1):
        pool.add(FRESH_PER_STEP)
    descent = Descent("step", parameters, WHOLE_SHARE)
    began = saved = time.monotonic()
    for rate in rates(seconds, lr):
        if len(descent.losses) % REFRESH_EVERY == 0:
            source.refresh()
        pool.add(FRESH_PER_STEP)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = sibling.loss(pool.draw(batch, generator), generator, teacher, TRUST * (1 - (time.monotonic() - began) / seconds))
        descent.step(loss, rate)
        decay = min(EMA_DECAY, len(descent.losses) / (len(descent.losses) + 9))
        torch._foreach_lerp_(list(average.values()), [p.data for p in parameters.values()], 1 - decay)
        if time.monotonic() - saved > SAVE_EVERY_S:
            sibling.save(out, average)
            began = saved = time.monotonic()
    sibling.save(out, average)
    return descent.losses


def main() -> None:
    parser = argparse.ArgumentParser(description="Train Toybox's image-conditioned sibling.")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards, see engine.toybox.data")
    parser.add_argument("--toybox", type=Path, required=True, help="folder of Toybox's weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="length of the learning rate's cosine, by the clock")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--bf16", action="store_true", help="worth it on processors with AMX or AVX512-BF16 only")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.data, args.toybox, args.out, seconds=args.seconds, batch=args.batch, lr=args.lr, bf16=args.bf16)


if __name__ == "__main__":
    main()
