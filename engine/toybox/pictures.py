"""Training pictures: shards of buffers, dressed at random, with the prompt that describes each."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.scene.cameras import orbit_cameras
from engine.scene.view_weights import VIEWS, view_weights
from engine.toybox.appearance import COLORS, MATERIALS, SHADING_WORDS, SHADINGS, Looks, draw_background, draw_light, paint
from engine.toybox.data import FOV_Y_DEG, load_shard, shard_paths, unpack
from engine.toybox.prompts import draw_subject, full_prompt
from engine.toybox.props import KINDS

SHADING_SHARE = (0.5, 0.35, 0.15)  # lit, unlit, clay
NO_VIEW_SHARE = 0.08
NO_PROMPT_SHARE = 0.1

# Thin parts (legs, handles, poles, blades) are learnt last, so what has them is shown more often. 1 for every other kind.
SHOWN_MORE = {
    **dict.fromkeys(("chair",), 3.0),
    **dict.fromkeys(("mug", "table", "stool", "lamp", "teapot", "key", "sword", "hat", "shield"), 2.0),
}

# Seen from above many props are but a disc, and few views are: what little tells them apart there needs more showing.
SHOWN_MORE_FROM_ABOVE = 2.0
ABOVE_DEG = 50.0

LOOKS = ("natural", *COLORS, *MATERIALS)
"""What a picture's colour can be, for a judge to name."""

Worded = list[tuple[str, float]]
"""The prompts of one picture and the weight of each prompt's embedding; weights sum to 1."""


@dataclass(frozen=True)
class Batch:
    images: Tensor  # [B, H, W, 3] in [0, 1]
    worded: list[Worded]
    kinds: Tensor  # [B] index into KINDS
    looks: Tensor  # [B] 0 natural, then COLORS, then MATERIALS; -1 where nothing of it is seen (clay)


class Pictures:
    """Draws batches from the shards in a folder; `refresh` takes in shards that were written meanwhile."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        self._read: list[Path] = []
        self._shards: list[dict[str, Tensor]] = []
        self.refresh()

    def refresh(self) -> int:
        """Read new shards; returns how many views there are in all."""
        for path in shard_paths(self.folder):
            if path not in self._read:
                self._read.append(path)
                self._shards.append(load_shard(path))
        if not self._shards:
            raise FileNotFoundError(f"no shards in {self.folder}; write some with python -m engine.toybox.data --out {self.folder}")
        self._kinds = list(KINDS.values())
        shown = torch.tensor([SHOWN_MORE.get(noun, 1.0) for noun in KINDS])
        kinds = torch.cat([shard["kinds"].long() for shard in self._shards])
        elevation = torch.cat([shard["cameras"][:, 1] for shard in self._shards])
        self._weights = shown[kinds] * torch.where(elevation >= ABOVE_DEG, SHOWN_MORE_FROM_ABOVE, 1.0)
        return len(kinds)

    def _rows(self, n: int) -> dict[str, Tensor]:
        starts = torch.tensor([0, *(len(shard["kinds"]) for shard in self._shards)]).cumsum(0)
        chosen = torch.multinomial(self._weights, n, replacement=True, generator=self.generator)
        which = torch.searchsorted(starts, chosen, right=True) - 1
        rows = [(self._shards[int(w)], int(row - starts[w])) for w, row in zip(which, chosen)]
        return {name: torch.stack([shard[name][row] for shard, row in rows]) for name in ("buffers", "cameras", "kinds")}

    def draw(self, n: int, *, shading: str | None = None) -> Batch:
        """n pictures of random props, looks, views. `shading` fixes how all are shaded."""
        rows = self._rows(n)
        kinds = [self._kinds[int(k)] for k in rows["kinds"]]
        subjects = [draw_subject(kind, self.rng) for kind in kinds]
        shares = torch.tensor(SHADING_SHARE)
        modes = torch.multinomial(shares, n, replacement=True, generator=self.generator)
        if shading is not None:
            modes = torch.full((n,), SHADINGS.index(shading))
        azimuth, elevation, radius = rows["cameras"].unbind(-1)
        toward = orbit_cameras(azimuth, elevation, radius, torch.full_like(radius, FOV_Y_DEG)).positions
        light, ambient = draw_light(torch.nn.functional.normalize(toward, dim=-1), self.generator)
        nothing = (float("nan"),) * 3
        # A few shades of each colour word, so that "red" is a small region and not one value.
        tint = torch.tensor([subject.tint or nothing for subject in subjects])
        tint = tint * (1 + 0.05 * torch.randn((n, 1), generator=self.generator)) + 0.015 * torch.randn((n, 3), generator=self.generator)
        looks = Looks(
            tint=tint,
            pattern=torch.tensor([subject.pattern_index for subject in subjects]),
            shading=modes,
            light_direction=light,
            ambient_ratio=ambient,
            background=draw_background(n, self.generator),
        )
        images = paint(unpack(rows["buffers"]), looks)
        weights = view_weights(azimuth, elevation)
        worded = [self._word(s.prompt, SHADING_WORDS[SHADINGS[int(m)]], w) for s, m, w in zip(subjects, modes, weights)]
        return Batch(images, worded, rows["kinds"], torch.where(modes == 2, -1, torch.tensor([LOOKS.index(s.look) for s in subjects])))

    def _word(self, prompt: str, shading_words: str, weights: Tensor) -> Worded:
        if self.rng.random() < NO_PROMPT_SHARE:
            return [("", 1.0)]
        if self.rng.random() < NO_VIEW_SHARE:
            return [(full_prompt(prompt, shading_words, None), 1.0)]
        return [(full_prompt(prompt, shading_words, VIEWS[i]), float(w)) for i, w in enumerate(weights) if w > 0]
