"""From one picture to an object: props that no training saw, a picture of each from the front, scored against the very shape it shows.

    python -m benchmarks.pictures [--model toybox-image] [--props 8] [--preset draft] [--out scratch/pictures] [--sheet FILE]

Further options are the engine's.

The picture is all that the engine gets, no words. Results are kept in --out; runs that are already there are scored again.
--sheet shows some of them beside their pictures, from six sides.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.classifier import load_classifier
from benchmarks.main_job import PROMPTS, ROOT, generate
from benchmarks.score import Score, centered, draw_views, lit, read_mesh, score, views
from engine.scene.cameras import orbit_cameras
from engine.toybox.appearance import COLORS, PATTERNS, Looks, draw_light, paint
from engine.toybox.data import FOV_Y_DEG, pack, unpack
from engine.toybox.prop import Variation, place
from engine.toybox.props import KINDS
from engine.toybox.tracer import render_buffers

# From a little above and beside, where a prop shows most of itself.
AZIMUTH_DEG, ELEVATION_DEG = 25.0, 15.0
PICTURE_PX = 192
SIZE_PX = 64
FIRST_SHAPE = 30_000_000
# What the sheet shows, and how: each given picture, a bar, then views all round, lit, at this size.
SHOWN = ("teapot", "lamp", "chair", "mug")
SHEET_PX, BAR_PX = 150, 12
SIX_DEG = tuple(60.0 * i for i in range(6))
LOOKS = [(noun, look) for _, noun, look in PROMPTS if look in COLORS]


def draw_picture(noun: str, color: str, shape: int, path: Path) -> None:
    """A lit picture of one shape, with transparency: the hole of a handle is no part of it."""
    camera = orbit_cameras(*(torch.tensor([value]) for value in (AZIMUTH_DEG, ELEVATION_DEG, 2.95, FOV_Y_DEG)))
    buffers = unpack(pack(render_buffers(place(KINDS[noun].build(Variation(shape))), camera, PICTURE_PX, PICTURE_PX)))
    light, ambient = draw_light(torch.nn.functional.normalize(camera.positions, dim=-1), torch.Generator().manual_seed(shape))
    plain, lit = torch.tensor([PATTERNS.index("plain")]), torch.tensor([0])
    image = paint(buffers, Looks(torch.tensor([COLORS[color]]), plain, lit, light, ambient, torch.ones(1, 2, 3)))
    pixels = torch.cat([image[0], buffers["opacity"][0, ..., None]], dim=-1)
    Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().numpy(), "RGBA").save(path)


def run_one(noun: str, color: str, shape: int, args: argparse.Namespace, extra: list[str]) -> Score | None:
    """None: no mesh came out."""
    out = args.out / noun
    picture = args.out / f"{noun}.png"
    if not (out / "result" / "result.json").exists():
        draw_picture(noun, color, shape, picture)
        taken_from = ["--reference.azimuth-deg", str(AZIMUTH_DEG), "--reference.elevation-deg", str(ELEVATION_DEG)]
        given = ["--model", args.model, "--preset", args.preset, "--image", str(picture)]
        generate([*given, *taken_from, *extra], out)
    if not (out / "result" / "result.json").exists():
        return None
    exact = render_buffers(place(KINDS[noun].build(Variation(shape))), views(), SIZE_PX, SIZE_PX, supersample=1)
    return score(read_mesh(out / "result"), noun, color, load_classifier(), [exact])


def draw_sheet(out: Path, path: Path) -> None:
    """A row for each of `SHOWN` that has a result in `out`: the picture over white, then the object from six sides."""
    cameras = orbit_cameras(torch.tensor(SIX_DEG), *(torch.full((len(SIX_DEG),), value) for value in (ELEVATION_DEG, 2.95, FOV_Y_DEG)))
    rows = []
    for noun in SHOWN:
        if not (out / noun / "result" / "mesh.npz").exists():
            continue
        given = Image.open(out / f"{noun}.png").convert("RGBA")
        white = Image.alpha_composite(Image.new("RGBA", given.size, "white"), given).convert("RGB").resize((SHEET_PX, SHEET_PX))
        mesh = read_mesh(out / noun / "result")
        mesh = dataclasses.replace(mesh, vertices=centered(mesh.vertices))
        color, normals, opacity = draw_views(mesh, SHEET_PX, cameras)
        over_white = lit(color, normals, cameras) * opacity[..., None] + 1 - opacity[..., None]
        bar = torch.full((SHEET_PX, BAR_PX, 3), 0.78)
        rows.append(torch.cat([torch.from_numpy(np.asarray(white, np.float32)) / 255, bar, *over_white], dim=1))
    if rows:
        Image.fromarray((torch.cat(rows).clamp(0, 1) * 255).round().byte().numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="From one picture to an object.")
    parser.add_argument("--props", type=int, default=8)
    parser.add_argument("--model", default="toybox-image", help="one that is prompted by a picture, or its folder")
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--out", type=Path, default=ROOT / "scratch" / "pictures")
    parser.add_argument("--sheet", type=Path, help="where to show some of them, as PNG")
    args, extra = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    scores = []
    for i, (noun, color) in enumerate(LOOKS[: args.props]):
        s = run_one(noun, color, FIRST_SHAPE + i, args, extra)
        found = "no mesh" if s is None else f"IoU {s.iou:.3f}  clay {s.clay_named:.2f}  named {s.named:.2f}  dE {s.delta_e:5.1f}"
        print(f"{color + ' ' + noun:20} {found}", flush=True)
        scores += [s] if s else []
    if scores:
        print(f"silhouette IoU: median {statistics.median(s.iou for s in scores):.3f}, worst {min(s.iou for s in scores):.3f}")
        print(f"named from all sides: {100 * statistics.mean(s.clay_named for s in scores):.1f} % of clay", end=", ")
        print(f"{100 * statistics.mean(s.named for s in scores):.1f} % in the right color")
    print(f"no mesh: {min(args.props, len(LOOKS)) - len(scores)}")
    if args.sheet:
        draw_sheet(args.out, args.sheet)


if __name__ == "__main__":
    main()
