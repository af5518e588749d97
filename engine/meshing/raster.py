"""A triangle rasteriser: which pixel centre lies in which triangle, exactly once. By a kernel where there is one
(`cuda_ext/ops_raster.py`), else by its twin here in numpy.

The twin cuts every triangle into rows, every row into a span of pixels; both steps are one `repeat`, so there is no loop over
triangles or pixels. An edge shared by two triangles is intersected with a row by the same floating-point operations for
both (from its lower end to its higher one), and spans are half open, so a pixel centre belongs to exactly one of them.
That makes the same code good for three things: silhouettes, z-buffered views of a mesh, and UV maps, where a texel that is
covered twice is a true overlap.

Shapes: V cameras, F triangles, N fragments, H W pixels. Pixels are counted from the top left; the centre of pixel
(column, row) is (column + 0.5, row + 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cuda_ext import ops
from cuda_ext.ops_raster import raster_count, raster_fragments, raster_nearest
from engine.rendering import surface_pixels
from engine.scene.cameras import Cameras

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]
BoolArray = NDArray[np.bool_]

# A corner nearer than this to the camera plane cannot be projected; its triangle is left out (cameras stand outside).
NEAR = 1e-3


@dataclass(frozen=True)
class Fragments:
    """Pixel centres covered by triangles, those of one pixel in the order of the triangles.

    Attributes:
        pixel: [N] int64, row * width + column.
        face: [N] int64, index of the covering triangle.
        barycentric: [N, 3] float64 in [0, 1], weights of the three corners in the picture plane, summing to 1.
    """

    pixel: IntArray
    face: IntArray
    barycentric: FloatArray


@dataclass(frozen=True)
class Raster:
    """What each pixel of V pictures sees.

    Attributes:
        face: [V, H, W] int64, nearest triangle, -1 for none.
        barycentric: [V, H, W, 3] float32, perspective-correct weights of its corners, 0 where none.
        depth: [V, H, W] float32, distance along the viewing axis in world units, inf where none.
    """

    face: IntArray
    barycentric: FloatArray
    depth: FloatArray


def _ranges(starts: IntArray, counts: IntArray) -> tuple[IntArray, IntArray]:
    """For n ranges (start, count): index of the range, and the running value, of each of their members."""
    owner = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return owner, np.arange(len(owner)) - first[owner] + starts[owner]


def _edge_x(low: FloatArray, high: FloatArray, y: FloatArray) -> FloatArray:
    """Where the line from low to high [N, 2] crosses y [N]. Both triangles at an edge name its lower end first."""
    rise = high[:, 1] - low[:, 1]
    return low[:, 0] + (y - low[:, 1]) * (high[:, 0] - low[:, 0]) / np.where(rise == 0, 1.0, rise)


def _spans(corners: FloatArray, height: int, width: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Cut triangles [F, 3, 2] into pixel rows: (face, row, first column, number of columns), all [n]."""
    ya, yb, yc = corners[:, 0, 1], corners[:, 1, 1], corners[:, 2, 1]
    first_row = np.ceil(np.clip(np.minimum(np.minimum(ya, yb), yc), 0, height) - 0.5).astype(np.int64)
    end_row = np.ceil(np.clip(np.maximum(np.maximum(ya, yb), yc), 0, height) - 0.5).astype(np.int64)
    # Most triangles of a fine mesh in a small picture meet no row at all: leave them before anything costly.
    met = np.flatnonzero(end_row > first_row)
    owner, row = _ranges(first_row[met], (end_row - first_row)[met])
    center = row + 0.5
    kept = corners[met]
    order = np.argsort(kept[:, :, 1], axis=1, kind="stable")
    low, mid, high = (kept[np.arange(len(met)), order[:, i]][owner] for i in range(3))
    face = met[owner]
    # Rows are half open upwards: a row through the middle corner belongs to the upper edge.
    lower = center < mid[:, 1]
    x_long = _edge_x(low, high, center)
    x_short = _edge_x(np.where(lower[:, None], low, mid), np.where(lower[:, None], mid, high), center)
    first = np.ceil(np.clip(np.minimum(x_long, x_short), 0, width) - 0.5).astype(np.int64)
    end = np.ceil(np.clip(np.maximum(x_long, x_short), 0, width) - 0.5).astype(np.int64)
    keep = end > first
    return face[keep], row[keep], first[keep], (end - first)[keep]


def covered_pixels(corners: FloatArray, height: int, width: int) -> tuple[IntArray, IntArray]:
    """Pixel centres inside triangles, without barycentrics.

    Args:
        corners: [F, 3, 2] float64, x and y in pixels from the top left; either winding, degenerate ones cover nothing.
    Returns:
        pixel [N] and face [N], int64. Neighbours never share a pixel; triangles that overlap do.
    """
    found = triangle_fragments(corners, height, width)
    return found.pixel, found.face


def triangle_fragments(corners: FloatArray, height: int, width: int) -> Fragments:
    """Like `covered_pixels`, with barycentric weights in the picture plane."""
    given = _exact(corners)
    if not ops.serves(given):
        return _fragments_twin(given.numpy(), height, width)
    pixel, face, barycentric = raster_fragments(given, height, width)
    return Fragments(pixel.numpy(), face.numpy(), barycentric.numpy())


def _exact(numbers: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers, np.float64))


def _covered_twin(corners: FloatArray, height: int, width: int) -> tuple[IntArray, IntArray]:
    face, row, first, count = _spans(corners, height, width)
    span, column = _ranges(first, count)
    return row[span] * width + column, face[span]


def _fragments_twin(corners: FloatArray, height: int, width: int) -> Fragments:
    """What the kernel does, in numpy."""
    pixel, face = _covered_twin(corners, height, width)
    a, b, c = (corners[face, i] for i in range(3))
    p = np.stack([pixel % width + 0.5, pixel // width + 0.5], axis=1)
    u, v, w = b - a, c - a, p - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = np.where(area == 0, 1.0, area)
    wb = (w[:, 0] * v[:, 1] - w[:, 1] * v[:, 0]) / area
    wc = (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]) / area
    # Rounding can push a centre on an edge a hair outside; needle triangles amplify that.
    barycentric = np.clip(np.stack([1 - wb - wc, wb, wc], axis=1), 0, 1)
    return Fragments(pixel, face, barycentric / barycentric.sum(axis=1, keepdims=True))


def project(vertices: FloatArray, cameras: Cameras, height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Pixel coordinates [V, n, 2] float64 (from the top left) and depths [V, n] of points [n, 3] in world space."""
    camera_to_world = cameras.camera_to_world.detach().cpu().numpy().astype(np.float64)
    window = cameras.window.detach().cpu().numpy().astype(np.float64)
    rotation, position = camera_to_world[:, :3, :3], camera_to_world[:, :3, 3]
    local = np.einsum("vnj,vjk->vnk", np.asarray(vertices, np.float64)[None] - position[:, None], rotation)
    depth = -local[:, :, 2]
    plane = local[:, :, :2] if cameras.orthographic else local[:, :, :2] / np.maximum(depth, NEAR)[:, :, None]
    left, right, bottom, top = (window[:, i, None] for i in range(4))
    x = (plane[:, :, 0] - left) / (right - left) * width
    y = (plane[:, :, 1] - top) / (bottom - top) * height
    return np.stack([x, y], axis=-1), depth


def silhouettes(vertices: FloatArray, faces: IntArray, cameras: Cameras, height: int, width: int) -> BoolArray:
    """Where each camera sees the mesh: [V, H, W] bool. vertices [n, 3], faces [F, 3]."""
    pixels, depth = project(vertices, cameras, height, width)
    result = np.zeros((len(cameras), height * width), dtype=bool)
    for view in range(len(cameras)):
        corners = _exact(pixels[view][faces[(depth[view][faces] > NEAR).all(axis=1)]])
        if ops.serves(corners):
            result[view] = raster_count(corners, height, width).numpy() > 0
        else:
            result[view, _covered_twin(corners.numpy(), height, width)[0]] = True
    return result.reshape(-1, height, width)


def rasterize(vertices: FloatArray, faces: IntArray, cameras: Cameras, height: int, width: int) -> Raster:
    """Nearest triangle and its weights for every pixel. vertices [n, 3] in world space, faces [F, 3]; both sides are drawn."""
    pixels, depths = project(vertices, cameras, height, width)
    views = [_nearest(_exact(pixels[v][faces]), _exact(depths[v][faces]), height, width, cameras.orthographic) for v in range(len(cameras))]
    face, barycentric, depth = (np.stack([view[k] for view in views]) for k in range(3))
    shape = (len(cameras), height, width)
    barycentric = barycentric.astype(np.float32).reshape(*shape, 3)
    return Raster(face.reshape(shape), barycentric, depth.astype(np.float32).reshape(shape))


def seen_triangles(vertices: Tensor, faces: Tensor, cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """face [V, H, W] int64 (-1: none) and depth [V, H, W] (inf: none) as of `rasterize`, where the vertices [n, 3] are: a mesh on a GPU
    stays there. Without gradient."""
    if not ops.serves(vertices):
        found = rasterize(vertices.detach().cpu().numpy(), faces.cpu().numpy(), cameras.to("cpu"), height, width)
        return torch.from_numpy(found.face).to(vertices.device), torch.from_numpy(found.depth).to(vertices.device)
    # A GPU computes in what its kernels are compiled for already.
    exact = vertices.detach().to(torch.float64 if vertices.device.type == "cpu" else torch.float32)
    projection = surface_pixels.project(exact, cameras, height, width)
    views = [
        raster_nearest(pixels[faces], depths[faces], height, width, orthographic=cameras.orthographic, near=NEAR)
        for pixels, depths in zip(projection.pixels, projection.depths)
    ]
    shape = (len(cameras), height, width)
    face, depth = torch.stack([view[0] for view in views]), torch.stack([view[2] for view in views])
    return face.reshape(shape), depth.to(vertices.dtype).reshape(shape)


def _nearest(corners: Tensor, depths: Tensor, height: int, width: int, orthographic: bool) -> tuple[IntArray, FloatArray, FloatArray]:
    """face [H * W], barycentric [H * W, 3] and depth [H * W] of one picture."""
    if not ops.serves(corners):
        return _nearest_twin(corners.numpy(), depths.numpy(), height, width, orthographic)
    face, barycentric, depth = raster_nearest(corners, depths, height, width, orthographic=orthographic, near=NEAR)
    return face.numpy(), barycentric.numpy(), depth.numpy()


def _nearest_twin(
    corners: FloatArray, depths: FloatArray, height: int, width: int, orthographic: bool
) -> tuple[IntArray, FloatArray, FloatArray]:
    """What the kernel does, in numpy."""
    face = np.full(height * width, -1, dtype=np.int64)
    barycentric, depth = np.zeros((height * width, 3)), np.full(height * width, np.inf)
    kept = np.flatnonzero((depths > NEAR).all(axis=1))
    found = _fragments_twin(corners[kept], height, width)
    corner_depth = depths[kept[found.face]]  # [N, 3]
    if orthographic:
        weights = found.barycentric
        fragment_depth = (weights * corner_depth).sum(axis=1)
    else:  # 1/depth is what varies linearly over the picture
        inverse = found.barycentric / corner_depth
        fragment_depth = 1 / inverse.sum(axis=1)
        weights = inverse * fragment_depth[:, None]
    # Far to near: of several writes to one pixel numpy keeps the last.
    order = np.argsort(-fragment_depth, kind="stable")
    target = found.pixel[order]
    face[target] = kept[found.face[order]]
    barycentric[target] = weights[order]
    depth[target] = fragment_depth[order]
    return face, barycentric, depth


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two boolean arrays of one shape; 1 if both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0
