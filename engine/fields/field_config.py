"""What a field can be told. No torch here, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import UserError, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldConfig:
    """How space is stored: a grid of features, a small network that reads them, and what stands there at the start."""

    encoding: Literal["dense", "hash", "frequency", "tcnn"] = "dense"
    """How features are stored: dense grids, added up (fastest on a CPU), hash tables (finer detail), the waves of the first NeRFs
    (smooth, tiny, needs a network), or tinycudann's hash tables (NVIDIA, where that package is installed)."""
    n_levels: int = 4
    """Number of grids or of frequency bands, from coarse to fine. 1..16."""
    base_resolution: int = 8
    """Cells per axis of the coarsest grid. 2..256."""
    finest_resolution: int = 64
    """Cells per axis of the finest grid. 2..4096; dense grids up to 256."""
    features: int = 4
    """Numbers stored at each grid point. Without a network a dense grid holds exactly 4: density and color. 1..32."""
    level_rate: float = 0.5
    """How fast each level of a dense grid learns, as a share of the next coarser one. 0.05..1."""
    log2_table_size: int = 15
    """A hash table has at most two to the power of this many entries per level. 8..24."""
    interpolation: Literal["linear", "smoothstep"] = "linear"
    """How a hash grid is read between its points: straight lines, or smoothstep, whose normals have no edges where cells meet."""
    table_precision: Literal["float32", "float16"] = "float32"
    """How a hash grid is read: float16 reads a copy of half the size, three digits exact; what is trained and summed is float32."""
    hidden_width: int = 0
    """Width of the hidden layer of the network that reads the features; 0 is no hidden layer. 0..256."""
    hidden_layers: int = 1
    """How many such layers, if there are any. 1..8."""
    activation: Literal["softplus", "exp"] = "softplus"
    """How the stored number becomes a density. softplus grows evenly, exp hardens quickly."""
    density_scale: float = 10.0
    """Multiplies the stored number before the activation, so that the optimizer's small steps can build a hard surface. 0.01..1000."""
    blob: Literal["auto", "gaussian", "sphere"] = "auto"
    """Shape of what stands there at the start: a cloud, a ball with a soft edge, or the one that suits the activation."""
    blob_density: float = 6.0
    """Density at the center of the blob that stands there at the start; 0 starts with nothing but mist. 0..1000."""
    blob_radius: float = 0.45
    """Distance from the center at which the blob has become a haze: a tenth of its density. 0.01..1."""
    normals: Literal["analytic", "finite_difference"] = "analytic"
    """How the direction of surfaces is found: from the derivative of the grid, or from four more looks at the density."""
    background_encoding: Literal["frequency", "spherical-harmonics"] = "frequency"
    """What a learned background sees of a direction: the waves of the first NeRFs, or spherical harmonics, smooth all round."""
    background_degree: int = 3
    """How fine spherical harmonics of a background are: all below this degree, its square of numbers. 1..8."""

    @property
    def has_grid(self) -> bool:
        """Whether there are grid points whose neighbours we know; tinycudann keeps its own to itself."""
        return self.encoding in ("dense", "hash")

    def __post_init__(self) -> None:
        check_range("field.n-levels", self.n_levels, 1, 16)
        check_range("field.base-resolution", self.base_resolution, 2, 256)
        check_range("field.finest-resolution", self.finest_resolution, self.base_resolution, 256 if self.encoding == "dense" else 4096)
        check_range("field.features", self.features, 1, 32)
        check_range("field.level-rate", self.level_rate, 0.05, 1)
        check_range("field.log2-table-size", self.log2_table_size, 8, 24)
        check_range("field.hidden-width", self.hidden_width, 0, 256)
        check_range("field.hidden-layers", self.hidden_layers, 1, 8)
        check_range("field.density-scale", self.density_scale, 0.01, 1000)
        check_range("field.blob-density", self.blob_density, 0, 1000)
        check_range("field.blob-radius", self.blob_radius, 0.01, 1)
        check_range("field.background-degree", self.background_degree, 1, 8)
        if self.encoding == "dense" and self.interpolation != "linear":
            raise UserError(
                f"field.interpolation is {self.interpolation}, but a dense grid is read by straight lines.",
                "Leave it out, or use --field.encoding hash.",
                "option",
            )
        if self.encoding != "hash" and self.table_precision != "float32":
            raise UserError(
                f"field.table-precision is {self.table_precision}, but field.encoding {self.encoding} has no table that would be read so.",
                "Leave it out, or use --field.encoding hash.",
                "option",
            )
        if self.encoding == "dense" and self.hidden_width == 0 and self.features != 4:
            raise UserError(
                f"field.features is {self.features}, but a dense grid that no network reads holds exactly 4 numbers.",
                "Use --field.features 4, or give it a network with --field.hidden-width 32.",
                "option",
            )
        if self.encoding == "frequency" and self.hidden_width == 0:
            raise UserError(
                "field.encoding is frequency, whose waves need a network that reads them, but field.hidden-width is 0.",
                "Use --field.hidden-width 64.",
                "option",
            )
        if self.hidden_layers > 1 and self.hidden_width == 0:
            raise UserError(
                f"field.hidden-layers is {self.hidden_layers}, but field.hidden-width is 0, so there is no layer at all.",
                "Give the layers a width with --field.hidden-width 32, or leave --field.hidden-layers out.",
                "option",
            )
