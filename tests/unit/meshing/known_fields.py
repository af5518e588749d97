"""Known shapes as density fields, and what cameras see of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.scene.cameras import Cameras, camera_rays

torch.set_num_threads(1)
Sdf = Callable[[Tensor], Tensor]


def box(p: Tensor, half: tuple[float, float, float]) -> Tensor:
    q = p.abs() - torch.tensor(half)
    return q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0)


def sphere(p: Tensor, center: tuple[float, float, float] = (0, 0, 0), radius: float = 0.6) -> Tensor:
    return (p - torch.tensor(center)).norm(dim=-1) - radius


def torus(p: Tensor) -> Tensor:
    return torch.stack([p[:, :2].norm(dim=-1) - 0.55, p[:, 2]], -1).norm(dim=-1) - 0.2


def table(p: Tensor) -> Tensor:
    legs = torch.stack([p[:, 0].abs() - 0.5, p[:, 1].abs() - 0.4, p[:, 2] + 0.2], -1)
    return torch.minimum(box(p - torch.tensor([0, 0, 0.3]), (0.6, 0.5, 0.06)), box(legs, (0.05, 0.05, 0.5)))


def two(p: Tensor) -> Tensor:
    return torch.minimum(sphere(p, (0.5, 0, 0), 0.3), sphere(p, (-0.45, 0, 0), 0.35))


def shells(p: Tensor) -> Tensor:
    """A ball of radius 0.6 with a cavity of radius 0.4 in which a ball of radius 0.2 floats."""
    return torch.minimum(torch.maximum(sphere(p), -sphere(p, radius=0.4)), sphere(p, radius=0.2))


_REMEMBERED: dict[tuple[object, ...], Tensor] = {}
SHAPES: dict[str, Sdf] = {"sphere": sphere, "torus": torus, "table": table, "two": two, "shells": shells}


@dataclass(frozen=True)
class KnownField:
    """A density that rises from 0 to `peak` over about 4 `softness` round the surface of a signed distance."""

    sdf: Sdf
    peak: float = 80.0
    softness: float = 0.01

    def density_at(self, positions: Tensor) -> Tensor:
        inside_box = (positions.abs() <= 1).all(dim=-1)
        return self.peak * torch.sigmoid(-self.sdf(positions) / self.softness) * inside_box

    def opacity(self, cameras: Cameras, size: int = 48, n_steps: int = 128) -> Tensor:
        """[V, size, size], by brute force; remembered, for several tests ask the same."""
        key = (self, id(cameras), size, n_steps)
        if key not in _REMEMBERED:
            _REMEMBERED[key] = self._opacity(cameras, size, n_steps)
        return _REMEMBERED[key]

    def _opacity(self, cameras: Cameras, size: int, n_steps: int) -> Tensor:
        rays_o, rays_d = camera_rays(cameras, size, size)
        t = torch.linspace(1.6, 4.4, n_steps)
        rows = []
        for o, d in zip(rays_o.split(4096), rays_d.split(4096)):
            positions = o[:, None] + t[:, None] * d[:, None]
            thickness = self.density_at(positions.reshape(-1, 3)).reshape(len(o), -1).sum(dim=1) * (t[1] - t[0])
            rows.append(1 - torch.exp(-thickness))
        return torch.cat(rows).reshape(len(cameras), size, size)


def color_of(positions: Tensor) -> Tensor:
    """A smooth bright color of position, never near black."""
    return 0.6 + 0.3 * torch.sin(3 * positions + torch.tensor([0.0, 1.0, 2.0]))
