"""Two views of one prop in one dress, and the camera's move between them: what an image-conditioned model learns from.

Shapes: B examples, S pixels a side.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.guidance.zero123 import camera_moves
from engine.scene.cameras import Cameras, orbit_cameras
from engine.scene.reference_view import FRAME
from engine.scene.view_weights import VIEWS, view_weights
from engine.toybox.appearance import SHADING_WORDS, SHADINGS, Looks, draw_background, draw_light, paint
from engine.toybox.data import FOV_Y_DEG, VIEWS_PER_SHAPE, load_shard, shard_paths, unpack
from engine.toybox.pictures import Worded
from engine.toybox.prompts import draw_subject, full_prompt
from engine.toybox.props import KINDS

# Lit and unlit, as Toybox's own pictures. Never clay: nothing would tell the model when to paint it.
SHADING_SHARE = (0.5, 0.5)
WHITE = 1.0


@dataclass(frozen=True)
class Pairs:
    """B examples: given [B, S, S, 3] over white, wanted [B, S, S, 3], moves [B, 4] from the first camera to the second.

    `worded` is how Toybox would be asked for the wanted picture.
    """

    given: Tensor
    wanted: Tensor
    moves: Tensor
    worded: list[Worded]


class PairSource:
    """Draws examples from the shards of `engine.toybox.data` in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        self._kinds = list(KINDS.values())
        self._folder = folder
        self._read: dict[Path, dict[str, Tensor]] = {}
        self.refresh()

    def refresh(self) -> int:
        """Read shards that were written meanwhile; returns how many there are. Raises FileNotFoundError if there are none."""
        for path in shard_paths(self._folder):
            if path not in self._read:
                self._read[path] = load_shard(path)
        if not self._read:
            raise FileNotFoundError(f"no shards in {self._folder}; write some with python -m engine.toybox.data --out {self._folder}")
        self.shards = list(self._read.values())
        return len(self.shards)

    def draw(self, n: int) -> Pairs:
        first, second, kinds = self._rows(n)
        subjects = [draw_subject(self._kinds[k], self.rng) for k in kinds]
        nothing = (float("nan"),) * 3
        # A few shades of each color, the same in both pictures, so that the color is taken from the picture.
        tint = torch.tensor([subject.tint or nothing for subject in subjects])
        tint = tint * (1 + 0.05 * torch.randn((n, 1), generator=self.generator)) + 0.02 * torch.randn((n, 3), generator=self.generator)
        pattern = torch.tensor([subject.pattern_index for subject in subjects])
        shares = torch.tensor(SHADING_SHARE)
        wanted_shading = torch.multinomial(shares, n, replacement=True, generator=self.generator)
        given_shading = torch.multinomial(shares, n, replacement=True, generator=self.generator)
        cameras, wanted = self._paint(second, tint, pattern, wanted_shading, draw_background(n, self.generator))
        given_cameras, given = self._paint(first, tint, pattern, given_shading, torch.full((n, 2, 3), WHITE))
        given, given_cameras = framed(given, unpack(first["buffers"])["opacity"], given_cameras)
        moves = camera_moves(cameras, given_cameras, is_stable=False)  # [B, B, 4]
        weights = view_weights(*second["cameras"].unbind(-1)[:2])
        worded = [_words(s.prompt, int(shading), w) for s, shading, w in zip(subjects, wanted_shading, weights)]
        return Pairs(given, wanted, moves.diagonal(dim1=0, dim2=1).T, worded)

    def _rows(self, n: int) -> tuple[dict[str, Tensor], dict[str, Tensor], list[int]]:
        """Two different views each of n shapes, and their kinds. The views of a shape lie side by side in a shard."""
        firsts, seconds, kinds = [], [], []
        for _ in range(n):
            shard = self.rng.choice(self.shards)
            shape = self.rng.randrange(len(shard["kinds"]) // VIEWS_PER_SHAPE)
            one, other = self.rng.sample(range(shape * VIEWS_PER_SHAPE, (shape + 1) * VIEWS_PER_SHAPE), 2)
            firsts.append((shard, one))
            seconds.append((shard, other))
            kinds.append(int(shard["kinds"][one]))
        return _stacked(firsts), _stacked(seconds), kinds

    def _paint(self, rows: dict[str, Tensor], tint: Tensor, pattern: Tensor, shading: Tensor, background: Tensor) -> tuple[Cameras, Tensor]:
        azimuth, elevation, radius = rows["cameras"].unbind(-1)
        cameras = orbit_cameras(azimuth, elevation, radius, torch.full_like(radius, FOV_Y_DEG))
        light, ambient = draw_light(F.normalize(cameras.positions, dim=-1), self.generator)
        return cameras, paint(unpack(rows["buffers"]), Looks(tint, pattern, shading, light, ambient, background))


def _words(prompt: str, shading: int, weights: Tensor) -> Worded:
    words = SHADING_WORDS[SHADINGS[shading]]
    return [(full_prompt(prompt, words, VIEWS[i]), float(w)) for i, w in enumerate(weights) if w > 0]


def _stacked(rows: list[tuple[dict[str, Tensor], int]]) -> dict[str, Tensor]:
    return {name: torch.stack([shard[name][row] for shard, row in rows]) for name in ("buffers", "cameras")}


def framed(images: Tensor, opacity: Tensor, cameras: Cameras) -> tuple[Tensor, Cameras]:
    """The pictures [B, S, S, 3] over white in the frame of `engine.scene.reference_view`, and cameras that see as much as it.

    As a run does, the frame's middle is taken for the middle of the world.
    """
    size = images.shape[1]
    place = (torch.arange(size, device=images.device) + 0.5) / size * 2 - 1  # pixel middles in -1..1
    boxes = []
    for mask in opacity >= 0.5:
        rows, columns = mask.nonzero(as_tuple=True)
        y, x = place[rows], place[columns]
        middle_x, middle_y = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
        half = FRAME * (torch.hypot(x - middle_x, y - middle_y).max() + 1 / size)
        boxes.append(torch.stack([half, middle_x, middle_y]))
    half, middle_x, middle_y = torch.stack(boxes).unbind(-1)
    zero = torch.zeros_like(half)
    transform = torch.stack([torch.stack([half, zero, middle_x], -1), torch.stack([zero, half, middle_y], -1)], 1)  # [B, 2, 3]
    grid = F.affine_grid(transform, [len(images), 3, size, size], align_corners=False)
    darkness = F.grid_sample(WHITE - images.permute(0, 3, 1, 2), grid, align_corners=False)  # outside: 0, which is white
    return (WHITE - darkness).permute(0, 2, 3, 1).clamp(0, 1), Cameras(cameras.camera_to_world, cameras.window * half[:, None])
