"""Pictures of the finished mesh: views by the rasteriser, a turning video, a thumbnail.

Shapes: V views, H W pixels. Images are float32 in [0, 1], sRGB-encoded, rows from the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from engine.meshing.bake import vertex_normals
from engine.meshing.export import to_bytes
from engine.meshing.mesh_stage import MeshResult
from engine.meshing.raster import FloatArray, rasterize
from engine.scene.cameras import Cameras

AMBIENT_RATIO = 0.6


def sample_texture(texture: NDArray[np.floating], uvs: NDArray[np.floating]) -> NDArray[np.float32]:
    """texture [S, T, 3] at uvs [n, 2] (origin bottom left), bilinear, clamped at the border. Returns [n, 3] float32."""
    height, width = texture.shape[:2]
    x = np.clip(uvs[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uvs[:, 1]) * height - 0.5, 0, height - 1)
    x0, y0 = x.astype(int), y.astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    top = texture[y0, x0] * (1 - fx) + texture[y0, x1] * fx
    bottom = texture[y1, x0] * (1 - fx) + texture[y1, x1] * fx
    return (top * (1 - fy) + bottom * fy).astype(np.float32)


def render_mesh(
    mesh: MeshResult,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    ambient_ratio: float = AMBIENT_RATIO,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    supersample: int = 2,
) -> NDArray[np.float32]:
    """Views of the mesh, [V, H, W, 3] float32. Light comes from the camera: ambient_ratio + (1 - ambient_ratio) |n . view|."""
    big_height, big_width = height * supersample, width * supersample
    normals = vertex_normals(mesh.vertices, mesh.faces)
    toward = cameras.camera_to_world[:, :3, 2].cpu().numpy()
    pictures = []
    for view in range(len(cameras)):
        raster = rasterize(mesh.vertices, mesh.faces, cameras[view : view + 1], big_height, big_width)
        seen = raster.face[0] >= 0
        face, barycentric = raster.face[0][seen], raster.barycentric[0][seen]
        uvs = np.einsum("nk,nkd->nd", barycentric, mesh.corner_uvs[face])
        normal = np.einsum("nk,nkd->nd", barycentric, normals[mesh.faces[face]])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        light = ambient_ratio + (1 - ambient_ratio) * np.abs(normal @ toward[view])
        picture = np.broadcast_to(np.asarray(background, np.float32), (big_height, big_width, 3)).copy()
        picture[seen] = sample_texture(mesh.albedo, uvs) * light[:, None]
        pictures.append(picture.reshape(height, supersample, width, supersample, 3).mean(axis=(1, 3)))
    return np.stack(pictures).astype(np.float32)


def write_video(path: Path, frames: Sequence[FloatArray] | FloatArray, *, fps: int = 24) -> None:
    """Frames [H, W, 3] as an H.264 video that every player opens (yuv420p, so odd sizes lose their last row or column)."""
    import av

    if len(frames) == 0:
        raise ValueError("a video needs at least one frame")
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    with av.open(str(path), mode="w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            picture = np.ascontiguousarray(to_bytes(frame)[:height, :width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_thumbnail(path: Path, image: FloatArray, *, size_px: int = 256) -> None:
    """One picture [H, W, 3], fitted into size_px x size_px, as PNG."""
    picture = PIL.Image.fromarray(to_bytes(image))
    scale = size_px / max(picture.size)
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture.resize(fitted, PIL.Image.Resampling.LANCZOS).save(path, format="PNG")
