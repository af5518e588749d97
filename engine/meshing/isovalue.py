"""Where to cut: the isovalue whose mesh has the silhouettes that the field shows.

A constant isovalue makes objects too thin (fog) or too fat (halo). Here the best one is found in two steps. First, the
silhouette of the set {density > isovalue} is the set of rays whose highest density exceeds it; so one walk along every ray
gives the intersection over union for all isovalues at once. Then real meshes, with their loose pieces removed, are rasterised
and the value is refined by golden section on a logarithmic scale.

Shapes: V views, H W pixels, R = V*H*W rays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import UserError
from engine.meshing.cleanup import solid_pieces
from engine.meshing.isosurface import COARSE_RESOLUTION, MIN_DENSITY, WORLD_BOX, DensityFn, Lattice, sample_lattice, surface_of_lattice
from engine.meshing.raster import iou, silhouettes
from engine.scene.cameras import Cameras, camera_rays

# Isovalues whose silhouettes are this close to the best are as good; the middle of them is the most robust cut.
PLATEAU = 0.002
# Refining looks this factor to either side of the first choice.
REFINE_FACTOR = 2.0
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class IsovalueChoice:
    """isovalue, density per world unit; iou, intersection over union of mesh and field silhouettes over all views, 0..1."""

    isovalue: float
    iou: float


def field_silhouettes(opacity: Tensor) -> NDArray[np.bool_]:
    """opacity [V, H, W] in [0, 1] to bool [V, H, W]: more opaque than half. A field that is thin fog everywhere is measured
    against half of its own highest opacity. UserError if there is nothing to be seen."""
    highest = float(opacity.max())
    if not highest > 0.05:
        raise UserError(
            f"The field is empty: no view is more opaque than {100 * max(highest, 0):.0f} %.",
            "Train for more steps, or start again with another --seed.",
            "empty_field",
        )
    return (opacity > min(0.5, highest / 2)).detach().cpu().numpy()


def highest_log_density(lattice: Lattice, cameras: Cameras, height: int, width: int, *, chunk: int = 8192) -> NDArray[np.float32]:
    """Logarithm of the highest density that each pixel's ray meets: [V, H, W] float32, log(MIN_DENSITY) where it meets none."""
    low = math.log(MIN_DENSITY)
    volume = torch.from_numpy(np.log(np.maximum(lattice.densities, MIN_DENSITY)) - low)[None, None]  # 0 = air, also outside
    corners = torch.from_numpy(lattice.aabb).float()
    rays_o, rays_d = camera_rays(cameras.to("cpu"), height, width)
    inverse = 1 / torch.where(rays_d.abs() < 1e-9, torch.full_like(rays_d, 1e-9), rays_d)
    t0, t1 = (corners[0] - rays_o) * inverse, (corners[1] - rays_o) * inverse
    t_near = torch.minimum(t0, t1).amax(dim=-1).clamp(min=0)  # [R]
    t_far = torch.maximum(t0, t1).amin(dim=-1)
    highest = torch.zeros(len(rays_o))
    hit = (t_far > t_near).nonzero()[:, 0]
    n_steps = 1 + int(math.ceil(float((corners[1] - corners[0]).norm()) / lattice.spacing))
    for part in hit.split(chunk):
        fraction = (torch.arange(n_steps) + 0.5) / n_steps
        t = t_near[part, None] + fraction * (t_far - t_near)[part, None]
        positions = rays_o[part, None] + t[..., None] * rays_d[part, None]
        unit = (positions - corners[0]) / (corners[1] - corners[0]) * 2 - 1
        # grid_sample counts its last axis first
        values = torch.nn.functional.grid_sample(volume, unit.flip(-1)[None, None], align_corners=True, padding_mode="zeros")
        highest[part] = values[0, 0, 0].amax(dim=-1)
    return (highest + low).reshape(len(cameras), height, width).numpy()


def isovalue_from_silhouettes(highest_log: NDArray[np.float32], wanted: NDArray[np.bool_]) -> IsovalueChoice:
    """Best isovalue for rays whose highest log density is known. Both [V, H, W].

    With rays sorted by falling density the k first ones are the silhouette at the k-th density, so their number of hits is a
    running sum: exact for every possible isovalue.
    """
    order = np.argsort(-highest_log, axis=None, kind="stable")
    values = highest_log.reshape(-1)[order].astype(np.float64)
    hits = np.cumsum(wanted.reshape(-1)[order])
    seen = np.arange(1, len(order) + 1)
    curve = hits / (seen + wanted.sum() - hits)
    # Rays of equal density enter together; the cut lies between them and the next.
    last = np.append(values[1:] < values[:-1], False) & (values > math.log(MIN_DENSITY))
    if not last.any():
        raise UserError("The field is the same everywhere, so it has no surface.", "Start again with another --seed.", "empty_field")
    candidates = np.flatnonzero(last)
    scores = curve[candidates]
    best = int(scores.argmax())
    good = scores >= scores[best] - PLATEAU
    start, end = best, best
    while start > 0 and good[start - 1]:
        start -= 1
    while end + 1 < len(candidates) and good[end + 1]:
        end += 1
    upper, lower = values[candidates[start]], max(values[candidates[end] + 1], math.log(MIN_DENSITY))
    return IsovalueChoice(float(np.exp((upper + lower) / 2)), float(scores[best]))


def refine_isovalue(
    score: Callable[[float], float], start: float, *, factor: float = REFINE_FACTOR, n_evaluations: int = 6, tolerance: float = 5e-4
) -> IsovalueChoice:
    """Golden section for the highest score(isovalue) in [start / factor, start * factor], on a logarithmic scale.

    The start is kept unless something scores better by more than `tolerance`: on a plateau its middle is the safest cut.
    """
    best = IsovalueChoice(start, score(start))
    low, high = math.log(start / factor), math.log(start * factor)
    inner, outer = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_inner, at_outer = score(math.exp(inner)), score(math.exp(outer))
    for _ in range(n_evaluations - 3):
        if at_inner >= at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - GOLDEN * (high - low)
            at_inner = score(math.exp(inner))
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + GOLDEN * (high - low)
            at_outer = score(math.exp(outer))
    for place, value in ((inner, at_inner), (outer, at_outer)):
        if value > best.iou + tolerance:
            best = IsovalueChoice(math.exp(place), value)
    return best


def isovalue_of_lattice(
    lattice: Lattice, opacity: Tensor, cameras: Cameras, *, min_component: float = 0.01, n_evaluations: int = 6
) -> IsovalueChoice:
    """Isovalue at which the mesh cut from the lattice has the silhouettes of the field.

    Args:
        opacity: [V, H, W] float32 in [0, 1], the field's opacity through the pixel centres of `cameras` (V of them).
        min_component: as `solid_pieces`; loose pieces do not count.
        n_evaluations: meshes cut to refine; below 3 none are, and the value from the rays is returned.
    Raises: UserError for an empty field.
    """
    wanted = field_silhouettes(opacity)
    _, height, width = wanted.shape
    rough = isovalue_from_silhouettes(highest_log_density(lattice, cameras, height, width), wanted)
    highest = float(lattice.densities.max())
    start = min(rough.isovalue, 0.5 * highest)
    if n_evaluations < 3:
        return IsovalueChoice(start, rough.iou)

    def score(isovalue: float) -> float:
        if isovalue >= highest:
            return 0.0
        vertices, faces = solid_pieces(*surface_of_lattice(lattice, isovalue), min_component=min_component)
        return iou(silhouettes(vertices, faces, cameras, height, width), wanted)

    return refine_isovalue(score, start, n_evaluations=n_evaluations)


def choose_isovalue(
    density_at: DensityFn, opacity: Tensor, cameras: Cameras, *, resolution: int = COARSE_RESOLUTION, device: torch.device | str = "cpu"
) -> IsovalueChoice:
    """`isovalue_of_lattice` for a field given as a callable, sampled with `resolution` cells over the world box."""
    lattice = sample_lattice(density_at, resolution=resolution, aabb=np.array(WORLD_BOX), device=device)
    return isovalue_of_lattice(lattice, opacity, cameras)
