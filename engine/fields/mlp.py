"""Small networks whose weights are drawn from a generator of ours, not from the global one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from engine.fields.frequency import waves
from engine.fields.spherical_harmonics import harmonics

_BANDS = 4
_BACKGROUND_WIDTH = 32


def make_linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer, weights uniform in +-1/sqrt(n_in) as torch has them by default, biases zero."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out, device=generator.device)
    with torch.no_grad():
        layer.weight.uniform_(-1.0 / math.sqrt(n_in), 1.0 / math.sqrt(n_in), generator=generator)
        layer.bias.zero_()
    return layer


def make_network(n_in: int, width: int, depth: int, n_out: int, generator: torch.Generator) -> nn.Sequential:
    """`depth` hidden layers of `width` with ReLU between an input [M, n_in] and an output [M, n_out] of any sign."""
    layers: list[nn.Module] = []
    for n in (n_in, *[width] * (depth - 1)):
        layers += [make_linear(n, width, generator), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, make_linear(width, n_out, generator))


class DirectionNetwork(nn.Module):
    """Unit directions [R, 3] to colors [R, 3] in (0, 1): an encoding, one hidden layer. DreamFusion's background.

    Args:
        degree: encode by spherical harmonics below this degree, 1..8, as threestudio's neural-environment-map; 0: by frequency bands.
    """

    def __init__(self, generator: torch.Generator, degree: int = 0) -> None:
        super().__init__()
        self.degree = degree
        self.hidden = make_linear(degree**2 or 3 + 6 * _BANDS, _BACKGROUND_WIDTH, generator)
        self.out = make_linear(_BACKGROUND_WIDTH, 3, generator)

    def forward(self, directions: Tensor) -> Tensor:
        features = harmonics(directions, self.degree) if self.degree else waves(directions, (1.0,) * _BANDS)
        return torch.sigmoid(self.out(torch.relu(self.hidden(features))))
