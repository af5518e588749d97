"""Prompts that say from where the object is seen and how it is lit, embedded once, looked up for every camera.

A diffusion model asked for "a mug" paints its favourite view of it on all sides. So each camera gets the prompt with the
name of its view (DreamFusion, 2209.14988, section 3.2), blended between named views by angle (Magic3D, MVDream's baseline
and Toybox's own training do the same).

Shapes: B cameras, V = 6 views in the order of VIEWS, T tokens, D embedding dimension.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.scene.perp_neg_weights import perp_neg_weights
from engine.scene.view_weights import VIEWS, view_weights

ViewMode = Literal["interpolated", "named"]
Role = Literal["text", "empty", "negative", "flawed"]

# DreamFusion says "overhead view" above 60 degrees whatever the azimuth (2209.14988, section 3.2).
OVERHEAD_DEG = 60.0
FRONT_DEG = 90.0


@dataclass(frozen=True)
class PromptEmbeds:
    """What each image of a batch is asked to be, and what not.

    Attributes:
        text: [B, T, D] float32, embedding of the view prompt.
        negative: [B, T, D] float32, embedding of the negative prompt (of the empty text if there is none).
        empty: [B, T, D] float32, embedding of the empty text; the same object as `negative` if there is no negative prompt.
        flawed: [B, T, D] float32, embedding of the view prompt with the flaws that renders have (see SDS-Bridge).
        against: [B, K, T, D] float32, view prompts that the image must keep away from (Perp-Neg).
        against_weights: [B, K] float32, <= 0, how much.
        camera_to_world: [B, 4, 4] float32, from where each image is seen, for models that are told.
    What is None was not embedded, and a method that needs it says so.
    """

    text: Tensor
    negative: Tensor
    empty: Tensor | None = None
    flawed: Tensor | None = None
    against: Tensor | None = None
    against_weights: Tensor | None = None
    camera_to_world: Tensor | None = None

    def __post_init__(self) -> None:
        if self.text.ndim != 3 or self.text.shape != self.negative.shape:
            raise ValueError(f"text and negative must both be [B, T, D], got {list(self.text.shape)} and {list(self.negative.shape)}")
        if (self.against is None) != (self.against_weights is None):
            raise ValueError("against and against_weights go together")

    def __len__(self) -> int:
        return self.text.shape[0]

    def of(self, role: Role) -> Tensor:
        """The embedding [B, T, D] of one role. Raises ValueError if it is missing."""
        embed = getattr(self, role)
        if embed is None:
            raise ValueError(f"the {role} prompt was not embedded")
        return typing.cast(Tensor, embed)


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
        own_texts: for a view of VIEWS the whole text in the place of prompt and view words; "" and missing views take those.
        flaws: words for what distilled renders look like; with them `embeds` has `flawed`.
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
        own_texts: Mapping[str, str] = types.MappingProxyType({}),
        flaws: str = "",
    ) -> None:
        missing = [view for view in VIEWS if view not in view_words]
        if missing:
            raise ValueError(f"view_words lacks {', '.join(missing)}")
        if mode not in ("interpolated", "named"):
            raise ValueError(f"mode must be interpolated or named, got {mode!r}")
        self.mode = mode
        self.front_deg, self.overhead_deg = front_deg, overhead_deg
        shadings = {"": "", **shading_words}

        def text_of(view: str, words: str) -> str:
            own = own_texts.get(view, "")
            return compose_prompt(own, words, "") if own.strip() else compose_prompt(prompt, words, view_words[view])

        self.texts: dict[str, list[str]] = {shading: [text_of(view, words) for view in VIEWS] for shading, words in shadings.items()}
        flawed = {shading: [compose_prompt(text, flaws, "") for text in texts] for shading, texts in self.texts.items()} if flaws else {}
        # Views may share words ("side view" twice): each text is embedded once.
        view_texts = [text for table in (self.texts, flawed) for texts in table.values() for text in texts]
        unique = list(dict.fromkeys([negative.strip(), "", *view_texts]))
        with torch.no_grad():
            embeds = embed(unique).float()
        self._negative = embeds[0]  # [T, D]
        self._empty = embeds[unique.index("")] if negative.strip() else self._negative
        self._views, self._flawed = (
            {shading: torch.stack([embeds[unique.index(text)] for text in texts]) for shading, texts in table.items()}  # [V, T, D]
            for table in (self.texts, flawed)
        )

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

    def embeds(
        self, azimuth_deg: Tensor, elevation_deg: Tensor, shading: str = "", *, perp_neg: float = 0.0, contrast: float = 0.0
    ) -> PromptEmbeds:
        """Embeddings for a batch of cameras that all show the object in one shading.

        Args:
            azimuth_deg, elevation_deg: [B] float32.
            shading: a shading's name; one without words of its own is asked for like plain light.
            perp_neg: multiplies `perp_neg_weights`; 0 asks for no views to keep away from.
            contrast: c of w + c (w - w'), w the views' weights here and w' those on the opposite side: the embedding is
                pushed away from the opposite side's. Nothing at the poles, where there is none.
        """
        views = self._views.get(shading, self._views[""])  # [V, T, D]
        weights = self.weights(azimuth_deg, elevation_deg)
        if contrast:
            weights = weights + contrast * (weights - self.weights(azimuth_deg + 180.0, elevation_deg))
        weights = weights.to(device=views.device, dtype=views.dtype)
        n = len(weights)
        negative = self._negative.expand(n, -1, -1)
        against, against_weights = None, None
        if perp_neg:
            is_left = torch.remainder(azimuth_deg, 360.0) < 180.0
            side = torch.where(is_left, VIEWS.index("left side"), VIEWS.index("right side")).to(device=views.device)
            against = torch.stack([views[VIEWS.index("front")].expand(n, -1, -1), views[side]], dim=1)  # [B, 2, T, D]
            against_weights = perp_neg * perp_neg_weights(azimuth_deg, elevation_deg).to(device=views.device)
        return PromptEmbeds(
            text=torch.einsum("bv,vtd->btd", weights, views),
            negative=negative,
            empty=negative if self._empty is self._negative else self._empty.expand(n, -1, -1),
            flawed=torch.einsum("bv,vtd->btd", weights, self._flawed.get(shading, self._flawed[""])) if self._flawed else None,
            against=against,
            against_weights=against_weights,
        )
