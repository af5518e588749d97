"""Triangles in pictures as torch operators: for views of a mesh, for silhouettes, and for UV maps. No gradient: which triangle a pixel
sees is a matter of counting (what changes smoothly is in engine.rendering.surface_pixels).

Tiles of the picture are what a ray is looked up in, in place of a tree over the triangles: all rays of one picture are known, and the
tiles are made by one sort, on the device.
Shapes: F triangles, N fragments, H W pixels. Pixels are counted from the top left; the centre of (column, row) is half a pixel further.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ext.ops import _flat, _implement, _kernels, _library

_TILE = 16
_PIXELS_GRAIN = 4096

_library.define("raster_count(Tensor corners, int height, int width) -> Tensor")
_library.define("raster_fragments(Tensor corners, int height, int width) -> (Tensor, Tensor, Tensor)")
_library.define(
    "raster_nearest(Tensor corners, Tensor depths, int height, int width, bool orthographic, float near) -> (Tensor, Tensor, Tensor)"
)


def raster_count(corners: Tensor, height: int, width: int) -> Tensor:
    """[H * W] int32: how many triangles corners [F, 3, 2] each pixel's centre lies in.

    An edge's pixels belong to one of its two triangles, so neighbours never share one. What is not finite covers nothing.
    Raises: ValueError for another shape or an empty picture.
    """
    _check(corners, height, width)
    counts: Tensor = torch.ops.dreamfusion.raster_count(corners, height, width)
    return counts


def raster_fragments(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """pixel [N] and face [N] int64, in pixel order, and barycentric [N, 3], weights of the corners in the picture plane. Else as above."""
    _check(corners, height, width)
    pixel, face, barycentric = torch.ops.dreamfusion.raster_fragments(corners, height, width)
    return pixel, face, barycentric


def raster_nearest(
    corners: Tensor, depths: Tensor, height: int, width: int, *, orthographic: bool, near: float
) -> tuple[Tensor, Tensor, Tensor]:
    """face [H * W] int64 (-1: none), barycentric [H * W, 3], perspective-correct, and depth [H * W] (inf: none) of the nearest triangles.

    Args:
        depths: [F, 3], distances of the corners from the camera plane. A triangle with one that is not beyond `near` is left out.
    """
    _check(corners, height, width)
    if depths.shape != corners.shape[:2]:
        raise ValueError(f"depths must be {list(corners.shape[:2])}, got {list(depths.shape)}")
    face, barycentric, depth = torch.ops.dreamfusion.raster_nearest(corners, depths, height, width, orthographic, near)
    return face, barycentric, depth


def _check(corners: Tensor, height: int, width: int) -> None:
    if corners.ndim != 3 or corners.shape[1:] != (3, 2) or height < 1 or width < 1:
        raise ValueError(f"corners must be [F, 3, 2] and the picture not empty, got {list(corners.shape)}, {height} x {width}")


def _tiles(corners: Tensor, height: int, width: int, is_drawn: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, int]:
    """first [tiles + 1], members [K] and rows [K, 2], int32, as bodies/raster.h reads them; and the number of indices."""
    device, size = corners.device, corners.new_tensor([width, height, width, height])
    # Only triangles whose box has a pixel centre in it: most of a fine mesh in a small picture have none.
    a, b, c = corners.unbind(dim=1)
    box = torch.cat(
        [torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)], dim=1
    )  # [F, 4], not finite if one is not
    low, high = torch.ceil(box.clamp(min=0).minimum(size) - 0.5).split(2, dim=1)
    meets = (low < high) & (box.abs() < torch.inf).view(-1, 2, 2).all(dim=1)
    meets = meets[:, 0] & meets[:, 1]
    drawn = (meets if is_drawn is None else meets & is_drawn).nonzero()[:, 0]
    first_tile, last_tile = (low[drawn] / _TILE).floor().long(), ((high[drawn] - 1) / _TILE).floor().long()
    n_x, n_y = (last_tile - first_tile + 1).unbind(dim=1)
    across, down = -(-width // _TILE), -(-height // _TILE)
    owner = torch.repeat_interleave(torch.arange(len(drawn), device=device), n_x * n_y)
    place = torch.arange(len(owner), device=device) - ((n_x * n_y).cumsum(0) - n_x * n_y)[owner]
    tile = (first_tile[owner, 1] + place // n_x[owner]) * across + first_tile[owner, 0] + place % n_x[owner]
    order = torch.argsort(tile, stable=True)
    counts = torch.bincount(tile, minlength=across * down)
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
    members = drawn[owner[order]]
    rows = torch.stack([low[:, 1], high[:, 1]], dim=1).int()[members]
    return first, members.int(), rows, across * down * _TILE * _TILE


def _count(corners: Tensor, height: int, width: int) -> Tensor:
    (corners,) = _flat(corners)
    first, members, rows, n = _tiles(corners, height, width)
    counts, kernels = first.new_empty(height * width), _kernels(corners)
    arguments = (corners, first, members, rows, height, width, counts)
    kernels.run("raster_count", corners.dtype, kernels.parts(n, _PIXELS_GRAIN), lambda _part: arguments)
    return counts


def _fragments(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    (corners,) = _flat(corners)
    first, members, rows, n = _tiles(corners, height, width)
    counts, kernels = first.new_empty(height * width), _kernels(corners)
    tiles, parts = (corners, first, members, rows, height, width), kernels.parts(n, _PIXELS_GRAIN)
    kernels.run("raster_count", corners.dtype, parts, lambda _part: (*tiles, counts))
    offsets = counts.cumsum(0, dtype=torch.int32)
    total = int(offsets[-1])
    offsets -= counts
    pixel, face = (counts.new_empty(total, dtype=torch.int64) for _ in range(2))
    barycentric = corners.new_empty(total, 3)
    kernels.run("raster_write", corners.dtype, parts, lambda _part: (*tiles, offsets, pixel, face, barycentric))
    return pixel, face, barycentric


def _nearest(corners: Tensor, depths: Tensor, height: int, width: int, orthographic: bool, near: float) -> tuple[Tensor, Tensor, Tensor]:
    corners, depths = _flat(corners, depths)
    first, members, rows, n = _tiles(corners, height, width, (depths > near).all(dim=1))
    face, kernels = first.new_empty(height * width, dtype=torch.int64), _kernels(corners)
    depth, barycentric = corners.new_empty(height * width), corners.new_empty(height * width, 3)
    arguments = (corners, depths, first, members, rows, height, width, int(orthographic), float("inf"), face, depth, barycentric)
    kernels.run("raster_nearest", corners.dtype, kernels.parts(n, _PIXELS_GRAIN), lambda _part: arguments)
    return face, barycentric, depth


_implement("raster_count", _count)
_implement("raster_fragments", _fragments)
_implement("raster_nearest", _nearest)


@torch.library.register_fake("dreamfusion::raster_count", lib=_library)
def _(corners: Tensor, height: int, width: int) -> Tensor:
    return corners.new_empty(height * width, dtype=torch.int32)


@torch.library.register_fake("dreamfusion::raster_fragments", lib=_library)
def _(corners: Tensor, _height: int, _width: int) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    index = corners.new_empty(total, dtype=torch.int64)
    return index, torch.empty_like(index), corners.new_empty(total, 3)


@torch.library.register_fake("dreamfusion::raster_nearest", lib=_library)
def _(corners: Tensor, _depths: Tensor, height: int, width: int, _orthographic: bool, _near: float) -> tuple[Tensor, Tensor, Tensor]:
    n = height * width
    return corners.new_empty(n, dtype=torch.int64), corners.new_empty(n, 3), corners.new_empty(n)
