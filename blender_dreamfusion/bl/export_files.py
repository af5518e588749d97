"""Write objects to a file for other programs, with Blender's own exporters."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import bpy

from .material import image_of
from .scratch import scratch_scene


class ExportError(Exception):
    """A file that could not be written; the text is a sentence with the fix."""


class Exporter(NamedTuple):
    """One of Blender's export operators and what it has to be told. Settings that this Blender does not know are left out."""

    label: str
    note: str
    suffixes: tuple[str, ...]
    operator: str
    settings: Mapping[str, Any] = MappingProxyType({})
    addon: str = ""
    """The add-on that brings the operator, as the preferences call it; empty: built in."""
    writes_textures: bool = True
    """Whether packed pictures reach the file or its folder by themselves."""
    uses_window: bool = False
    """Whether it takes its scene from the window, whatever the context says, and would crash if the two differed."""


EXPORTERS: dict[str, Exporter] = {
    "GLB": Exporter(
        "glTF (.glb)",
        "For the web and game engines, one file with its textures",
        (".glb",),
        "export_scene.gltf",
        {"export_format": "GLB", "use_selection": True, "use_active_scene": True, "export_apply": True},
        addon="glTF 2.0 format",
        uses_window=True,
    ),
    "OBJ": Exporter(
        "Wavefront (.obj)",
        "For old programs, textures beside it",
        (".obj",),
        "wm.obj_export",
        {"export_selected_objects": True, "export_pbr_extensions": True, "export_triangulated_mesh": False, "path_mode": "RELATIVE"},
        writes_textures=False,
    ),
    "FBX": Exporter(
        "FBX (.fbx)",
        "For Unity, Unreal and Maya, one file with its textures",
        (".fbx",),
        "export_scene.fbx",
        {"use_selection": True, "path_mode": "COPY", "embed_textures": True, "mesh_smooth_type": "FACE"},
        addon="FBX format",
    ),
    "USD": Exporter(
        "USD (.usdz)",
        "For Omniverse, Houdini and Apple, one file with its textures",
        (".usdz", ".usdc", ".usda", ".usd"),
        "wm.usd_export",
        # VIEWPORT: LODs are hidden in renders and would be left out.
        {"selected_objects_only": True, "export_textures": True, "export_textures_mode": "NEW", "evaluation_mode": "VIEWPORT"},
    ),
    "STL": Exporter("STL (.stl)", "For 3D printing, shape only", (".stl",), "wm.stl_export", {"export_selected_objects": True}),
}


def reason_against(file_format: str) -> str:
    """Why this Blender cannot write the format, with the fix; empty if it can."""
    exporter = EXPORTERS[file_format]
    if _operator(exporter) is not None:
        return ""
    if exporter.addon:
        return f"{exporter.label} needs the add-on {exporter.addon}. Switch it on in Preferences, Add-ons."
    return f"This Blender ({bpy.app.version_string}) has no exporter for {exporter.label}. Choose GLB."


def export_objects(objects: Sequence[bpy.types.Object], path: Path, file_format: str) -> list[Path]:
    """Write the objects, hidden ones too, to `path` (its folder must exist). Returns the files that were written for certain.

    Raises: ExportError (no exporter, nothing to write, the exporter's own refusal, or the disk's).
    """
    exporter = EXPORTERS[file_format]
    reason = reason_against(file_format)
    if reason:
        raise ExportError(reason)
    if path.suffix.lower() not in exporter.suffixes:
        path = path.with_name(path.name + exporter.suffixes[0])
    if not path.parent.is_dir():
        raise ExportError(f"There is no folder {path.parent}. Make it first, or choose another.")
    operator = _operator(exporter)
    known = operator.get_rna_type().properties.keys()
    settings = {name: value for name, value in exporter.settings.items() if name in known}
    try:
        written = [] if exporter.writes_textures else write_textures(objects, path.parent)
        with _shown(objects), scratch_scene(objects) as scene, _in_window(scene) if exporter.uses_window else nullcontext():
            operator(filepath=str(path), **settings)
    except (RuntimeError, OSError) as error:
        raise ExportError(f"{path} could not be written ({str(error).strip()}). Choose another folder or format.") from error
    if not path.is_file():
        raise ExportError(f"{path} was not written, though Blender's exporter named no reason. Choose another folder or format.")
    return [path, *written]


def write_textures(objects: Sequence[bpy.types.Object], folder: Path) -> list[Path]:
    """The packed pictures of the objects' materials as PNG files, under the names that exporters write for them."""
    materials = {material for obj in objects for material in obj.data.materials if material is not None}
    images = {image_of(material, socket) for material in materials for socket in ("Base Color", "Roughness", "Normal")}
    paths = []
    for image in images:
        if image is not None and image.packed_file is not None:
            path = folder / Path(image.filepath.removeprefix("//")).name
            path.write_bytes(image.packed_file.data)
            paths.append(path)
    return sorted(paths)


def _operator(exporter: Exporter) -> Any:
    """The operator, None where this Blender has none (bpy.ops answers to every name, so the type is asked for)."""
    group, name = exporter.operator.split(".")
    operator = getattr(getattr(bpy.ops, group), name)
    try:
        operator.get_rna_type()
    except KeyError:
        return None
    return operator


@contextmanager
def _in_window(scene: bpy.types.Scene) -> Iterator[None]:
    """Show `scene` in the window while the block runs."""
    window = bpy.context.window or bpy.context.window_manager.windows[0]
    before = window.scene
    window.scene = scene
    try:
        yield
    finally:
        window.scene = before


@contextmanager
def _shown(objects: Sequence[bpy.types.Object]) -> Iterator[None]:
    """Objects switched off in all viewports cannot be selected, and exporters ask for the selection."""
    off = [obj for obj in objects if obj.hide_viewport or obj.hide_select]
    before = [(obj, obj.hide_viewport, obj.hide_select) for obj in off]
    for obj in off:
        obj.hide_viewport = obj.hide_select = False
    try:
        yield
    finally:
        for obj, viewport, select in before:
            obj.hide_viewport, obj.hide_select = viewport, select
