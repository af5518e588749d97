"""What is to happen with a result once it is there: fixed when a job starts, kept with it as plain data."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

COLLECTION_NAME = "DreamFusion"
# Painted or glazed things without a roughness map: neither chalk nor mirror.
DEFAULT_ROUGHNESS = 0.7
SHADINGS = ("SMOOTH", "FLAT", "AUTO")
LOD_SHARES = (0.5, 0.25, 0.1)


class ImportPlan(NamedTuple):
    """How and where a result becomes an object. No bpy data in here: ids die on undo and load, names do not."""

    location: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the object's bottom center stands, in the scene's own units."""
    height_m: float = 1.0
    """Height in meters. > 0. A replaced object keeps its height."""
    scene_name: str = ""
    """The scene it goes into; empty, or a scene that is gone: the current one."""
    file_count: int = 0
    """How many files had been opened when the job started: the result of an older one waits for a click."""
    collection: str = COLLECTION_NAME
    """Name of the collection; made where it is missing."""
    replace_object: str = ""
    """Name of a generated object whose mesh is exchanged; empty: a new object."""
    into_object: str = ""
    """Name of a mesh object, no matter who made it, that a stage's result goes into; its transform, modifiers and collections stay."""
    only_texture: bool = False
    """The mesh stays as well: the result is a new material for it, if its UV map could hold the texture."""
    shading: str = "SMOOTH"
    """SMOOTH, FLAT, or AUTO: smooth with edges sharper than `sharp_angle_deg` kept sharp."""
    sharp_angle_deg: float = 40.0
    """0..180, for AUTO."""
    roughness: float = DEFAULT_ROUGHNESS
    """Of the material, 0..1. A field has no roughness, so there is no map."""
    quads: bool = False
    """Rebuild the surface from quads, with a UV map and textures of its own."""
    quad_faces: int = 4000
    """About how many quads."""
    lods: tuple[float, ...] = ()
    """Shares of the faces, 0..1, of the coarser copies _LOD1, _LOD2, ..."""
    mark_asset: bool = False
    catalog: str = ""
    """Path of the asset catalog, such as "Props/Kitchen"; empty: none."""
    tags: tuple[str, ...] = ()
    author: str = ""
    licence: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for a file or an operator."""
        return self._asdict()

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "ImportPlan":
        """The plan that `to_json` described; what is missing or unknown (another version wrote it) takes its default.

        Raises: ValueError if a value is of another kind than it should be.
        """
        values = {}
        for name, default in ImportPlan._field_defaults.items():
            if name in data:
                values[name] = _as(type(default), data[name], name)
        plan = ImportPlan(**values)
        if len(plan.location) != 3 or plan.shading not in SHADINGS or not (math.isfinite(plan.height_m) and plan.height_m > 0):
            raise ValueError(f"location {plan.location}, height_m {plan.height_m} or shading {plan.shading} of an import plan is wrong")
        return plan


def _as(kind: type, value: Any, name: str) -> Any:
    """`value` as the type of a field's default; numbers may come as int, tuples as list."""
    if kind is tuple and isinstance(value, (list, tuple)) and all(isinstance(part, (str, int, float)) for part in value):
        return tuple(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind and kind is not tuple:
        return value
    raise ValueError(f"{name} of an import plan is {value!r}, but must be a {kind.__name__}")
