"""How good is Toybox as a model? Samples of every prop in four views, named by the judge; rebuilt pictures of its autoencoder.

    python -m benchmarks.toybox [--sheet docs/pictures/toybox_samples.png]

Samples go through the product's own loading and denoising code.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from benchmarks.classifier import load_classifier
from engine.guidance.ddim import sample
from engine.guidance.stable_diffusion import StableDiffusion
from engine.scene.cameras import orbit_cameras
from engine.scene.view_prompts import PromptEmbeds
from engine.toybox.appearance import COLORS, PATTERNS, Looks, draw_background, draw_light, paint
from engine.toybox.data import FOV_Y_DEG, pack, unpack
from engine.toybox.prompts import article, full_prompt
from engine.toybox.prop import Variation, place
from engine.toybox.props import KINDS
from engine.toybox.sheets import save_sheet
from engine.toybox.tracer import render_buffers

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "engine" / "toybox" / "weights"
VIEWS = ("front", "left side", "back", "overhead")
STEPS = 20
GUIDANCE_SCALE = 3.0


def draw_samples(model: StableDiffusion, prompts: list[str], seed: int) -> Tensor:
    """One picture [n, H, W, 3] per prompt."""
    text, empty = model.embed(prompts), model.embed([""])
    embeds = PromptEmbeds(text, empty.expand_as(text))
    return sample(model, embeds, n_steps=STEPS, guidance_scale=GUIDANCE_SCALE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def name_samples(model: StableDiffusion, sheet: Path) -> tuple[float, float]:
    """Shares of samples whose prop, and whose prop and colour, the judge names; writes the sheet, a row of four views a prop."""
    judge, rng = load_classifier(), random.Random(0)
    pictures, props, both = [], 0, 0
    for i, noun in enumerate(KINDS):
        color = rng.choice(list(COLORS))
        prompts = [full_prompt(article(f"a {color} {noun}"), "", view) for view in VIEWS]
        images = draw_samples(model, prompts, seed=i)
        pictures.append(images)
        for found, look in judge.name(images):
            props += found == noun
            both += found == noun and look == color
    save_sheet(sheet, torch.cat(pictures), columns=16)
    n = len(KINDS) * len(VIEWS)
    return props / n, both / n


@torch.no_grad()
def rebuild_error(model: StableDiffusion, *, n: int = 40) -> tuple[float, float]:
    """CIEDE2000 between freshly drawn pictures and what encoder and decoder make of them: median and 95th percentile of pixels."""
    generator, rng = torch.Generator().manual_seed(7), random.Random(7)
    errors = []
    for i in range(n):
        kind = rng.choice(list(KINDS.values()))
        angles = (rng.uniform(-180, 180), rng.uniform(-20, 60), 2.9, FOV_Y_DEG)
        view = orbit_cameras(*(torch.tensor([value]) for value in angles))
        buffers = unpack(pack(render_buffers(place(kind.build(Variation(20_000_000 + i))), view, model.image_size, model.image_size)))
        light, ambient = draw_light(torch.nn.functional.normalize(view.positions, dim=-1), generator)
        looks = Looks(
            tint=torch.tensor([rng.choice(list(COLORS.values()))]),
            pattern=torch.tensor([PATTERNS.index("plain")]),
            shading=torch.tensor([i % 2]),
            light_direction=light,
            ambient_ratio=ambient,
            background=draw_background(1, generator),
        )
        image = paint(buffers, looks)
        rebuilt = model.decode(model.encode(image)).clamp(0, 1)
        errors.append(deltaE_ciede2000(rgb2lab(image[0].numpy()), rgb2lab(rebuilt[0].numpy())).ravel())
    every = np.concatenate(errors)
    return float(np.median(every)), float(np.percentile(every, 95))


def main() -> None:
    parser = argparse.ArgumentParser(description="How good is Toybox as a model?")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--sheet", type=Path, default=ROOT / "scratch" / "toybox_samples.png")
    args = parser.parse_args()
    model = StableDiffusion.load(args.weights)
    median, high = rebuild_error(model)
    print(f"autoencoder: CIEDE2000 of rebuilt pixels, median {median:.1f}, 95th percentile {high:.1f}", flush=True)
    start = time.monotonic()
    prop, both = name_samples(model, args.sheet)
    print(f"samples ({len(KINDS)} props x {len(VIEWS)} views, {STEPS} steps, guidance {GUIDANCE_SCALE:g}): the judge names", end=" ")
    print(f"the prop of {100 * prop:.1f} %, prop and colour of {100 * both:.1f} %  ({time.monotonic() - start:.0f} s); sheet: {args.sheet}")


if __name__ == "__main__":
    main()
