"""Step 2 of training Toybox: text encoder and U-Net together, on latents of freshly dressed pictures.

v-prediction (2202.00512) with min-SNR weights (2303.09556, gamma 5). The text embedding of a picture is the blend of its
view prompts' embeddings by `view_weights`, exactly as `engine.scene.view_prompts` blends them in a run.

Shapes: B pictures, C h w latents, P different prompts of a batch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from engine.guidance.ddim import sample
from engine.guidance.stable_diffusion import StableDiffusion
from engine.scene.view_prompts import PromptEmbeds
from engine.toybox.models import BOS, EOS, make_scheduler, make_text_encoder, make_tokenizer, make_unet
from engine.toybox.pictures import Pictures, Worded
from engine.toybox.prompts import draw_subject, full_prompt, vocabulary
from engine.toybox.props import KINDS
from engine.toybox.sheets import save_sheet

MIN_SNR_GAMMA = 5.0
# Where noise hides the picture, min-SNR weights vanish; but there the prompt alone decides, and that is what must be taught first.
MIN_WEIGHT = 0.35
POOL_SIZE = 24_000
POOL_START = 2_000
FRESH_PER_STEP = 8
EMA_DECAY = 0.999


@dataclass
class Toybox:
    """The five parts of the model, as Stable Diffusion has them.

    Their libraries ship no types a checker can use, hence Any: CLIPTextModel, UNet2DConditionModel, AutoencoderKL, DDIMScheduler.
    """

    tokenizer: CLIPTokenizer
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler: Any

    @staticmethod
    def new(vae_folder: Path, folder: Path) -> Toybox:
        rng = random.Random(0)
        corpus = [draw_subject(kind, rng).prompt for kind in KINDS.values() for _ in range(300)]
        views = ("front", "left side", "right side", "side", "back", "overhead", "bottom")
        corpus += [full_prompt("", words, view) for words in ("unlit", "clay") for view in views] * 200
        tokenizer = make_tokenizer(corpus, folder / "tokenizer")
        ids = tokenizer.get_vocab()
        text_encoder = make_text_encoder(len(ids), ids[BOS], ids[EOS])
        return Toybox(tokenizer, text_encoder, make_unet(), AutoencoderKL.from_pretrained(str(vae_folder)), make_scheduler())

    @staticmethod
    def load(folder: Path) -> Toybox:
        return Toybox(
            CLIPTokenizer.from_pretrained(str(folder / "tokenizer")),
            CLIPTextModel.from_pretrained(str(folder / "text_encoder"), dtype=torch.float32),
            UNet2DConditionModel.from_pretrained(str(folder / "unet"), torch_dtype=torch.float32),
            AutoencoderKL.from_pretrained(str(folder / "vae"), torch_dtype=torch.float32),
            DDIMScheduler.from_pretrained(str(folder / "scheduler")),
        )

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write the diffusers folder; `model_index.json` makes StableDiffusionPipeline accept it. Parts keep their dtype in memory."""
        for name in ("text_encoder", "unet", "vae"):
            part = getattr(self, name)
            state = {
                key: value.to(device="cpu", dtype=dtype).contiguous()
                for key, value in part.state_dict().items()
                if value.is_floating_point()
            }
            part.save_config(str(folder / name)) if name != "text_encoder" else part.config.save_pretrained(str(folder / name))
            file = "model.safetensors" if name == "text_encoder" else "diffusion_pytorch_model.safetensors"
            partial = folder / name / (file + ".partial")
            save_file(state, str(partial), metadata={"format": "pt"})
            os.replace(partial, folder / name / file)
        self.tokenizer.save_pretrained(str(folder / "tokenizer"))
        self.scheduler.save_pretrained(str(folder / "scheduler"))
        index = {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "safety_checker": [None, None],
            "requires_safety_checker": False,
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
        (folder / "vocabulary.json").write_text(json.dumps(vocabulary(KINDS), indent=1), encoding="utf-8")

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def embed(self, worded: list[Worded]) -> Tensor:
        """Blended embeddings [B, tokens, dim] of B pictures."""
        prompts = sorted({prompt for words in worded for prompt, _ in words})
        ids = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length, return_tensors="pt"
        )
        hidden = self.text_encoder(ids.input_ids.to(device=self.device)).last_hidden_state  # [P, tokens, dim]
        column = {prompt: i for i, prompt in enumerate(prompts)}
        blend = torch.zeros(len(worded), len(prompts))
        for row, words in enumerate(worded):
            for prompt, weight in words:
                blend[row, column[prompt]] += weight
        return torch.einsum("bp,ptd->btd", blend.to(device=self.device), hidden.float())

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents, on the CPU, of images [B, H, W, 3] in [0, 1]."""
        pixels = (images.to(device=self.device).permute(0, 3, 1, 2) * 2 - 1).contiguous(memory_format=torch.channels_last)
        return (self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor).cpu()


class LatentPool:
    """Encoded pictures with their words; a few fresh ones replace the oldest at every step, so encoding costs little."""

    def __init__(self, toybox: Toybox, pictures: Pictures) -> None:
        self.toybox, self.pictures = toybox, pictures
        self.latents: list[Tensor] = []
        self.worded: list[Worded] = []
        self._next = 0

    def add(self, n: int) -> None:
        batch = self.pictures.draw(n)
        for latents, words in zip(self.toybox.encode(batch.images), batch.worded):
            if len(self.latents) < POOL_SIZE:
                self.latents.append(latents)
                self.worded.append(words)
            else:
                self.latents[self._next], self.worded[self._next] = latents, words
                self._next = (self._next + 1) % POOL_SIZE

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, list[Worded]]:
        rows = torch.randint(len(self.latents), (n,), generator=generator).tolist()
        return torch.stack([self.latents[i] for i in rows]), [self.worded[i] for i in rows]


def v_loss(toybox: Toybox, latents: Tensor, embeds: Tensor, alphas_cumprod: Tensor, generator: torch.Generator) -> Tensor:
    """`velocity_loss` of Toybox's U-Net, told the prompts by `embeds`."""

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        velocity: Tensor = toybox.unet(noisy, timesteps, embeds).sample
        return velocity

    return velocity_loss(predict, latents.to(device=embeds.device), alphas_cumprod, generator)


def velocity_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    latents: Tensor,
    alphas_cumprod: Tensor,
    generator: torch.Generator,
    teacher: Callable[[Tensor, Tensor], Tensor] | None = None,
    trust: float = 0.0,
) -> Tensor:
    """Min-SNR weighted loss of the velocity alpha * noise - sigma * latents, which `predict` sees in (noisy latents, timesteps).

    With a `teacher` the goal is its answer by `trust` (0..1) and the velocity by the rest: what no model could guess is left out.
    """
    n = len(latents)
    # One draw from each of n equal slices of the schedule: less variance than n independent draws.
    slices = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    timesteps = (slices * len(alphas_cumprod)).long()
    alpha_bar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=generator).to(device=latents.device)
    alpha_bar, timesteps = alpha_bar.to(device=latents.device), timesteps.to(device=latents.device)
    noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
    velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
    if teacher is not None:
        with torch.no_grad():
            velocity = torch.lerp(velocity, teacher(noisy, timesteps).float(), trust)
    predicted = predict(noisy, timesteps).float()
    snr = (alpha_bar / (1 - alpha_bar).clamp_min(1e-8)).flatten()
    weight = snr.clamp_max(MIN_SNR_GAMMA) / (snr + 1)
    return (weight.clamp_min(MIN_WEIGHT) * (predicted - velocity).square().mean(dim=(1, 2, 3))).mean()


def trained_parameters(toybox: Toybox) -> dict[str, torch.nn.Parameter]:
    named = {f"unet.{name}": p for name, p in toybox.unet.named_parameters()}
    return named | {f"text_encoder.{name}": p for name, p in toybox.text_encoder.named_parameters()}


def sample_sheet(folder: Path, *, seed: int = 7) -> None:
    """Samples of every fourth prop in four views, through the product's own denoiser, as sheet.png in the folder."""
    model = StableDiffusion.load(folder)
    rng = random.Random(seed)
    subjects = [draw_subject(kind, rng).prompt for kind in list(KINDS.values())[::4]]
    text = model.embed([full_prompt(prompt, "", view) for prompt in subjects for view in ("front", "left side", "back", "overhead")])
    embeds = PromptEmbeds(text, model.embed([""]).expand_as(text))
    images = sample(model, embeds, n_steps=20, guidance_scale=3.0, generator=torch.Generator().manual_seed(seed))
    save_sheet(folder / "sheet.png", images, columns=8)
    print(json.dumps({"sheet": subjects}), flush=True)


def train(args: argparse.Namespace) -> None:
    state_file = args.out / "state.safetensors"
    toybox = Toybox.load(args.out) if (args.out / "model_index.json").exists() else Toybox.new(args.vae, args.out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    toybox.vae.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
    toybox.unet.train().to(device=device)
    toybox.text_encoder.to(device=device)
    if device.type == "cpu":
        # The fused attention's backward pass takes a third of a step at this size on a CPU; plain products take a twentieth.
        toybox.unet.set_attn_processor(AttnProcessor())
        toybox.text_encoder.set_attn_implementation("eager")
    parameters = trained_parameters(toybox)
    if state_file.exists():  # the running weights; the folder itself holds their average
        for name, value in load_file(str(state_file)).items():
            parameters[name].data.copy_(value)
    average = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(int(time.time()))
    pool = LatentPool(toybox, Pictures(args.data, seed=int(time.time()) % 100_000))
    while len(pool.latents) < POOL_START:
        pool.add(50)
    alphas_cumprod = toybox.scheduler.alphas_cumprod
    began = last_save = time.monotonic()
    running = 0.0
    step = 0
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # finish the step, write everything, end
        signal.signal(number, lambda *_: stop.set())
    while not stop.is_set():
        share = (time.monotonic() - began) / args.seconds
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))
        pool.add(FRESH_PER_STEP)
        latents, worded = pool.draw(args.batch, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.bf16):
            loss = v_loss(toybox, latents, toybox.embed(worded), alphas_cumprod, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.values()), [p.data for p in parameters.values()], 1 - decay)
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            print(json.dumps({"step": step, "s": round(time.monotonic() - began), "loss": round(running, 4)}), flush=True)
        step += 1
        if time.monotonic() - last_save > args.save_every:
            save(toybox, args.out, parameters, average)
            sample_sheet(args.out)
            pool.pictures.refresh()
            last_save = time.monotonic()
    save(toybox, args.out, parameters, average)
    sample_sheet(args.out)


def _swap(parameters: dict[str, torch.nn.Parameter], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put these values into the parameters; returns what was there."""
    before = {name: p.data.clone() for name, p in parameters.items()}
    for name, p in parameters.items():
        p.data.copy_(values[name])
    return before


def save(toybox: Toybox, out: Path, parameters: dict[str, torch.nn.Parameter], average: dict[str, Tensor]) -> None:
    running = _swap(parameters, average)
    toybox.save(out)
    partial = out / "state.partial"
    save_file({name: value.cpu().contiguous() for name, value in running.items()}, str(partial))
    os.replace(partial, out / "state.safetensors")
    _swap(parameters, running)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train Toybox's text encoder and U-Net.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vae", type=Path, help="folder of the trained autoencoder; not needed to resume")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="length of the learning rate's cosine, by the clock")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--save-every", type=float, default=300.0, help="seconds between checkpoints")
    parser.add_argument("--bf16", action="store_true", help="worth it on processors with AMX or AVX512-BF16 only")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
