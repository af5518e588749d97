"""What the mesh stage can be told."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class MeshConfig:
    """How the mesh is cut out of the field, simplified, unwrapped and baked."""

    resolution: int = 96
    """Cells of the marching-cubes lattice along the longest side of the object. 8..512."""
    isovalue: float = 0.0
    """Density at which the surface is cut. 0 chooses it so that mesh and field have the same silhouettes. 0..1000000."""
    target_faces: int = 10_000
    """Triangles of the finished mesh, at most (more only where fewer would leave holes). 32..5000000."""
    smoothing: int = 5
    """Rounds of Taubin smoothing against the stairs of marching cubes. 0 leaves them. 0..100."""
    min_component: float = 0.01
    """Loose pieces with a smaller share of the largest piece's volume are removed, unless they are long. 0..1."""
    texture_size: int = 512
    """Width and height of the baked texture in pixels. 16..16384."""
    supersample: int = 2
    """Samples along each side of a texel when baking. 1..8."""
    padding: int = 4
    """Empty texels between two islands of the UV map. 1..64."""
    normal_map: bool = True
    """Bake the relief that the finished mesh is too coarse for into normal.png. Made only where triangles had to be taken away."""
    inset: bool = True
    """Read colors where a ray into the surface would see them, slightly inside, instead of exactly on the surface."""

    def __post_init__(self) -> None:
        check_range("mesh.resolution", self.resolution, 8, 512)
        check_range("mesh.isovalue", self.isovalue, 0, 1e6)
        check_range("mesh.target_faces", self.target_faces, 32, 5_000_000)
        check_range("mesh.smoothing", self.smoothing, 0, 100)
        check_range("mesh.min_component", self.min_component, 0, 1)
        check_range("mesh.texture_size", self.texture_size, 16, 16384)
        check_range("mesh.supersample", self.supersample, 1, 8)
        check_range("mesh.padding", self.padding, 1, 64)
