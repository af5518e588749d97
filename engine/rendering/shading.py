"""How samples become colour under one directional light.

Shapes: M samples.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Shading = Literal["albedo", "lambertian", "textureless", "normal"]
SHADINGS: tuple[str, ...] = get_args(Shading)


def needs_normals(mode: str) -> bool:
    """Whether `shade` looks at the normals in this mode."""
    return mode != "albedo"


def shade(albedo: Tensor, normals: Tensor | None, light_direction: Tensor | None, ambient_ratio: float, mode: str) -> Tensor:
    r"""Colour of samples.

    albedo:       albedo
    lambertian:   albedo * (a + (1 - a) max(0, n . l))
    textureless:  the same with white albedo
    normal:       (n + 1) / 2

    Args:
        albedo: [M, 3] in [0, 1].
        normals: [M, 3] unit, outward; needed in every mode but "albedo".
        light_direction: [M, 3] unit, from the surface towards the light; needed for lambertian and textureless.
        ambient_ratio: a in [0, 1]; 1 = unlit, 0 = light only.
    Returns:
        [M, 3] in [0, 1].
    Raises:
        ValueError: for an unknown mode or a missing argument.
    Source: DreamFusion (2209.14988), eq. 7 and section 3.1.
    """
    if mode not in SHADINGS:
        raise ValueError(f"shading is {mode!r}, but must be one of {', '.join(SHADINGS)}")
    if mode == "albedo":
        return albedo
    if normals is None:
        raise ValueError(f"shading {mode!r} needs normals")
    if mode == "normal":
        return normals * 0.5 + 0.5
    if light_direction is None:
        raise ValueError(f"shading {mode!r} needs a light direction")
    cosine = (normals * light_direction).sum(dim=-1, keepdim=True).clamp(min=0.0)
    light = ambient_ratio + (1.0 - ambient_ratio) * cosine  # [M, 1]
    return light.expand_as(albedo) if mode == "textureless" else albedo * light
