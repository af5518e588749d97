"""Write a finished mesh: what Blender imports (mesh.npz, albedo.png, normal.png) and what every other program reads (GLB, OBJ, PLY).

Axes. Ours: Z up, front -Y. glTF: Y up, front +Z, by its standard; OBJ: the same, as Blender and most programs assume. So
(x, y, z) is written as (x, z, -y), a rotation. PLY has no convention; Blender reads it Z up, and so it is written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from engine.meshing.bake import vertex_normals
from engine.meshing.mesh_stage import MeshResult

# Without a roughness map: matt, but not chalk.
ROUGHNESS = 0.7


def to_y_up(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """[n, 3] from our axes (Z up, front -Y) to glTF's (Y up, front +Z)."""
    return np.stack([vectors[:, 0], vectors[:, 2], -vectors[:, 1]], axis=1)


def to_z_up(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Inverse of `to_y_up`."""
    return np.stack([vectors[:, 0], -vectors[:, 2], vectors[:, 1]], axis=1)


def to_bytes(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[..., 3] in [0, 1] to uint8, rounded."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def write_png(path: Path, image: NDArray[np.floating]) -> None:
    """[H, W, 3] float in [0, 1], rows from the top, as an 8-bit PNG: code values as they are, sRGB-encoded if they are colors."""
    PIL.Image.fromarray(to_bytes(image)).save(path, format="PNG")


def split_vertices(
    faces: NDArray[np.integer], corner_uvs: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Formats with one UV per vertex need a copy of a vertex for every UV it has.

    Returns:
        source [n] (which vertex each copy is of), uvs [n, 2], and faces [F, 3] that name the copies.
    """
    corners = np.concatenate([faces.reshape(-1, 1), corner_uvs.reshape(-1, 2)], axis=1, dtype=np.float64)
    unique, inverse = np.unique(corners, axis=0, return_inverse=True)
    return unique[:, 0].astype(np.int64), unique[:, 1:].astype(np.float32), inverse.reshape(-1, 3).astype(np.int64)


def write_npz(path: Path, mesh: MeshResult) -> None:
    """mesh.npz: vertices f32 [V, 3], faces i32 [F, 3], corner_uvs f32 [F, 3, 2]. Compressed, no pickle."""
    np.savez_compressed(path, vertices=mesh.vertices, faces=mesh.faces, corner_uvs=mesh.corner_uvs)


def _textured(mesh: MeshResult, name: str, *, y_up: bool):  # type: ignore[no-untyped-def]  # trimesh has no types
    """A trimesh.Trimesh with UVs, smooth normals across UV seams, and one PBR material."""
    import trimesh

    source, uvs, faces = split_vertices(mesh.faces, mesh.corner_uvs)
    vertices, normals = mesh.vertices[source], vertex_normals(mesh.vertices, mesh.faces)[source]
    if y_up:
        vertices, normals = to_y_up(vertices), to_y_up(normals)
    material = trimesh.visual.material.PBRMaterial(
        name=name,
        baseColorTexture=PIL.Image.fromarray(to_bytes(mesh.albedo)),
        baseColorFactor=[255, 255, 255, 255],
        normalTexture=PIL.Image.fromarray(to_bytes(mesh.normal)) if mesh.normal is not None else None,
        metallicFactor=0.0,
        roughnessFactor=ROUGHNESS,
    )
    visual = trimesh.visual.TextureVisuals(uv=uvs, material=material)
    return trimesh.Trimesh(vertices, faces, vertex_normals=normals, visual=visual, process=False)


def write_glb(path: Path, mesh: MeshResult, name: str = "asset") -> None:
    """Binary glTF with the texture inside."""
    import trimesh

    scene = trimesh.Scene()
    scene.add_geometry(_textured(mesh, name, y_up=True), geom_name=name, node_name=name)
    scene.export(str(path), file_type="glb")


def write_obj(path: Path, mesh: MeshResult, name: str = "asset") -> None:
    """Wavefront OBJ with <stem>.mtl and <stem>.png beside it. Written here: one vertex keeps one position, whatever its UVs.

    The MTL says `d 1` and not `Tr`, which half of all readers take for its opposite.
    """
    normals = to_y_up(vertex_normals(mesh.vertices, mesh.faces))
    uvs, uv_index = np.unique(mesh.corner_uvs.reshape(-1, 2), axis=0, return_inverse=True)
    uv_index = uv_index.reshape(-1, 3)
    lines = [f"mtllib {path.stem}.mtl", f"o {name}"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in to_y_up(mesh.vertices)]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in uvs]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in normals]
    lines += ["s 1", f"usemtl {name}"]
    for vertex, uv in zip(mesh.faces + 1, uv_index + 1):
        lines.append("f " + " ".join(f"{a}/{b}/{a}" for a, b in zip(vertex, uv)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    material = [
        f"newmtl {name}",
        "Ka 0 0 0",
        "Kd 1 1 1",
        "Ks 0 0 0",
        "d 1",
        "illum 1",
        f"Pr {ROUGHNESS}",
        "Pm 0",
        f"map_Kd {path.stem}.png",
    ]
    if mesh.normal is not None:  # `norm` is the PBR extension's word; `map_Bump` would be read as heights
        material.append(f"norm {path.stem}_normal.png")
        write_png(path.with_name(f"{path.stem}_normal.png"), mesh.normal)
    path.with_suffix(".mtl").write_text("\n".join(material) + "\n", encoding="utf-8")
    write_png(path.with_suffix(".png"), mesh.albedo)


def vertex_colors(mesh: MeshResult) -> NDArray[np.uint8]:
    """[V, 3]: the texture at one corner of each vertex, for formats without textures."""
    size = mesh.albedo.shape[0]
    uv = np.zeros((len(mesh.vertices), 2))
    uv[mesh.faces.reshape(-1)] = mesh.corner_uvs.reshape(-1, 2)
    column = np.clip((uv[:, 0] * size).astype(int), 0, size - 1)
    row = np.clip(((1 - uv[:, 1]) * size).astype(int), 0, size - 1)
    return to_bytes(mesh.albedo[row, column])


def write_ply(path: Path, mesh: MeshResult) -> None:
    """Binary PLY with a color per vertex, Z up."""
    import trimesh

    plain = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_colors=vertex_colors(mesh), process=False)
    plain.export(str(path), file_type="ply")


def write_result(folder: Path, mesh: MeshResult, slug: str = "asset") -> list[Path]:
    """mesh.npz, albedo.png and, where there is one, normal.png for Blender, <slug>.glb for everyone else, into a folder that exists.

    Returns the paths.
    """
    paths = [folder / "mesh.npz", folder / "albedo.png", folder / f"{slug}.glb"]
    write_npz(paths[0], mesh)
    write_png(paths[1], mesh.albedo)
    write_glb(paths[2], mesh, slug)
    if mesh.normal is not None:
        paths.append(folder / "normal.png")
        write_png(paths[3], mesh.normal)
    return paths
