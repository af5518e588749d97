"""The mesh that a stage starts from: a file of any program, or the result of a job, brought into the world of the engine.

Vertices that lie in one place are one vertex again (files copy them for every UV), so that a closed mesh is closed.

Shapes: V vertices, F faces, n samples, S T height and width of a texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from engine.errors import UserError
from engine.meshing.export import to_z_up

# Files whose convention is Y up (see export.py); the others are read Z up, as Blender does.
Y_UP = (".obj", ".glb", ".gltf")
SUFFIXES = (*Y_UP, ".ply", ".stl", ".off")
# The object's farthest point from the middle of its box: as large in the picture as the models know objects.
RADIUS = 0.9
# More than this a rasteriser on a CPU cannot draw several times a second.
MAX_FACES = 500_000
# Vertices nearer to each other than this part of the object's size are one.
SAME_PLACE = 1e-6


@dataclass(frozen=True)
class SourceMesh:
    """A mesh in [-1, 1]^3, Z up, front -Y.

    Attributes:
        vertices: [V, 3] float32. faces: [F, 3] int32.
        corner_uvs: [F, 3, 2] float32, origin bottom left, as they were found; None without.
        texture: [S, T, 3] float32 in [0, 1], sRGB, read at corner_uvs; None without.
        corner_colors: [F, 3, 3] float32 in [0, 1], sRGB, where there is no single texture; None without.
        normal: [S, S, 3] float32, tangent-space normal map at corner_uvs; None without.
        center, scale: vertices * scale + center are the file's own places (in our axes).
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    corner_uvs: NDArray[np.float32] | None = None
    texture: NDArray[np.float32] | None = None
    corner_colors: NDArray[np.float32] | None = None
    normal: NDArray[np.float32] | None = None
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0

    @property
    def has_colors(self) -> bool:
        return self.texture is not None or self.corner_colors is not None

    def colors_at(self, face: NDArray[np.integer], weights: NDArray[np.floating]) -> NDArray[np.float32]:
        """Colors [n, 3] in [0, 1] at points of faces [n] with corner weights [n, 3]. Only with `has_colors`."""
        if self.texture is not None and self.corner_uvs is not None:
            uvs = np.einsum("nk,nkd->nd", weights, self.corner_uvs[face])
            height, width = self.texture.shape[:2]
            column = np.clip((uvs[:, 0] % 1.0 * width).astype(int), 0, width - 1)
            row = np.clip(((1 - uvs[:, 1]) % 1.0 * height).astype(int), 0, height - 1)
            return self.texture[row, column]
        if self.corner_colors is None:
            raise ValueError("this mesh has no colors")
        return np.einsum("nk,nkd->nd", weights, self.corner_colors[face]).astype(np.float32)

    def sample_surface(self, n: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """n points spread evenly by area: places [n, 3], faces [n], corner weights [n, 3]."""
        a, b, c = (self.vertices[self.faces[:, i]].astype(np.float64) for i in range(3))
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        face = generator.choice(len(area), size=n, p=area / area.sum())
        root, along = np.sqrt(generator.random(n)), generator.random(n)
        weights = np.stack([1 - root, root * (1 - along), root * along], axis=1)
        points = np.einsum("nk,nkd->nd", weights, self.vertices[self.faces[face]])
        return points.astype(np.float32), face, weights.astype(np.float32)

    def save(self, path: Path) -> None:
        """As an npz without pickle. Raises OSError."""
        arrays = {name: getattr(self, name) for name in ("vertices", "faces", "corner_uvs", "texture", "corner_colors", "normal")}
        present = {name: value for name, value in arrays.items() if value is not None}
        with path.open("wb") as file:
            np.savez_compressed(file, center=np.array(self.center), scale=np.array(self.scale), **present)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> SourceMesh:
        """What `save` wrote. Raises UserError."""
        try:
            with np.load(path, allow_pickle=False) as found:
                arrays: dict[str, Any] = {name: found[name] for name in found.files}
            x, y, z = (float(value) for value in arrays.pop("center"))
            return cls(center=(x, y, z), scale=float(arrays.pop("scale")), **arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged.", "Start the job again in another folder.", "output") from error


def read_result(folder: Path) -> SourceMesh:
    """The finished mesh of the job in `folder`. Raises UserError if it has none."""
    result = folder / "result"
    if not (result / "mesh.npz").is_file():
        raise UserError(
            f"The job in {folder} has no finished mesh.", "Let it finish first: generate --resume --out and its folder.", "mesh"
        )
    try:
        with np.load(result / "mesh.npz", allow_pickle=False) as mesh:
            vertices, faces, corner_uvs = (mesh[name] for name in ("vertices", "faces", "corner_uvs"))
        texture = _read_picture(result / "albedo.png")
        normal = _read_picture(result / "normal.png") if (result / "normal.png").is_file() else None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The mesh in {result} is damaged.", "Make the job again from the beginning.", "mesh") from error
    return SourceMesh(vertices, faces, corner_uvs, texture, None, normal)


def read_mesh(path: Path) -> SourceMesh:
    """A mesh file, centred and scaled into the world. Raises UserError."""
    if not path.is_file():
        raise UserError(
            f"There is no mesh file {path}.", "Give an OBJ, GLB, PLY, STL or OFF file, or the folder of a finished job.", "mesh"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path.name} is no mesh that can be read.", f"Save it as one of {', '.join(SUFFIXES)}.", "mesh")
    parts = _read_parts(path)
    vertices = np.concatenate([part.vertices for part in parts])
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, first)])
    if not len(faces):
        raise UserError(f"{path.name} has no faces.", "Give a mesh with a surface; points and lines have none.", "mesh")
    if len(faces) > MAX_FACES:
        raise UserError(f"{path.name} has {len(faces):,} triangles, but at most {MAX_FACES:,} are read.", "Decimate it first.", "mesh")
    if path.suffix.lower() in Y_UP:
        vertices = to_z_up(vertices)
    places, center, scale = fitted(vertices)
    if not (np.isfinite(vertices).all() and scale > 1e-12):
        raise UserError(f"{path.name} has no size, or places that are not finite.", "Export the mesh again.", "mesh")
    vertices, faces = _merged(places, faces)
    used = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    uvs, texture, colors = _appearance(parts)
    return SourceMesh(
        np.ascontiguousarray(vertices, np.float32),
        np.ascontiguousarray(faces[used], np.int32),
        uvs[used] if uvs is not None else None,
        texture,
        colors[used] if colors is not None else None,
        None,
        center,
        scale,
    )


def fitted(vertices: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float, float], float]:
    """Vertices [V, 3] centred and scaled into the world, and `center` and `scale` as SourceMesh has them."""
    x, y, z = (float(value) for value in (vertices.min(axis=0) + vertices.max(axis=0)) / 2)
    around = vertices - np.array([x, y, z])
    scale = float(np.linalg.norm(around, axis=1).max()) / RADIUS
    with np.errstate(divide="ignore", invalid="ignore"):  # no size: the caller looks at the scale
        return around / scale, (x, y, z), scale


@dataclass(frozen=True)
class _Part:
    """One object of a file: vertices [v, 3] and faces [f, 3]; per vertex UVs [v, 2] and colors [v, 3], and a picture, or None each."""

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    uvs: NDArray[np.float32] | None
    colors: NDArray[np.float32] | None
    picture: NDArray[np.float32] | None


def _read_parts(path: Path) -> list[_Part]:
    import trimesh

    try:
        loaded = trimesh.load(str(path), process=False)
        meshes = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
        return [_part(mesh) for mesh in meshes if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces)] or [_nothing()]
    except Exception as error:  # a dozen parsers, each with its own ways to fail on a broken file
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"{path.name} cannot be read as a mesh ({reason}).", "Export it again, best as GLB.", "mesh") from error


def _nothing() -> _Part:
    return _Part(np.zeros((0, 3)), np.zeros((0, 3), np.int64), None, None, None)


def _part(mesh: Any) -> _Part:
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    visual = mesh.visual
    uvs = getattr(visual, "uv", None)
    if uvs is None or len(uvs) != len(vertices):
        colors = np.asarray(visual.vertex_colors)[:, :3] / 255 if visual.defined and visual.kind in ("vertex", "face") else None
        return _Part(vertices, faces, None, None if colors is None else colors.astype(np.float32), None)
    material = visual.material
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    picture = np.asarray(image.convert("RGB"), np.float32) / 255 if image is not None else None
    colors = None
    if picture is None:  # of a material without a picture there is one color for all
        colors = np.broadcast_to(np.atleast_2d(visual.to_color().vertex_colors)[:, :3] / 255, (len(vertices), 3))
    return _Part(vertices, faces, np.asarray(uvs, np.float32), None if colors is None else colors.astype(np.float32), picture)


def _appearance(
    parts: list[_Part],
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, NDArray[np.float32] | None]:
    """Corner UVs [F, 3, 2], the one texture that all parts share, corner colors [F, 3, 3]; None each where there is no such thing."""
    uvs = None
    if all(part.uvs is not None for part in parts):
        uvs = np.concatenate([part.uvs[part.faces] for part in parts if part.uvs is not None])
    pictures = [part.picture for part in parts]
    if len(parts) == 1 and pictures[0] is not None:
        return uvs, pictures[0], None
    if not any(part.colors is not None or part.picture is not None for part in parts):
        return uvs, None, None
    return uvs, None, np.concatenate([_corner_colors(part) for part in parts])


def _corner_colors(part: _Part) -> NDArray[np.float32]:
    if part.picture is not None and part.uvs is not None:
        whole = SourceMesh(part.vertices.astype(np.float32), part.faces.astype(np.int32), part.uvs[part.faces], part.picture)
        face = np.repeat(np.arange(len(part.faces)), 3)
        return whole.colors_at(face, np.tile(np.eye(3), (len(part.faces), 1))).reshape(-1, 3, 3)
    if part.colors is None:
        return np.full((len(part.faces), 3, 3), 0.5, np.float32)
    return part.colors[part.faces]


def _merged(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices in one place become one; places are in world units."""
    _, first, index = np.unique(np.round(vertices / SAME_PLACE).astype(np.int64), axis=0, return_index=True, return_inverse=True)
    return vertices[first], index.reshape(-1)[faces]


def _read_picture(path: Path) -> NDArray[np.float32]:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.float32) / 255
