"""What marks an object as one that was generated here."""

import bpy

# Custom properties with where an object comes from. Lists and tables of result.json stay in the job folder.
PROVENANCE_PREFIX = "dreamfusion_"


def is_generated(obj: bpy.types.Object | None) -> bool:
    """Whether this add-on made the object."""
    return obj is not None and obj.type == "MESH" and PROVENANCE_PREFIX + "job" in obj


def replaceable(name: str) -> bpy.types.Object | None:
    """The generated object of that name whose mesh may be exchanged; None if there is none."""
    obj = bpy.data.objects.get(name) if name else None
    if obj is None or not is_generated(obj) or obj.library is not None or obj.data.library is not None:
        return None
    return obj
