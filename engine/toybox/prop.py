"""What a prop is: coloured parts in one place, and the table of all kinds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.toybox.sdf import Distance

Color = tuple[float, float, float]  # sRGB, 0..1


@dataclass(frozen=True)
class Part:
    """One coloured piece of a prop.

    Attributes:
        distance: its signed distance function.
        color: natural colour (sRGB).
        tinted: True if the colour of the prompt replaces the natural one ("a red mug": the body, not the coffee).
        shade: factor on the prompt's colour, so that tinted parts can differ a little.
    """

    distance: Distance
    color: Color
    tinted: bool = False
    shade: float = 1.0


def tinted(distance: Distance, color: Color, shade: float) -> Part:
    """A tinted part that is darker or lighter than the prop's main colour, natural or prompted."""
    r, g, b = (min(1.0, c * shade) for c in color)
    return Part(distance, (r, g, b), tinted=True, shade=shade)


@dataclass(frozen=True)
class Prop:
    """Parts in their own units; `normalized` brings them into the unit ball."""

    parts: tuple[Part, ...]

    def distances(self, positions: Tensor) -> Tensor:
        """[P, N] signed distance of each part at positions [N, 3]."""
        return torch.stack([part.distance(positions) for part in self.parts])


class Variation:
    """One draw of a kind's shape. Every number a kind varies comes from here, so a seed names a shape.

    `Variation(None)` is the middle of every range: the kind's typical member.
    """

    def __init__(self, seed: int | None) -> None:
        self._random = None if seed is None else random.Random(seed)

    def between(self, low: float, high: float) -> float:
        return (low + high) / 2 if self._random is None else self._random.uniform(low, high)

    def count(self, low: int, high: int) -> int:
        return (low + high) // 2 if self._random is None else self._random.randint(low, high)

    def color(self, color: Color, spread: float = 0.03) -> Color:
        """The colour, a little lighter or darker and a little off in hue."""
        if self._random is None:
            return color
        gain = 1 + self._random.uniform(-2 * spread, 2 * spread)
        r, g, b = (min(1.0, max(0.0, c * gain + self._random.uniform(-spread, spread))) for c in color)
        return (r, g, b)


@dataclass(frozen=True)
class Kind:
    """A kind of prop: its noun, other words for it, and how to build one.

    Attributes:
        noun: the word in prompts and tables.
        synonyms: other words that mean the same prop.
        build: draws one shape.
        materials: which material words suit it (subset of `appearance.MATERIALS`).
    """

    noun: str
    build: Callable[[Variation], Prop]
    synonyms: tuple[str, ...] = ()
    materials: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlacedProp:
    """A prop in world units: centred on its bounding box, inside a ball of `OBJECT_RADIUS` round the origin."""

    prop: Prop
    center: Tensor
    scale: float

    def distances(self, positions: Tensor) -> Tensor:
        """[P, N] signed distances in world units."""
        return self.prop.distances(positions / self.scale + self.center) * self.scale

    def distance(self, positions: Tensor) -> Tensor:
        """[N] signed distance to the whole prop."""
        return self.distances(positions).amin(dim=0)


OBJECT_RADIUS = 0.9


def place(prop: Prop, *, search: float = 2.0, cells: int = 56) -> PlacedProp:
    """Centre a prop on its bounding box and scale it.

    The farthest inside point from the box centre comes to `OBJECT_RADIUS`. The extent is measured on a lattice of
    `cells`^3 over [-search, search]^3, refined once inside the first box.
    """
    low, high = torch.full((3,), -search), torch.full((3,), search)
    for _ in range(2):
        axes = [torch.linspace(float(a), float(b), cells) for a, b in zip(low, high)]
        lattice = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
        spacing = (high - low) / (cells - 1)
        inside = lattice[prop.distances(lattice).amin(dim=0) < float(spacing.norm()) / 2]
        if len(inside) == 0:
            raise ValueError("the prop has no inside within the search box")
        low, high = inside.amin(dim=0) - spacing, inside.amax(dim=0) + spacing
    solid = lattice[prop.distances(lattice).amin(dim=0) < 0]
    low, high = solid.amin(dim=0), solid.amax(dim=0)
    center = (low + high) / 2
    radius = float((solid - center).norm(dim=-1).max())
    return PlacedProp(prop, center, OBJECT_RADIUS / max(radius, 1e-3))
