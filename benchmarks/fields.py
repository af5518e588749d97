"""Which field is fastest for the same result: cost of a step, and fits of known props from pictures.

    python -m benchmarks.fields [--steps 300] [--size 48] [--threads 1] [--props mug,chair] [--only dense-64,...]

Times are this process's own processor seconds, so that other work on the machine changes little. A fit sees 64 views of a
prop with its opacity, four at a time over random backgrounds, exactly as the trainer steps; PSNR and silhouette IoU are of
eight views that it never saw.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import statistics
import time

import torch
from torch import Tensor

from engine.fields.field import RadianceField, make_field
from engine.fields.field_config import FieldConfig
from engine.rendering.occupancy import OccupancyGrid
from engine.rendering.render import render, render_image, step_size_for
from engine.scene.cameras import Cameras, orbit_cameras
from engine.toybox.prop import Variation, place
from engine.toybox.props import KINDS
from engine.toybox.tracer import render_buffers

CONFIGS = {
    "dense-64": FieldConfig(),
    "dense-64 exp": FieldConfig(activation="exp", density_scale=2.0),
    "dense-64 one level": FieldConfig(n_levels=1),
    "dense-48": FieldConfig(n_levels=3, base_resolution=12, finest_resolution=48),
    "dense-96": FieldConfig(finest_resolution=96),
    "dense-64 mlp": FieldConfig(features=8, hidden_width=32, density_scale=10.0),
    "hash-8x2 mlp": FieldConfig(encoding="hash", n_levels=8, finest_resolution=96, features=2, hidden_width=32),
    "hash-8x2 mlp half": FieldConfig(
        encoding="hash", n_levels=8, finest_resolution=96, features=2, hidden_width=32, table_precision="float16"
    ),
    "hash-4x4 mlp": FieldConfig(encoding="hash", n_levels=4, finest_resolution=64, features=4, hidden_width=32),
    "hash-4x4 linear": FieldConfig(encoding="hash", n_levels=4, finest_resolution=64, features=4),
}
VIEWS_PER_STEP = 4
OCCUPANCY_EVERY = 8
HELD_OUT = 8


def draw_cameras(n: int, generator: torch.Generator) -> Cameras:
    """As the trainer draws them: stratified in azimuth, elevation -15..65, radius about 2.9, fov 40."""
    azimuth = (torch.arange(n) + torch.rand(n, generator=generator)) * (360.0 / n) - 180.0
    elevation = torch.rand(n, generator=generator) * 80.0 - 15.0
    radius = 2.75 + 0.45 * torch.rand(n, generator=generator)
    return orbit_cameras(azimuth, elevation, radius, torch.full((n,), 40.0))


def pictures(noun: str, cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    """Exact color [B, H, W, 3] and opacity [B, H, W] of a prop."""
    buffers = render_buffers(place(KINDS[noun].build(Variation(None))), cameras, size, size)
    return buffers.color, buffers.opacity


def over(color: Tensor, opacity: Tensor, background: Tensor) -> Tensor:
    return color * opacity[..., None] + (1.0 - opacity[..., None]) * background[:, None, None, :]


@dataclasses.dataclass
class Fit:
    """What came of a fit."""

    field: RadianceField
    occupancy: OccupancyGrid
    cpu_s: float
    psnr_db: float
    iou: float
    cpu_s_to_target: float


def fit(config: FieldConfig, noun: str, *, n_steps: int, size: int, n_samples: int, target_db: float, rate: float = 0.01) -> Fit:
    """Train a field on a prop's pictures. `cpu_s_to_target`: processor seconds of training until the held-out PSNR is reached."""
    generator = torch.Generator().manual_seed(0)
    cameras, unseen = draw_cameras(64, generator), draw_cameras(HELD_OUT, generator)
    color, opacity = pictures(noun, cameras, size)
    unseen_color, unseen_opacity = pictures(noun, unseen, size)
    gray = torch.full((HELD_OUT, 3), 0.5)
    truth = over(unseen_color, unseen_opacity, gray)
    field, occupancy = make_field(config, generator), OccupancyGrid(48)
    optimizer = torch.optim.Adam(field.parameter_groups(rate), betas=(0.9, 0.99), eps=1e-15)
    step_size = step_size_for(n_samples)
    cpu_s, reached, psnr, iou = 0.0, math.nan, 0.0, 0.0
    for step in range(n_steps):
        start = time.process_time()
        fraction = step / n_steps
        field.max_level = min(1.0, 0.5 + fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"] * min(1.0, (step + 1) / 20) * (1.0 - 0.7 * fraction)
        if step % OCCUPANCY_EVERY == 0:
            occupancy.update(field.density, step, generator)
        some = torch.randperm(64, generator=generator)[:VIEWS_PER_STEP]
        background = torch.rand(VIEWS_PER_STEP, 3, generator=generator)
        views = Cameras(cameras.camera_to_world[some], cameras.window[some])
        out = render(field, views, size, size, occupancy, step_size=step_size, background=background, generator=generator)
        loss = (out.image - over(color[some], opacity[some], background)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        cpu_s += time.process_time() - start
        if (step + 1) % 20 == 0 or step + 1 == n_steps:
            seen = render_image(field, unseen, size, size, occupancy, step_size=step_size, background=gray)
            psnr = -10.0 * math.log10((seen.image - truth).square().mean().item())
            covered, known = seen.opacity > 0.5, unseen_opacity > 0.5
            iou = ((covered & known).sum() / (covered | known).sum()).item()
            if math.isnan(reached) and psnr >= target_db:
                reached = cpu_s
    return Fit(field, occupancy, cpu_s, psnr, iou, reached)


def step_ms(
    field: RadianceField, occupancy: OccupancyGrid, size: int, shading: str, n_samples: int, repeats: int = 7
) -> tuple[int, float, float]:
    """Samples of a step of four views, and median processor milliseconds of its forward and backward."""
    generator = torch.Generator().manual_seed(0)
    cameras, background = draw_cameras(VIEWS_PER_STEP, generator), torch.rand(VIEWS_PER_STEP, 3, generator=generator)
    times, n = [], 0
    for _ in range(repeats + 2):
        start = time.process_time()
        out = render(
            field, cameras, size, size, occupancy, step_size=step_size_for(n_samples), background=background, shading=shading,
            ambient_ratio=0.3, generator=generator,
        )  # fmt: skip
        middle = time.process_time()
        field.zero_grad(set_to_none=True)
        out.image.square().mean().backward()
        times.append((middle - start, time.process_time() - middle))
        n = len(out.weights)
    forward, backward = (1e3 * statistics.median(part) for part in zip(*times[2:]))
    return n, forward, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--props", default="mug,chair")
    parser.add_argument("--only", default=",".join(CONFIGS))
    parser.add_argument("--target-db", type=float, default=24.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {arguments.threads} thread(s), {time.strftime('%Y-%m-%d')}")
    print(f"fits: {arguments.steps} steps of {VIEWS_PER_STEP} views, {arguments.size} px, {arguments.samples} samples across the box")
    print(f"| field | prop | cpu s | ms/step | cpu s to {arguments.target_db:g} dB | PSNR dB | IoU |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    costs = []
    for name in arguments.only.split(","):
        config = CONFIGS[name]
        for noun in arguments.props.split(","):
            made = fit(
                config, noun, n_steps=arguments.steps, size=arguments.size, n_samples=arguments.samples, target_db=arguments.target_db
            )
            each = 1e3 * made.cpu_s / arguments.steps
            print(
                f"| {name} | {noun} | {made.cpu_s:.1f} | {each:.0f} | {made.cpu_s_to_target:.1f} | {made.psnr_db:.2f} | {made.iou:.3f} |",
                flush=True,
            )
        fresh, empty = make_field(config, torch.Generator().manual_seed(0)), OccupancyGrid(48)
        empty.update(fresh.density, 0, torch.Generator().manual_seed(0))
        for state, field, occupancy in (("blob", fresh, empty), (noun, made.field, made.occupancy)):
            for size in (32, 64):
                for shading in ("albedo", "lambertian"):
                    n, forward, backward = step_ms(field, occupancy, size, shading, arguments.samples)
                    costs.append(f"| {name} | {state} | {size} | {shading} | {n} | {forward:.0f} | {backward:.0f} |")
    print(f"\nOne step of {VIEWS_PER_STEP} views, processor milliseconds\n")
    print("| field | scene | px | shading | samples | forward | backward |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(costs))


if __name__ == "__main__":
    main()
