"""One Principled material from baked textures."""

from __future__ import annotations

from pathlib import Path

import bpy

from ..core.naming import ID_NAME_BYTES, clip_utf8
from ..core.results import TEXTURES

# Painted or glazed things without a roughness map: neither chalk nor mirror.
DEFAULT_ROUGHNESS = 0.7


def build_material(name: str, textures: dict[str, Path], *, label: str = "") -> bpy.types.Material:
    """A material named `name`; `textures` maps albedo, normal, roughness to PNG files, which are packed.

    `label` is written on a frame round the nodes.
    Raises: RuntimeError if a picture cannot be decoded; nothing is left behind then.
    """
    images: dict[str, bpy.types.Image] = {}
    try:
        for kind, path in textures.items():
            images[kind] = load_packed(path, f"{name}_{kind}", is_color=TEXTURES[kind])
    except RuntimeError:
        for image in images.values():
            bpy.data.images.remove(image)
        raise
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # up to 4.5; from 5.0 on the tree is always there and use_nodes deprecated
        material.use_nodes = True
    tree = material.node_tree
    shader = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = DEFAULT_ROUGHNESS
    frame = tree.nodes.new("NodeFrame")
    frame.label = label or name
    for row, (kind, image) in enumerate(images.items()):
        node = tree.nodes.new("ShaderNodeTexImage")
        node.image = image
        node.parent = frame
        node.label = kind.capitalize()
        node.location = (-620, 320 - 300 * row)
        if kind == "albedo":
            tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
        elif kind == "roughness":
            tree.links.new(node.outputs["Color"], shader.inputs["Roughness"])
        elif kind == "normal":
            bump = tree.nodes.new("ShaderNodeNormalMap")
            bump.location = (-260, 320 - 300 * row)
            tree.links.new(node.outputs["Color"], bump.inputs["Color"])
            tree.links.new(bump.outputs["Normal"], shader.inputs["Normal"])
    return material


def load_packed(path: Path, name: str, *, is_color: bool) -> bpy.types.Image:
    """The picture as a packed image: it lives in the .blend and does not need the job folder any more.

    The job folder's path is not kept: it would be wrong on every other computer.
    """
    image = bpy.data.images.load(str(path), check_existing=False)
    if not image.has_data and image.size[0] == 0:
        bpy.data.images.remove(image)
        raise RuntimeError(f"{path.name} holds no picture")
    image.name = clip_utf8(name, ID_NAME_BYTES)
    image.colorspace_settings.name = "sRGB" if is_color else "Non-Color"
    image.pack()
    image.filepath = f"//{path.name}"
    for packed in image.packed_files:
        packed.filepath = f"//{path.name}"
    return image
