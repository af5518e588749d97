"""How good is Toybox as a model? Samples of every prop in four views, named by the judge; rebuilt pictures of its autoencoder.

    python -m benchmarks.toybox [--sheet docs/pictures/toybox_samples.png]

Samples go through the product's own loading and denoising code. Beside them stands what the judge says of renders of the very props
from the same sides: from straight above a bell, a hat and a lamp are discs, to the judge too. Between front and straight above the
prompts are blended as in a run: what the words from above lack is where the front is.
"""

from __future__ import annotations

import argparse
import random
import statistics
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
from engine.scene.view_weights import VIEWS, view_weights
from engine.toybox.appearance import COLORS, PATTERNS, Looks, draw_background, draw_light, paint
from engine.toybox.data import FOV_Y_DEG, pack, unpack
from engine.toybox.prompts import article, full_prompt
from engine.toybox.prop import Variation, place
from engine.toybox.props import KINDS
from engine.toybox.sheets import save_sheet
from engine.toybox.tracer import render_buffers

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "engine" / "toybox" / "weights"
# Azimuth and elevation in degrees. The first four have a prompt of their own, the others a blend.
ANGLES = {
    "front": (0.0, 0.0),
    "left side": (90.0, 0.0),
    "back": (180.0, 0.0),
    "overhead": (0.0, 90.0),
    "80 degrees up": (0.0, 80.0),
    "70 degrees up": (0.0, 70.0),
    "60 degrees up": (0.0, 60.0),
}
N_NAMED = 4
STEPS = 20
GUIDANCE_SCALE = 3.0


def draw_samples(model: StableDiffusion, prompt: str, seed: int) -> Tensor:
    """One picture [V, H, W, 3] of the prompt for each of `ANGLES`, asked for as a run asks."""
    views, empty = model.embed([full_prompt(prompt, "", view) for view in VIEWS]), model.embed([""])
    weights = view_weights(*torch.tensor(list(ANGLES.values())).T)  # [V, 6]
    text = torch.einsum("bv,vtd->btd", weights.to(views), views)
    embeds = PromptEmbeds(text, empty.expand_as(text))
    return sample(model, embeds, n_steps=STEPS, guidance_scale=GUIDANCE_SCALE, generator=torch.Generator().manual_seed(seed))


Named = dict[str, tuple[float, float]]
"""For each view: the share of pictures whose prop, and whose prop and colour, the judge names."""


def name_views(pictures: list[tuple[str, str, Tensor]]) -> Named:
    """Of (prop, colour, its pictures [V, H, W, 3] from `ANGLES`)."""
    judge = load_classifier()
    found = [(noun, color, judge.name(images)) for noun, color, images in pictures]
    named: Named = {}
    for v, view in enumerate(ANGLES):
        props = [seen[v][0] == noun for noun, _, seen in found]
        both = [seen[v] == (noun, color) for noun, color, seen in found]
        named[view] = statistics.mean(props), statistics.mean(both)
    return named


def subjects() -> list[tuple[str, str]]:
    """Each prop with a colour drawn for it."""
    rng = random.Random(0)
    return [(noun, rng.choice(list(COLORS))) for noun in KINDS]


@torch.no_grad()
def name_samples(model: StableDiffusion, sheet: Path) -> Named:
    """Of the model's samples; writes them to the sheet, four views a prop."""
    drawn = []
    for i, (noun, color) in enumerate(subjects()):
        drawn.append((noun, color, draw_samples(model, article(f"a {color} {noun}"), seed=i)))
    save_sheet(sheet, torch.cat([images[:N_NAMED] for _, _, images in drawn]), columns=4 * N_NAMED)
    return name_views(drawn)


@torch.no_grad()
def name_renders(size: int) -> Named:
    """Of renders, lit, of shapes that training never saw, from the same sides."""
    generator, angles = torch.Generator().manual_seed(1), torch.tensor(list(ANGLES.values()))
    n = len(angles)
    cameras = orbit_cameras(angles[:, 0], angles[:, 1], torch.full((n,), 2.9), torch.full((n,), FOV_Y_DEG))
    toward = torch.nn.functional.normalize(cameras.positions, dim=-1)
    drawn = []
    for i, (noun, color) in enumerate(subjects()):
        shape = place(KINDS[noun].build(Variation(20_000_000 + i)))
        light, ambient = draw_light(toward, generator)
        tint, plain = torch.tensor([COLORS[color]] * n), torch.full((n,), PATTERNS.index("plain"))
        looks = Looks(tint, plain, torch.zeros(n, dtype=torch.long), light, ambient, draw_background(n, generator))
        drawn.append((noun, color, paint(unpack(pack(render_buffers(shape, cameras, size, size))), looks)))
    return name_views(drawn)


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
    samples, renders = name_samples(model, args.sheet), name_renders(model.image_size)
    print(
        f"{len(KINDS)} samples a view, {STEPS} steps, guidance {GUIDANCE_SCALE:g} ({time.monotonic() - start:.0f} s); sheet: {args.sheet}"
    )
    print(f"{'the judge names':16}{'of samples':>12}{'with colour':>12}{'of renders':>12}{'with colour':>12}")
    for view in ANGLES:
        print(f"{view:16}" + "".join(f"{100 * share:10.1f} %" for share in (*samples[view], *renders[view])))
    means = [statistics.mean(column) for named in (samples, renders) for column in zip(*list(named.values())[:N_NAMED])]
    print(f"{'the first four':16}" + "".join(f"{100 * share:10.1f} %" for share in means))


if __name__ == "__main__":
    main()
