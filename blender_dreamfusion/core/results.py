"""Reads and checks a result folder, and shapes its mesh for a scene. numpy only; what comes out is safe to build from.

Shapes: V vertices, F triangles.
"""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

# Pictures that may lie beside the mesh, and whether their numbers are colours (sRGB) or data.
TEXTURES = {"albedo": True, "normal": False, "roughness": False}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
REPEAT_FIX = "Generate it again, or choose another folder."


class ResultError(Exception):
    """A result folder that cannot be imported; the text is a sentence with the fix."""


class ResultMesh(NamedTuple):
    """What the engine made.

    vertices [V, 3] float32, world axes (Z up, front -Y); faces [F, 3] int32, counter-clockwise from outside;
    corner_uvs [F, 3, 2] float32, origin bottom left; textures: name to PNG path; info: result.json, {} if missing.
    """

    vertices: Floats
    faces: Ints
    corner_uvs: Floats
    textures: dict[str, Path]
    info: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.setting("prompt", ""))

    @property
    def title(self) -> str:
        """The prompt, or the name of the picture that stood in its place; "" if nothing is known."""
        return self.prompt or str(self.setting("title", ""))

    def setting(self, name: str, default: object = None) -> Any:
        """A value of result.json, at its top or inside its "request" or "stats"."""
        for part in (self.info, self.info.get("request"), self.info.get("stats")):
            if isinstance(part, dict) and name in part:
                return part[name]
        return default


def read_result(folder: Path) -> ResultMesh:
    """The result in `folder`, checked. Raises: ResultError."""
    if not (folder / "mesh.npz").is_file():
        raise ResultError(f"There is no mesh.npz in {folder}. Choose the folder named result inside a job folder.")
    vertices, faces, corner_uvs = _read_arrays(folder / "mesh.npz")
    textures = {}
    for name in TEXTURES:
        path = folder / f"{name}.png"
        if path.is_file():
            _check_png(path)
            textures[name] = path
    return ResultMesh(vertices, faces, corner_uvs, textures, _read_info(folder / "result.json"))


def _read_arrays(path: Path) -> tuple[Floats, Ints, Floats]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            vertices, faces, corner_uvs = (np.asarray(archive[name]) for name in ("vertices", "faces", "corner_uvs"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ResultError(f"{path} cannot be read as a mesh ({error}). {REPEAT_FIX}") from error
    wrong = ""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind != "f":
        wrong = f"its vertices are {vertices.dtype} {list(vertices.shape)} instead of float32 [V, 3]"
    elif faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        wrong = f"its faces are {faces.dtype} {list(faces.shape)} instead of int32 [F, 3]"
    elif corner_uvs.shape != (len(faces), 3, 2) or corner_uvs.dtype.kind != "f":
        wrong = f"its corner_uvs are {corner_uvs.dtype} {list(corner_uvs.shape)} instead of float32 [F, 3, 2]"
    elif len(faces) == 0 or len(vertices) == 0:
        wrong = "it has no faces"
    elif faces.min() < 0 or faces.max() >= len(vertices):
        wrong = f"its faces name vertices outside 0..{len(vertices) - 1}"
    elif not (np.isfinite(vertices).all() and np.isfinite(corner_uvs).all()):
        wrong = "it holds numbers that are not finite"
    if wrong:
        raise ResultError(f"{path} is no mesh of this engine: {wrong}. {REPEAT_FIX}")
    return vertices.astype(np.float32), faces.astype(np.int32), corner_uvs.astype(np.float32)


def _check_png(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            raise ResultError(f"{path} is not a PNG picture. {REPEAT_FIX}")


def png_width(path: Path) -> int:
    """In pixels, from the header; 0 if the file ends before it. Blender would decode the whole picture to tell."""
    with path.open("rb") as file:
        header = file.read(24)
    return int.from_bytes(header[16:20], "big") if len(header) == 24 else 0


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} cannot be read ({error}). {REPEAT_FIX}") from error
    return info if isinstance(info, dict) else {}


def welded(vertices: Floats, faces: Ints, corner_uvs: Floats) -> tuple[Floats, Ints, Floats]:
    """The same surface with every position once, no triangle without area and no vertex without triangle.

    UVs lie on corners, so positions need not be split at seams; split ones would tear when the mesh is deformed.
    """
    positions, index_of = np.unique(vertices, axis=0, return_inverse=True)
    faces = index_of.reshape(-1)[faces].astype(np.int32)
    keep = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces, corner_uvs = faces[keep], corner_uvs[keep]
    used = np.unique(faces)
    renumbered = np.zeros(len(positions), np.int32)
    renumbered[used] = np.arange(len(used), dtype=np.int32)
    return positions[used], renumbered[faces], corner_uvs


def outward(vertices: Floats, faces: Ints, corner_uvs: Floats) -> tuple[Ints, Floats]:
    """Faces and corner UVs turned round if the surface as a whole is inside out (encloses a negative volume)."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    if np.einsum("ij,ij->", a, np.cross(b, c)) < 0:
        return np.ascontiguousarray(faces[:, ::-1]), np.ascontiguousarray(corner_uvs[:, ::-1])
    return faces, corner_uvs


def open_edge_count(faces: Ints) -> int:
    """Edges that do not have exactly two faces; 0 = watertight."""
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)  # [3F, 2]
    # One number per edge: sorting numbers takes a tenth of the time of sorting pairs.
    _, counts = np.unique(ends.min(axis=1) << 32 | ends.max(axis=1), return_counts=True)
    return int((counts != 2).sum())


def extent(vertices: Floats) -> float:
    """Height: the length of the bounding box along Z."""
    return float(np.ptp(vertices[:, 2])) if len(vertices) else 0.0


def standing(vertices: Floats, height: float) -> Floats:
    """Scaled to `height` along Z and moved so that the origin is the middle of the bounding box's bottom.

    A flat object (no extent along Z) keeps its size, and so does one that is to be 0 high.
    """
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    tall = extent(vertices)
    foot = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)
    return ((vertices - foot) * (height / tall if tall > 1e-6 and height > 0 else 1.0)).astype(np.float32)
