"""CLIP R-Precision (DreamFusion, 2209.14988, section 4): in which share of its views does CLIP find an object's own prompt in the list?

For free prompts, whose objects nobody knows. In color, and textureless, which only the shape can pass. Views at 30 degrees of
elevation all round, over each of the grounds of `benchmarks.score`.

Shapes: P prompts, V pictures, D features.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.guidance.loading import loading_errors, weights_of  # isort: skip - before transformers, see there

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from benchmarks.main_job import generate
from benchmarks.score import RADIUS, Mesh, centered, draw_views, light_up, read_mesh
from engine.errors import UserError
from engine.scene.cameras import Cameras, orbit_cameras
from engine.toybox.appearance import CLAY
from engine.toybox.data import FOV_Y_DEG

ELEVATION_DEG, N_AZIMUTHS = 30.0, 12
# Mean and spread of the colors that every CLIP of OpenAI was trained on.
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# What people ask for who try such programs out: a thing, sometimes with a material or doing something.
FREE_PROMPTS = (
    "a corgi",
    "a hamburger",
    "a pineapple",
    "a red sports car",
    "a wooden treasure chest",
    "a knight's helmet made of steel",
    "a small castle",
    "a frog wearing a sweater",
    "a bonsai tree in a pot",
    "a ripe strawberry",
    "a vintage typewriter",
    "a blue and white porcelain teapot",
    "an astronaut",
    "a stack of pancakes with syrup",
    "a cactus",
    "a leather armchair",
)


class ClipJudge:
    """A CLIP from a folder (tokenizer files, config.json and safetensors in it), frozen. Raises UserError, code "model"."""

    def __init__(self, root: Path, device: torch.device | str = "cpu") -> None:
        if not (root / "config.json").is_file():
            raise UserError(f"{root} is no CLIP: it has no config.json.", "Give the folder of a CLIP with safetensors.", "model")
        with loading_errors(root):
            model: Any = CLIPModel.from_pretrained(root, **weights_of(root, torch.float32))
            self._tokenizer = CLIPTokenizer.from_pretrained(root, local_files_only=True)
        self._model = model.to(device=device).eval().requires_grad_(False)
        self._device = device
        self.size_px = int(model.config.vision_config.image_size)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[P, D] float32, of length 1."""
        tokens = self._tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(self._device)
        found = self._model.text_projection(self._model.text_model(**tokens).pooler_output)
        return torch.nn.functional.normalize(found, dim=-1).cpu()

    @torch.no_grad()
    def pictures(self, images: Tensor) -> Tensor:
        """[V, D] float32, of length 1, of pictures [V, H, W, 3] in [0, 1] of `size_px` pixels a side."""
        pixels = ((images - torch.tensor(MEAN)) / torch.tensor(SPREAD)).permute(0, 3, 1, 2).to(self._device)
        found = [self._model.visual_projection(self._model.vision_model(pixel_values=part).pooler_output) for part in pixels.split(12)]
        return torch.nn.functional.normalize(torch.cat(found), dim=-1).cpu()


def r_precision(pictures: Tensor, texts: Tensor, own: int) -> float:
    """Share of the pictures [V, D] to which text `own` of texts [P, D] is the nearest."""
    return float(((pictures @ texts.T).argmax(dim=-1) == own).float().mean())


@dataclass(frozen=True)
class FreeRun:
    """One run on a free prompt. color, clay: R-Precision in 0..1, None if no mesh came out."""

    prompt: str
    wall_s: float
    peak_gb: float
    color: float | None
    clay: float | None
    restarts: int


def ring() -> Cameras:
    azimuths = torch.arange(N_AZIMUTHS) * 360.0 / N_AZIMUTHS
    return orbit_cameras(azimuths, *(torch.full((N_AZIMUTHS,), value) for value in (ELEVATION_DEG, RADIUS, FOV_Y_DEG)))


def pictures_of(mesh: Mesh, size_px: int) -> tuple[Tensor, Tensor]:
    """Colored and textureless pictures [V, H, W, 3], each view over every ground."""
    cameras = ring()
    albedo, normals, opacity = draw_views(Mesh(centered(mesh.vertices), mesh.faces, mesh.corner_uvs, mesh.albedo), size_px, cameras)
    clay = torch.tensor(CLAY).expand_as(albedo)
    colored, textureless = (torch.cat(light_up(color, normals, opacity, cameras)) for color in (albedo, clay))
    return colored, textureless


def run_free(prompts: Sequence[str], own: int, seed: int, folder: Path, preset: str, options: list[str], judge: ClipJudge) -> FreeRun:
    """Run the engine on prompt `own`, or take what is there, and ask the judge which of the prompts it is."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompts[own].lower()).strip("-")[:60]
    out, measured = folder / f"{slug}-{seed}", folder / f"{slug}-{seed}.json"
    result = out / "result"
    if not (result / "result.json").exists():
        wall, peak = generate(prompts[own], seed, preset, out, options)
        measured.write_text(json.dumps({"wall_s": wall, "peak_gb": peak}), encoding="utf-8")
    cost = json.loads(measured.read_text(encoding="utf-8"))
    if not (result / "result.json").exists():
        return FreeRun(prompts[own], cost["wall_s"], cost["peak_gb"], None, None, 0)
    texts = judge.texts(prompts)
    color, clay = (r_precision(judge.pictures(images), texts, own) for images in pictures_of(read_mesh(result), judge.size_px))
    restarts = json.loads((result / "result.json").read_text(encoding="utf-8"))["restarts"]
    return FreeRun(prompts[own], cost["wall_s"], cost["peak_gb"], color, clay, restarts)


def free_table(rows: dict[str, list[FreeRun]]) -> str:
    """Markdown. R-Precision counts a run without a mesh as found in no view."""
    names = ("method", "CLIP R-Precision", "textureless", "collapsed", "restarted", "s", "GB")
    lines = ["| " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) - 1)]
    for name, runs in rows.items():
        cells = (
            f"{100 * statistics.mean(run.color or 0.0 for run in runs):.1f} %",
            f"{100 * statistics.mean(run.clay or 0.0 for run in runs):.1f} %",
            f"{100 * statistics.mean(run.color is None for run in runs):.0f} %",
            f"{100 * statistics.mean(run.restarts > 0 for run in runs):.0f} %",
            f"{statistics.median(run.wall_s for run in runs):.0f}",
            f"{max(run.peak_gb for run in runs):.2f}",
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
