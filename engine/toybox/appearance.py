"""From picture buffers to pictures: colours, materials, light, background. All of it batched, so one traced view serves many looks.

Shapes: B pictures, H W pixels. Images are float32 [B, H, W, 3] in [0, 1], sRGB-encoded; light is applied to sRGB values,
as the engine's own shading does it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Color = tuple[float, float, float]

COLORS: dict[str, Color] = {
    "red": (0.80, 0.10, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.95, 0.83, 0.12),
    "green": (0.15, 0.58, 0.20),
    "turquoise": (0.12, 0.72, 0.70),
    "blue": (0.12, 0.28, 0.78),
    "purple": (0.50, 0.18, 0.68),
    "pink": (0.96, 0.52, 0.70),
    "brown": (0.42, 0.25, 0.13),
    "black": (0.09, 0.09, 0.10),
    "gray": (0.50, 0.50, 0.52),
    "white": (0.93, 0.93, 0.91),
}
"""Colour words of prompts, with the sRGB value that the coloured part takes."""

MATERIALS: dict[str, Color] = {
    "golden": (0.85, 0.64, 0.18),
    "wooden": (0.62, 0.42, 0.22),
    "stone": (0.58, 0.57, 0.54),
}
"""Material words that bring their own colour (and a pattern)."""

CLAY: Color = (0.72, 0.72, 0.72)
SHADINGS = ("lit", "unlit", "clay")
SHADING_WORDS = {"lit": "", "unlit": "unlit", "clay": "clay"}
"""How a picture is shaded, and the words that say so in a prompt: lambertian, flat albedo, textureless."""

STRIPES = 7.0  # white and coloured bands per world unit of height, about


@dataclass(frozen=True)
class Looks:
    """How each of B pictures is dressed and lit.

    Attributes:
        tint: [B, 3] sRGB colour of the tinted parts; NaN keeps the natural colours.
        pattern: [B] int64 index into PATTERNS.
        shading: [B] int64 index into SHADINGS.
        light_direction: [B, 3] unit, towards the light.
        ambient_ratio: [B] in [0, 1].
        background: [B, 2, 3] sRGB colour of the top and bottom row.
    """

    tint: Tensor
    pattern: Tensor
    shading: Tensor
    light_direction: Tensor
    ambient_ratio: Tensor
    background: Tensor


PATTERNS = ("plain", "striped", "wooden", "golden", "stone")


def _pattern_factor(pattern: Tensor, positions: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """(factor on the tint [B, H, W], share of white laid over it [B, H, W])."""
    x, y, z = positions.unbind(-1)
    index = pattern[:, None, None]
    rings = torch.sin(26.0 * (x + 0.35 * torch.sin(2.2 * z) + 0.25 * y)) * 0.5 + 0.5
    wood = 0.72 + 0.34 * rings
    mottled = torch.sin(9 * x + 3 * z) * torch.sin(8 * y - 2 * x) * torch.sin(10 * z + 4 * y)
    stone = 1.0 + 0.30 * mottled
    gold = 0.72 + 0.42 * (normals[..., 2] * 0.5 + 0.5)
    one = torch.ones_like(x)
    factor = torch.where(index == 2, wood, torch.where(index == 3, gold, torch.where(index == 4, stone, one)))
    bands = torch.sigmoid(18.0 * torch.sin(math.pi * STRIPES * z))
    white = torch.where(index == 1, bands, torch.zeros_like(x))
    return factor, white


def dress(buffers: dict[str, Tensor], looks: Looks) -> Tensor:
    """Albedo [B, H, W, 3]: natural colours, with the prompt's colour and pattern on the tinted parts."""
    factor, white = _pattern_factor(looks.pattern, buffers["positions"], buffers["normals"])
    natural = looks.tint.isnan().any(dim=-1)[:, None, None, None]
    tint = torch.where(natural, buffers["color"], looks.tint.nan_to_num()[:, None, None, :] * buffers["shade"][..., None])
    tint = (tint * factor[..., None]).clamp(0.0, 1.0)
    tint = torch.lerp(tint, torch.full_like(tint, 0.94), white[..., None])
    return torch.lerp(buffers["color"], tint, buffers["tint"][..., None])


def paint(buffers: dict[str, Tensor], looks: Looks) -> Tensor:
    """Pictures [B, H, W, 3] of the dressed, lit prop before its background."""
    albedo = dress(buffers, looks)
    mode = looks.shading[:, None, None, None]
    lambert = torch.einsum("bhwc,bc->bhw", buffers["normals"], looks.light_direction).clamp_min(0.0)
    ambient = looks.ambient_ratio[:, None, None]
    light = (ambient + (1.0 - ambient) * lambert)[..., None]
    clay = albedo.new_tensor(CLAY).expand_as(albedo)
    surface = torch.where(mode == 1, albedo, torch.where(mode == 2, clay * light, albedo * light))
    height = albedo.shape[1]
    ramp = torch.linspace(0.0, 1.0, height)[None, :, None, None]
    background = torch.lerp(looks.background[:, None, None, 0], looks.background[:, None, None, 1], ramp)
    opacity = buffers["opacity"][..., None]
    return (surface * opacity + background * (1.0 - opacity)).clamp(0.0, 1.0)


def draw_light(camera_direction: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A key light [B, 3] somewhere on the camera's side and above, and an ambient ratio [B] in [0.35, 0.7]."""
    n = len(camera_direction)
    wander = torch.randn((n, 3), generator=generator) * 0.5
    up = torch.tensor([0.0, 0.0, 0.6])
    return F.normalize(camera_direction + up + wander, dim=-1), 0.35 + 0.35 * torch.rand(n, generator=generator)


def draw_background(n: int, generator: torch.Generator) -> Tensor:
    """[n, 2, 3]: mostly one flat colour of any hue, sometimes grey, sometimes a vertical ramp."""
    color = torch.rand((n, 1, 3), generator=generator).expand(n, 2, 3).clone()
    kind = torch.rand(n, generator=generator)
    gray = torch.rand((n, 1, 1), generator=generator).expand(n, 2, 3)
    ramp = color + 0.25 * torch.randn((n, 2, 3), generator=generator)
    color = torch.where((kind < 0.3)[:, None, None], gray, color)
    return torch.where((kind > 0.85)[:, None, None], ramp, color).clamp(0.0, 1.0)


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """What optimisation starts from: blurred, foggy, noisy and oddly coloured pictures [B, H, W, 3], each with its own draw."""
    n, height, width, _ = images.shape
    result = images.permute(0, 3, 1, 2)
    small = F.interpolate(result, scale_factor=0.125, mode="area")
    soft = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    draw = torch.rand((5, n, 1, 1, 1), generator=generator)
    result = torch.lerp(result, soft, draw[0] * (draw[1] < 0.5))
    fog = torch.rand((n, 3, 1, 1), generator=generator)
    result = torch.lerp(result, fog, 0.7 * draw[2] * (draw[1] > 0.3))
    gain = 1.0 + 0.6 * (torch.rand((n, 3, 1, 1), generator=generator) - 0.5)
    grain = torch.randn(result.shape, generator=generator) * 0.15 * draw[3]
    return (result * gain + grain * (draw[4] < 0.4)).clamp(0.0, 1.0).permute(0, 2, 3, 1)
