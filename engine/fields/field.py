"""The radiance field: position -> density and albedo, its normals, and the surrounding behind it.

Shapes: M positions, R directions, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ext import ops, ops_table
from engine.fields.activations import ACTIVATIONS, BLOBS, MIST, OWN_BLOB
from engine.fields.dense_grid import DenseGrid, as_table, read_table
from engine.fields.encodings import ENCODINGS
from engine.fields.field_config import FieldConfig
from engine.fields.frequency import FrequencyEncoding
from engine.fields.grid_variation import total_variation
from engine.fields.hash_grid import HashGrid
from engine.fields.mlp import DirectionNetwork, make_linear, make_network
from engine.fields.trilinear import central_differences

# The corners of a tetrahedron: four looks instead of six give the gradient up to second order (iq, "normals for an SDF").
_TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))
_FINITE_DIFFERENCE = 0.01
# Steps of a grid's entries may be larger than those of a network's weights (stable-dreamfusion, threestudio).
_ENCODING_RATE = 10.0
# What stands there at the start shall be the blob in gray, not the network's own random lumps.
_QUIET = 0.01

T = TypeVar("T")


class FieldSamples(NamedTuple):
    """densities [M] >= 0 per world unit, albedo [M, 3] in (0, 1), normals [M, 3] unit outward or None."""

    densities: Tensor
    albedo: Tensor
    normals: Tensor | None


class RadianceField(nn.Module):
    """Density and color in [-1, 1]^3.

    density = activation(density_scale * raw + blob(x)), albedo = sigmoid(raw color); no view dependence (DreamFusion).
    """

    def __init__(self, config: FieldConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.encoding = ENCODINGS[config.encoding](config, generator)
        self.decoder: nn.Sequential | nn.Linear | nn.Identity = nn.Identity()
        if config.hidden_width > 0:
            self.decoder = make_network(self.encoding.n_features, config.hidden_width, config.hidden_layers, 4, generator)
            if isinstance(self.encoding, FrequencyEncoding):  # a grid starts near zero by itself, waves do not
                with torch.no_grad():
                    for parameter in self.decoder[-1].parameters():
                        parameter.mul_(_QUIET)
        elif not isinstance(self.encoding, DenseGrid):
            self.decoder = make_linear(self.encoding.n_features, 4, generator)
        harmonics_degree = config.background_degree if config.background_encoding == "spherical-harmonics" else 0
        self.background_network = DirectionNetwork(generator, harmonics_degree)
        self._blob_shape = OWN_BLOB[config.activation] if config.blob == "auto" else config.blob
        self._blob = BLOBS[config.activation, self._blob_shape]
        self._frozen: dict[str, Any] | None = None

    @property
    def max_level(self) -> float:
        """Fraction of the encoding's levels that is open, 0..1."""
        return self.encoding.max_level

    @max_level.setter
    def max_level(self, fraction: float) -> None:
        self.encoding.max_level = fraction

    @property
    def is_direct(self) -> bool:
        """True if the grid holds density and color themselves, without a network: then its derivative is closed form."""
        return isinstance(self.decoder, nn.Identity)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within this block parameters do not change, so what depends on them alone is computed once."""
        outer = self._frozen
        if outer is None or outer.get("with_grad") != torch.is_grad_enabled():
            self._frozen = {"with_grad": torch.is_grad_enabled()}
        try:
            yield
        finally:
            self._frozen = outer

    def density(self, positions: Tensor) -> Tensor:
        """Densities [M] >= 0 per world unit at positions [M, 3]; 0 outside [-1, 1]^3. Differentiable in both."""
        if self._has_kernel(positions):
            return self._from_kernel(positions, with_normals=False).densities
        return self._density_of(self._raw(positions)[:, 0], positions)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Densities [M] and albedo [M, 3] in (0, 1) at positions [M, 3]."""
        if self._has_kernel(positions):
            return self._from_kernel(positions, with_normals=False)[:2]
        raw = self._raw(positions)
        return self._density_of(raw[:, 0], positions), torch.sigmoid(raw[:, 1:4])

    def evaluate(self, positions: Tensor, *, with_normals: bool) -> FieldSamples:
        """Everything about positions [M, 3] in one look. Normals are differentiable in the parameters."""
        if not with_normals:
            return FieldSamples(*self.forward(positions), None)
        if self.is_direct and self.config.normals == "analytic":
            if self._has_kernel(positions):
                return self._from_kernel(positions, with_normals=True)
            both = self._read(positions, with_gradient=True)  # [M, 7]
            gradient = both[:, 4:7] + self._blob_gradient(positions)
            return FieldSamples(self._density_of(both[:, 0], positions), torch.sigmoid(both[:, 1:4]), _outward(gradient))
        return FieldSamples(*self.forward(positions), self.normals(positions, create_graph=torch.is_grad_enabled()))

    def normals(self, positions: Tensor, *, create_graph: bool) -> Tensor:
        """Unit outward normals [M, 3], -grad of density, at positions [M, 3]; zero where the density is flat.

        Args:
            create_graph: keep the normals differentiable in the parameters.
        """
        with torch.set_grad_enabled(create_graph):
            if self.config.normals == "finite_difference":
                return _outward(self._finite_difference(positions))
            if self.is_direct:
                return _outward(self._read(positions, with_gradient=True)[:, 4:7] + self._blob_gradient(positions))
        with torch.enable_grad():
            if isinstance(self.encoding, HashGrid) and ops.serves(positions):
                outward = _outward(self._hash_gradient(positions, create_graph) + self._blob_gradient(positions))
                return outward if create_graph else outward.detach()
            at = positions.detach().requires_grad_()
            raw = self._logit(self._raw(at)[:, 0], at)
            (gradient,) = torch.autograd.grad(raw.sum(), at, create_graph=create_graph)
        return _outward(gradient)

    def background(self, directions: Tensor) -> Tensor:
        """Color [R, 3] in (0, 1) of the learned surrounding in unit directions [R, 3]."""
        return self.background_network(directions)

    def grid_variation(self, positions: Tensor) -> Tensor:
        """How much the grid's features differ between neighbouring points at places [M, 3], see `total_variation`; a scalar.

        For dense and hash grids, which FieldConfig.has_grid tells.
        """
        assert isinstance(self.encoding, (DenseGrid, HashGrid))
        return total_variation(self.encoding, _to_unit_cube(positions))

    def parameter_groups(self, lr: float, grid_decay: float = 0.0) -> list[dict[str, Any]]:
        """Groups for a torch optimizer; `lr_scale` is each group's factor on a scheduled base rate.

        Args:
            grid_decay: weight decay of what the encoding stores, for an optimizer that decouples it; networks have none.
        """
        groups: list[dict[str, Any]] = []
        if isinstance(self.encoding, DenseGrid):
            # The noise of a score moves every point of a fine grid on its own: slower fine levels average it instead of growing fur.
            for i, level in enumerate(self.encoding.levels):
                groups.append({"params": [level], "lr_scale": _ENCODING_RATE * self.config.level_rate**i, "name": f"level {i}"})
        elif list(self.encoding.parameters()):
            groups.append({"params": list(self.encoding.parameters()), "lr_scale": _ENCODING_RATE, "name": "encoding"})
        groups = [{**group, "weight_decay": grid_decay} for group in groups]
        if not self.is_direct:
            groups.append({"params": list(self.decoder.parameters()), "lr_scale": 1.0, "name": "decoder"})
        groups.append({"params": list(self.background_network.parameters()), "lr_scale": 1.0, "name": "background"})
        return [{**group, "lr": lr * group["lr_scale"]} for group in groups]

    def _has_kernel(self, positions: Tensor) -> bool:
        """Whether density, color and normals come from one kernel, which has no gradient in the positions."""
        own_blob = self._blob_shape == OWN_BLOB[self.config.activation]  # the kernels know no other
        return self.is_direct and own_blob and not positions.requires_grad and ops.serves(positions)

    def _from_kernel(self, positions: Tensor, *, with_normals: bool) -> FieldSamples:
        table, n_points = self._once(f"table {with_normals}", lambda: self._table(with_normals))
        config = self.config
        densities, albedo, normals = ops.dense_field(
            table, n_points, positions, config.activation, config.density_scale, config.blob_density, config.blob_radius, MIST
        )
        return FieldSamples(densities, albedo, normals if with_normals else None)

    def _raw(self, positions: Tensor) -> Tensor:
        """What is stored at positions, [M, 4]: density and color before their activations."""
        if isinstance(self.encoding, DenseGrid):
            return self.decoder(self._read(positions, with_gradient=False))
        return self.decoder(self._features(_to_unit_cube(positions)))

    def _features(self, at: Tensor) -> Tensor:
        """What the encoding says [M, D] about positions [M, 3] in [0, 1]^3."""
        if isinstance(self.encoding, HashGrid) and ops.serves(at):
            return self.encoding(at, self._mirror(self.encoding))
        return self.encoding(at)

    def _mirror(self, grid: HashGrid) -> Tensor | None:
        """What kernels read in place of the table, made once while the field is frozen, with and without gradients."""
        if self._frozen is None:
            return grid.mirror()
        if "mirror" not in self._frozen:
            self._frozen["mirror"] = grid.mirror()
        return self._frozen["mirror"]

    def _logit(self, raw_density: Tensor, positions: Tensor) -> Tensor:
        config = self.config
        return config.density_scale * raw_density + self._blob(positions, config.blob_density, config.blob_radius)

    def _density_of(self, raw_density: Tensor, positions: Tensor) -> Tensor:
        inside = (positions.detach().abs() <= 1.0).all(dim=-1)
        return ACTIVATIONS[self.config.activation](self._logit(raw_density, positions)) * inside

    def _read(self, positions: Tensor, *, with_gradient: bool) -> Tensor:
        """[M, D], or [M, D + 3] with the derivative of the density's logit in world units, from the dense grid."""
        table, n_points = self._once(f"table {with_gradient}", lambda: self._table(with_gradient))
        return read_table(table, n_points, _to_unit_cube(positions))

    def _table(self, with_gradient: bool) -> tuple[Tensor, int]:
        assert isinstance(self.encoding, DenseGrid)
        volume, scale = self._once("volume", self.encoding.volume), self.config.density_scale
        if self.is_direct and ops.serves(volume):
            return ops_table.dense_table(volume, scale, with_gradient=with_gradient), volume.shape[1]
        return table_twin(volume, scale, with_gradient=with_gradient), volume.shape[1]

    def _once(self, name: str, compute: Callable[[], T]) -> T:
        """`compute()`, remembered while the field is frozen."""
        if self._frozen is None or self._frozen["with_grad"] != torch.is_grad_enabled():
            return compute()
        if name not in self._frozen:
            self._frozen[name] = compute()
        return self._frozen[name]

    def _hash_gradient(self, positions: Tensor, create_graph: bool) -> Tensor:
        """Gradient [M, 3] of the logit without its blob. Asking autograd for it would make the table's gradient too, for nothing."""
        assert isinstance(self.encoding, HashGrid)
        at = _to_unit_cube(positions.detach())
        features = self._features(at)
        if not features.requires_grad:  # an averaged field's
            features.requires_grad_()
        (d_features,) = torch.autograd.grad(self.decoder(features)[:, 0].sum(), features, create_graph=create_graph)
        return 0.5 * self.config.density_scale * self.encoding.pull_back(at, d_features, self._mirror(self.encoding))

    def _blob_gradient(self, positions: Tensor) -> Tensor:
        with torch.enable_grad():
            at = positions.detach().requires_grad_()
            blob = self._blob(at, self.config.blob_density, self.config.blob_radius)
            return torch.autograd.grad(blob.sum(), at)[0]

    def _finite_difference(self, positions: Tensor) -> Tensor:
        offsets = positions.new_tensor(_TETRAHEDRON)  # [4, 3]
        around = (positions[:, None, :] + _FINITE_DIFFERENCE * offsets).clamp(-1.0, 1.0).reshape(-1, 3)
        logits = self._logit(self._raw(around)[:, 0], around).reshape(-1, 4)
        return logits @ offsets / (4.0 * _FINITE_DIFFERENCE)


def make_field(config: FieldConfig, generator: torch.Generator) -> RadianceField:
    """A new field on the generator's device: the blob, mid-grey."""
    return RadianceField(config, generator).to(generator.device)


def table_twin(volume: Tensor, scale: float, *, with_gradient: bool) -> Tensor:
    """A volume [D, N, N, N] as [N^3, D], or as [N^3, D + 3] with scale times the gradient of volume[0] in world units."""
    return as_table(torch.cat([volume, scale * central_differences(volume[0])]) if with_gradient else volume)


def _to_unit_cube(positions: Tensor) -> Tensor:
    return positions * 0.5 + 0.5


def _outward(gradient: Tensor) -> Tensor:
    # The logit's gradient points the same way as the density's, for the activation only grows, and it never vanishes by rounding.
    return -F.normalize(gradient, dim=-1, eps=1e-6)
