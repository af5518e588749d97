"""Result folders for the Blender tests, written without torch and without Blender."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "bl_ext.user_default.blender_dreamfusion"


def write_png(path: Path, pixels: np.ndarray) -> None:
    """[H, W, 3] uint8, first row on top; with the standard library, so that Blender's own reader is what is tested."""
    height, width = pixels.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + pixels[row].tobytes() for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def write_box_result(folder: Path, prompt: str = "a red box", seed: int = 7) -> Path:
    """A box of 0.6 x 0.8 x 1.2, off the origin, with a red front (-Y), and all other sides blue; every corner its own vertex."""
    low, high = np.array([0.1, -0.5, -0.9]), np.array([0.7, 0.3, 0.3])
    quads = {  # counter-clockwise from outside
        "front": [(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)],
        "back": [(1, 1, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)],
        "right": [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)],
        "left": [(0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1)],
        "top": [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)],
        "bottom": [(0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0)],
    }
    vertices, faces, corner_uvs = [], [], []
    for name, quad in quads.items():
        left = 0.05 if name == "front" else 0.55  # red is the left half of the picture, blue the right
        square = [(left, 0.1), (left + 0.4, 0.1), (left + 0.4, 0.9), (left, 0.9)]
        first = len(vertices)
        vertices += [low + np.array(corner) * (high - low) for corner in quad]
        for triangle in ((0, 1, 2), (0, 2, 3)):
            faces.append([first + corner for corner in triangle])
            corner_uvs.append([square[corner] for corner in triangle])
    folder.mkdir(parents=True)
    np.savez(folder / "mesh.npz", vertices=np.float32(vertices), faces=np.int32(faces), corner_uvs=np.float32(corner_uvs))
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16, 0] = 220
    pixels[:, 16:, 2] = 220
    write_png(folder / "albedo.png", pixels)
    (folder / "result.json").write_text(json.dumps({"request": {"prompt": prompt, "seed": seed, "preset": "draft"}, "engine": "0.1.0"}))
    return folder


TORUS = (0.55, 0.2)
TORUS_PX = 128


def torus_color(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[..., 3] in [0, 1] of the angles round the axis and round the tube, as fractions of a turn; no seam."""
    turn = 2 * np.pi
    return np.stack([0.5 + 0.4 * np.cos(turn * u), 0.5 + 0.4 * np.sin(turn * u), 0.5 + 0.4 * np.cos(turn * v)], axis=-1)


def write_torus_result(folder: Path, n_round: int = 96, n_tube: int = 32, prompt: str = "a torus") -> Path:
    """A closed ring of 2 * n_round * n_tube triangles, 0.4 high, whose colors tell where a point of its surface lies."""
    big, small = TORUS
    u, v = np.meshgrid(np.arange(n_round) / n_round, np.arange(n_tube) / n_tube, indexing="ij")
    a, b = 2 * np.pi * u, 2 * np.pi * v
    rho = big + small * np.cos(b)
    vertices = np.stack([rho * np.cos(a), rho * np.sin(a), small * np.sin(b)], axis=-1).reshape(-1, 3)
    i, j = (grid.reshape(-1) for grid in np.meshgrid(np.arange(n_round), np.arange(n_tube), indexing="ij"))
    quad = np.stack([np.stack([i, i + 1, i + 1, i], 1), np.stack([j, j, j + 1, j + 1], 1)], axis=-1)  # [n, 4, 2]
    triangles = quad[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3, 2)
    faces = triangles[..., 0] % n_round * n_tube + triangles[..., 1] % n_tube
    folder.mkdir(parents=True)
    uvs = triangles / np.array([n_round, n_tube])
    np.savez(folder / "mesh.npz", vertices=np.float32(vertices), faces=np.int32(faces), corner_uvs=np.float32(uvs))
    center = (np.arange(TORUS_PX) + 0.5) / TORUS_PX
    picture = torus_color(*np.meshgrid(center, 1 - center))  # rows from the top
    write_png(folder / "albedo.png", np.uint8(picture * 255 + 0.5))
    write_png(folder / "thumbnail.png", np.uint8(picture * 255 + 0.5))
    info = {"request": {"prompt": prompt, "seed": 1, "preset": "draft"}, "model_licence": "CC0-1.0", "engine": "0.1.0"}
    (folder / "result.json").write_text(json.dumps(info))
    return folder


def background_entries(camera):
    """(file, shown) of each of a camera's background images."""
    return [(entry.image.filepath, entry.show_background_image) for entry in camera.data.background_images]


def write_proxy(path, height=1.0):
    """A light mesh as the engine writes it: a pyramid, orange."""
    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0], [0, 0, height]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]], np.int32)
    np.savez(path, vertices=corners, faces=faces, colors=np.tile(np.array([1.0, 0.5, 0.0], np.float32), (4, 1)))
    return str(path)
