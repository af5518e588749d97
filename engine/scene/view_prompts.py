"""Prompts that say from where the object is seen and how it is lit, embedded once, looked up for every camera.

A diffusion model asked for "a mug" paints its favourite view of it on all sides. So each camera gets the prompt with the
name of its view (DreamFusion, 2209.14988, section 3.2), blended between named views by angle (Magic3D, MVDream's baseline
and Toybox's own training do the same).

Shapes: B cameras, V = 6 views in the order of VIEWS, T tokens, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.scene.view_weights import VIEWS, view_weights

ViewMode = Literal["interpolated", "named"]

# DreamFusion says "overhead view" above 60 degrees whatever the azimuth (2209.14988, section 3.2).
OVERHEAD_DEG = 60.0
FRONT_DEG = 90.0


@dataclass(frozen=True)
class PromptEmbeds:
    """What each image of a batch is asked to be, and what not.

    Attributes:
        text: [B, T, D] float32, embedding of the view prompt.
        negative: [B, T, D] float32, embedding of the negative prompt (of the empty text if there is none).
    """

    text: Tensor
    negative: Tensor

    def __post_init__(self) -> None:
        if self.text.ndim != 3 or self.text.shape != self.negative.shape:
            raise ValueError(f"text and negative must both be [B, T, D], got {list(self.text.shape)} and {list(self.negative.shape)}")

    def __len__(self) -> int:
        return self.text.shape[0]


def compose_prompt(prompt: str, shading_words: str, view_words: str) -> str:
    """'<prompt>[, <shading words>][, <view words>]': "a red mug, unlit, left side view". Empty parts leave no comma."""
    return ", ".join(part for part in (prompt.strip(), shading_words, view_words) if part)


class ViewPrompts:
    """The embeddings of one prompt for every view and every shading, made once so that the text encoder can go.

    Args:
        prompt: what the object is.
        negative: what it is not; may be empty.
        embed: list of P texts to embeddings [P, T, D]; called once here, never later.
        view_words: for each view of VIEWS the words a model knows it by ("left side" -> "side view").
        shading_words: shading name ("albedo", "lambertian", "textureless") to the words for it; names that are missing get none.
        mode: "interpolated" blends the embeddings with `view_weights`, "named" takes the nearest view's alone.
            With view_words that are all "" the prompt says nothing about the view.
        front_deg: "named" only: full width of the front and of the back in azimuth, 0..180; the sides get the rest.
        overhead_deg: "named" only: elevation above which the view is overhead, and below whose negative it is the bottom.
    Raises:
        ValueError: if a view has no words or the mode is unknown.
    """

    def __init__(
        self,
        prompt: str,
        negative: str,
        embed: Callable[[list[str]], Tensor],
        *,
        view_words: Mapping[str, str],
        shading_words: Mapping[str, str],
        mode: ViewMode = "interpolated",
        front_deg: float = FRONT_DEG,
        overhead_deg: float = OVERHEAD_DEG,
    ) -> None:
        missing = [view for view in VIEWS if view not in view_words]
        if missing:
            raise ValueError(f"view_words lacks {', '.join(missing)}")
        if mode not in ("interpolated", "named"):
            raise ValueError(f"mode must be interpolated or named, got {mode!r}")
        self.mode = mode
        self.front_deg, self.overhead_deg = front_deg, overhead_deg
        shadings = {"": "", **shading_words}
        self.texts: dict[str, list[str]] = {
            shading: [compose_prompt(prompt, words, view_words[view]) for view in VIEWS] for shading, words in shadings.items()
        }
        # Views may share words ("side view" twice): each text is embedded once.
        unique = list(dict.fromkeys([negative.strip(), *(text for texts in self.texts.values() for text in texts)]))
        with torch.no_grad():
            embeds = embed(unique).float()
        self._negative = embeds[0]  # [T, D]
        self._views = {
            shading: torch.stack([embeds[unique.index(text)] for text in texts])  # [V, T, D]
            for shading, texts in self.texts.items()
        }

    def weights(self, azimuth_deg: Tensor, elevation_deg: Tensor) -> Tensor:
        """[B, V] float32: how much of each view's embedding a camera gets, rows sum to 1."""
        if self.mode == "interpolated":
            return view_weights(azimuth_deg, elevation_deg)
        turned = torch.remainder(azimuth_deg + 180.0, 360.0) - 180.0  # -180..180
        nearest = torch.where(turned > 0, VIEWS.index("left side"), VIEWS.index("right side"))  # [B]
        nearest = torch.where(turned.abs() <= self.front_deg / 2, VIEWS.index("front"), nearest)
        nearest = torch.where(turned.abs() >= 180.0 - self.front_deg / 2, VIEWS.index("back"), nearest)
        nearest = torch.where(elevation_deg > self.overhead_deg, VIEWS.index("overhead"), nearest)
        nearest = torch.where(elevation_deg < -self.overhead_deg, VIEWS.index("bottom"), nearest)
        return torch.nn.functional.one_hot(nearest, len(VIEWS)).to(dtype=torch.float32)

    def embeds(self, azimuth_deg: Tensor, elevation_deg: Tensor, shading: str = "") -> PromptEmbeds:
        """Embeddings for a batch of cameras that all show the object in one shading.

        Args:
            azimuth_deg, elevation_deg: [B] float32.
            shading: a shading's name; one without words of its own is asked for like plain light.
        """
        views = self._views.get(shading, self._views[""])  # [V, T, D]
        weights = self.weights(azimuth_deg, elevation_deg).to(device=views.device, dtype=views.dtype)
        text = torch.einsum("bv,vtd->btd", weights, views)
        return PromptEmbeds(text, self._negative.expand(len(text), -1, -1))
