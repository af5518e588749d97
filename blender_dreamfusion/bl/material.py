"""One Principled material from baked textures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import bpy

from ..core.import_plan import DEFAULT_ROUGHNESS
from ..core.naming import with_suffix
from ..core.results import TEXTURES

ROW_HEIGHT = 300


def load_textures(stem: str, files: Mapping[str, Path]) -> dict[str, bpy.types.Image]:
    """The PNG files by what they hold (albedo, normal, roughness) as packed images named `stem`_albedo and so on.

    Raises: RuntimeError if a picture cannot be decoded; nothing is left behind then.
    """
    images: dict[str, bpy.types.Image] = {}
    try:
        for kind, path in files.items():
            images[kind] = load_packed(path, with_suffix(stem, f"_{kind}"), is_color=TEXTURES[kind])
    except RuntimeError:
        for image in images.values():
            bpy.data.images.remove(image)
        raise
    return images


def load_packed(path: Path, name: str, *, is_color: bool) -> bpy.types.Image:
    """The picture as a packed image: it lives in the .blend and does not need the job folder any more."""
    image = bpy.data.images.load(str(path), check_existing=False)
    if not image.has_data and image.size[0] == 0:
        bpy.data.images.remove(image)
        raise RuntimeError(f"{path.name} holds no picture")
    image.name = name
    image.colorspace_settings.name = "sRGB" if is_color else "Non-Color"
    pack(image)
    return image


def pack(image: bpy.types.Image) -> None:
    """Put the picture into the .blend, under a name of its own and not the path on this computer (exporters use it)."""
    image.pack()
    path = f"//{image.name}.png"
    image.filepath_raw = path  # `filepath` would look for the file at once and complain
    for packed in image.packed_files:
        packed.filepath = path


def build_material(
    name: str, images: Mapping[str, bpy.types.Image], *, label: str = "", roughness: float = DEFAULT_ROUGHNESS
) -> bpy.types.Material:
    """A material named `name` with the images (albedo, normal, roughness) wired into one Principled shader.

    `label` is written on a frame round the nodes. `roughness`, 0..1, holds where there is no roughness map.
    """
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # up to 4.5; from 5.0 on the tree is always there and use_nodes deprecated
        material.use_nodes = True
    tree = material.node_tree
    shader = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = roughness
    frame = tree.nodes.new("NodeFrame")
    frame.label = label or name
    for row, (kind, image) in enumerate(images.items()):
        node = tree.nodes.new("ShaderNodeTexImage")
        node.image = image
        node.parent = frame
        node.label = kind.capitalize()
        node.location = (-620, 320 - ROW_HEIGHT * row)
        if kind == "albedo":
            tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
        elif kind == "roughness":
            tree.links.new(node.outputs["Color"], shader.inputs["Roughness"])
        elif kind == "normal":
            bump = tree.nodes.new("ShaderNodeNormalMap")
            bump.location = (-260, 320 - ROW_HEIGHT * row)
            tree.links.new(node.outputs["Color"], bump.inputs["Color"])
            tree.links.new(bump.outputs["Normal"], shader.inputs["Normal"])
    return material


def image_of(material: bpy.types.Material | None, socket: str) -> bpy.types.Image | None:
    """The image wired, directly or through a normal map, into that input of the Principled shader; None if there is none."""
    if material is None or material.node_tree is None:
        return None
    shader = next((node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED"), None)
    links = shader.inputs[socket].links if shader is not None else ()
    node = links[0].from_node if links else None
    if node is not None and node.type == "NORMAL_MAP":
        node = node.inputs["Color"].links[0].from_node if node.inputs["Color"].links else None
    return node.image if node is not None and node.type == "TEX_IMAGE" else None
