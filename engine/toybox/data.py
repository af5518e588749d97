"""The Toybox data set: traced views of many drawn shapes, stored as 8-bit buffers, dressed anew each time they are used.

    python -m engine.toybox.data --out FOLDER --shards 40

A shard holds `SHAPES_PER_SHARD` shapes of every kind, seen from `VIEWS_PER_SHAPE` cameras: uint8 [N, H, W, 12] buffers,
cameras and kinds, as safetensors. Shard k is the same on every machine.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from engine.scene.cameras import orbit_cameras
from engine.toybox.prop import Variation, place
from engine.toybox.props import KINDS
from engine.toybox.tracer import Buffers, render_buffers

SHAPES_PER_SHARD = 4
VIEWS_PER_SHAPE = 6
FOV_Y_DEG = 40.0
RADIUS_RANGE = (2.75, 3.2)
# Share of views that stand exactly in front, beside, behind, above or below.
CANONICAL_SHARE = 0.15
CANONICAL = ((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (-90.0, 0.0), (0.0, 90.0), (0.0, -90.0))


def draw_angles(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Azimuth and elevation [n] in degrees: all round, mostly from the horizon to half above, some from the top and below."""
    azimuth = torch.rand(n, generator=generator) * 360 - 180
    u, zone = torch.rand((2, n), generator=generator)
    elevation = torch.where(zone < 0.7, -10 + 60 * u, torch.where(zone < 0.87, 50 + 40 * u, -10 - 70 * u))
    canonical = torch.tensor(CANONICAL)[torch.randint(len(CANONICAL), (n,), generator=generator)]
    is_canonical = torch.rand(n, generator=generator) < CANONICAL_SHARE
    return torch.where(is_canonical, canonical[:, 0], azimuth), torch.where(is_canonical, canonical[:, 1], elevation)


def pack(buffers: Buffers) -> Tensor:
    """uint8 [B, H, W, 12]: opacity, normals, positions, colour, tint, shade."""
    parts = [
        buffers.opacity[..., None] * 255,
        buffers.normals * 127 + 128,
        buffers.positions * 127 + 128,
        buffers.color * 255,
        buffers.tint[..., None] * 255,
        buffers.shade[..., None] * 128,
    ]
    return torch.cat(parts, dim=-1).round().clamp(0, 255).to(torch.uint8)


def unpack(packed: Tensor) -> dict[str, Tensor]:
    """The inverse of `pack`, to 8-bit precision; float32."""
    x = packed.float()
    return {
        "opacity": x[..., 0] / 255,
        "normals": torch.nn.functional.normalize((x[..., 1:4] - 128) / 127, dim=-1, eps=1e-3),
        "positions": (x[..., 4:7] - 128) / 127,
        "color": x[..., 7:10] / 255,
        "tint": x[..., 10] / 255,
        "shade": x[..., 11] / 128,
    }


def make_shard(index: int, size: int) -> dict[str, Tensor]:
    """Trace one shard; `size` is the picture's height and width in pixels."""
    generator = torch.Generator().manual_seed(1000 + index)
    packed, cameras, kinds, shapes = [], [], [], []
    for k, kind in enumerate(KINDS.values()):
        for j in range(SHAPES_PER_SHARD):
            shape = index * SHAPES_PER_SHARD + j
            placed = place(kind.build(Variation(shape * 1009 + k)))
            azimuth, elevation = draw_angles(VIEWS_PER_SHAPE, generator)
            low, high = RADIUS_RANGE
            radius = low + (high - low) * torch.rand(VIEWS_PER_SHAPE, generator=generator)
            view = orbit_cameras(azimuth, elevation, radius, torch.full_like(radius, FOV_Y_DEG))
            packed.append(pack(render_buffers(placed, view, size, size)))
            cameras.append(torch.stack([azimuth, elevation, radius], dim=-1))
            kinds.append(torch.full((VIEWS_PER_SHAPE,), k))
            shapes.append(torch.full((VIEWS_PER_SHAPE,), shape))
    return {"buffers": torch.cat(packed), "cameras": torch.cat(cameras), "kinds": torch.cat(kinds), "shapes": torch.cat(shapes)}


def shard_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard_*.safetensors"))


def load_shard(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for index in range(args.shards):
        path = args.out / f"shard_{index:04d}.safetensors"
        if path.exists():
            continue
        partial = path.with_suffix(".partial")
        save_file(make_shard(index, args.size), str(partial))
        os.replace(partial, path)
        print(f"{path.name}: {SHAPES_PER_SHARD * VIEWS_PER_SHAPE * len(KINDS)} views", flush=True)


if __name__ == "__main__":
    main()
