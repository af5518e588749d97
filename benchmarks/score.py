"""How good is a generated mesh? Measured against the known prop it should be: silhouettes, names, colour.

Shapes: V views, F faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from benchmarks.classifier import Classifier
from engine.meshing.raster import iou, rasterize, silhouettes
from engine.scene.cameras import Cameras, orbit_cameras
from engine.toybox.appearance import CLAY, COLORS, MATERIALS
from engine.toybox.data import FOV_Y_DEG
from engine.toybox.prop import Variation, place
from engine.toybox.props import KINDS
from engine.toybox.tracer import Buffers, render_buffers

# Eight views: all round a little from above, and one from straight above.
AZIMUTHS_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, 0.0)
ELEVATIONS_DEG = (15.0, 30.0, 15.0, 30.0, 15.0, 30.0, 15.0, 80.0)
RADIUS = 2.95
SIZE_PX = 64
SCALES = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)
N_SHAPES = 8  # draws of the prop's shape, beside its typical one
AMBIENT = 0.5
# What stands behind: the judge looks over each, since over one of them something is always hard to see (clay over gray).
GROUNDS = (0.15, 0.6, 0.95)
# Two colours that nobody would give two names.
SAME_DELTA_E = 5.0


@dataclass(frozen=True)
class Mesh:
    """What result/ holds: vertices [n, 3], faces [F, 3], corner_uvs [F, 3, 2] (origin bottom left), albedo [T, T, 3] in [0, 1]."""

    vertices: np.ndarray
    faces: np.ndarray
    corner_uvs: np.ndarray
    albedo: np.ndarray


@dataclass(frozen=True)
class Score:
    """Attributes:
    iou: mean silhouette IoU of the eight views with the prop, best over scale and the prop's shapes.
    clay_named: share of textureless views in which the judge names the prop.
    named: share of coloured views with the right prop and the right colour.
    delta_e: median CIEDE2000 of the coloured part against the colour that was named; nan if none was.
    """

    iou: float
    clay_named: float
    named: float
    delta_e: float


def read_mesh(result: Path) -> Mesh:
    arrays = np.load(result / "mesh.npz", allow_pickle=False)
    albedo = np.asarray(Image.open(result / "albedo.png").convert("RGB"), dtype=np.float32) / 255
    return Mesh(arrays["vertices"], arrays["faces"], arrays["corner_uvs"], albedo)


def views() -> Cameras:
    n = len(AZIMUTHS_DEG)
    return orbit_cameras(torch.tensor(AZIMUTHS_DEG), torch.tensor(ELEVATIONS_DEG), torch.full((n,), RADIUS), torch.full((n,), FOV_Y_DEG))


def centered(vertices: np.ndarray) -> np.ndarray:
    """Moved so that the bounding box's centre is the origin, as props are."""
    return vertices - (vertices.max(axis=0) + vertices.min(axis=0)) / 2


def draw_views(mesh: Mesh, size: int = SIZE_PX, cameras: Cameras | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Albedo [V, H, W, 3], normals [V, H, W, 3] and opacity [V, H, W] of the mesh, 2 x 2 samples a pixel; from `views()` unless said."""
    raster = rasterize(mesh.vertices, mesh.faces, cameras or views(), 2 * size, 2 * size)
    hit = raster.face >= 0
    face = raster.face[hit]
    uv = np.einsum("nk,nkd->nd", raster.barycentric[hit], mesh.corner_uvs[face])
    side = mesh.albedo.shape[0]
    column = np.clip((uv[:, 0] * side).astype(int), 0, side - 1)
    row = np.clip(((1 - uv[:, 1]) * side).astype(int), 0, side - 1)
    corners = mesh.vertices[mesh.faces]
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    smooth = np.zeros_like(mesh.vertices)
    for corner in range(3):
        np.add.at(smooth, mesh.faces[:, corner], flat)
    normal = np.einsum("nk,nkd->nd", raster.barycentric[hit], smooth[mesh.faces[face]])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True).clip(1e-9)
    layers = np.zeros((*hit.shape, 7), dtype=np.float32)
    layers[hit] = np.concatenate([mesh.albedo[row, column], normal, np.ones((len(face), 1))], axis=-1)
    n = len(hit)
    pooled = torch.from_numpy(layers).view(n, size, 2, size, 2, 7).mean(dim=(2, 4))
    opacity = pooled[..., 6]
    inside = pooled / opacity.clamp_min(1e-6)[..., None]
    return inside[..., :3], torch.nn.functional.normalize(inside[..., 3:6], dim=-1), opacity


def lit(color: Tensor, normals: Tensor, cameras: Cameras) -> Tensor:
    """Pictures [V, H, W, 3] lit from the camera's side and above, as the judge's training pictures are.

    A light that stood still would leave the views from behind at `AMBIENT` alone, where white is gray to anyone.
    """
    toward = torch.nn.functional.normalize(cameras.positions, dim=-1) + torch.tensor([0.0, 0.0, 0.6])
    lambert = torch.einsum("vhwd,vd->vhw", normals, torch.nn.functional.normalize(toward, dim=-1)).clamp_min(0)
    return color * (AMBIENT + (1 - AMBIENT) * lambert)[..., None]


def light_up(color: Tensor, normals: Tensor, opacity: Tensor, cameras: Cameras | None = None) -> list[Tensor]:
    """Lit pictures [V, H, W, 3] over each of `GROUNDS`."""
    bright = lit(color, normals, cameras or views())
    return [bright * opacity[..., None] + ground * (1 - opacity[..., None]) for ground in GROUNDS]


def prop_buffers(noun: str) -> list[Buffers]:
    """The prop as the eight cameras see it: its typical shape, then `N_SHAPES` draws that training never saw."""
    seeds: list[int | None] = [None, *range(10_000_000, 10_000_000 + N_SHAPES)]
    return [render_buffers(place(KINDS[noun].build(Variation(seed))), views(), SIZE_PX, SIZE_PX, supersample=1) for seed in seeds]


def best_iou(vertices: np.ndarray, faces: np.ndarray, props: list[Buffers]) -> tuple[float, Buffers]:
    """Best mean IoU over scale and shapes, and the shape it was reached with."""
    best, which = 0.0, props[0]
    middle = centered(vertices)
    for scale in SCALES:
        drawn = silhouettes(middle * scale, faces, views(), SIZE_PX, SIZE_PX)
        for prop in props:
            known = prop.opacity.numpy() > 0.5
            mean = float(np.mean([iou(a, b) for a, b in zip(drawn, known)]))
            if mean > best:
                best, which = mean, prop
    return best, which


def color_error(albedo: Tensor, opacity: Tensor, prop: Buffers, color: str) -> float:
    """Median CIEDE2000 where both the mesh and the prop's coloured part are seen."""
    part = (prop.tint > 0.9) & (prop.opacity > 0.9) & (opacity > 0.9)
    if not bool(part.any()):
        return float("nan")
    wanted = torch.tensor(COLORS[color]) * prop.shade[part][:, None]
    return float(np.median(deltaE_ciede2000(rgb2lab(albedo[part].clamp(0, 1).numpy()), rgb2lab(wanted.clamp(0, 1).numpy()))))


def is_natural(noun: str, look: str) -> bool:
    """Whether the prop has this look anyway, so that "natural" is as right a name: a golden bell, a pink donut."""
    wanted = COLORS.get(look) or MATERIALS.get(look)
    if wanted is None:
        return False
    tinted = [part for part in KINDS[noun].build(Variation(None)).parts if part.tinted]
    natural = rgb2lab(np.array([part.color for part in tinted]))
    named = rgb2lab(np.array([wanted]) * np.array([[part.shade] for part in tinted]))
    return bool((deltaE_ciede2000(natural, named) < SAME_DELTA_E).all())


def score(mesh: Mesh, noun: str, look: str, judge: Classifier, props: list[Buffers]) -> Score:
    """`look` is a colour word, a material that brings its colour, or "natural"."""
    looks = (look, "natural") if is_natural(noun, look) else (look,)
    mesh = Mesh(centered(mesh.vertices), mesh.faces, mesh.corner_uvs, mesh.albedo)
    match, prop = best_iou(mesh.vertices, mesh.faces, props)
    albedo, normals, opacity = draw_views(mesh)
    clay = judge.name(*light_up(torch.tensor(CLAY).expand_as(albedo), normals, opacity))
    colored = judge.name(*light_up(albedo, normals, opacity))
    n = len(clay)
    return Score(
        iou=match,
        clay_named=sum(found == noun for found, _ in clay) / n,
        named=sum(found == noun and seen in looks for found, seen in colored) / n,
        delta_e=color_error(albedo, opacity, prop, look) if look in COLORS else float("nan"),
    )
