"""A job's settings back into the panel."""

from __future__ import annotations

import bpy

from ..core.engine_options import engine_options
from ..core.protocol import messages
from .models import DRAWING
from .option_panels import set_option

GUIDANCE_SCALE = "guidance.guidance_scale"
START_COLORS = "surface.colors"


def load_request(settings: bpy.types.PropertyGroup, request: messages.JobRequest) -> list[str]:
    """Make the scene's settings those of `request`. Returns the names of options that this version does not know.

    Raises: ValueError with a sentence if its preset is unknown; nothing is changed then.
    """
    presets = {item.identifier for item in settings.bl_rna.properties["preset"].enum_items}
    if request.preset.upper() not in presets:
        raise ValueError(
            f"The quality {request.preset!r} of this job is not known here. Update the add-on, or generate it again as it was."
        )
    overrides = {key.replace("-", "_"): value for key, value in request.overrides.items()}
    settings.prompt, settings.negative, settings.model = request.prompt, request.negative, request.model
    settings.preset, settings.seed = request.preset.upper(), request.seed
    settings.new_seed_each_time, settings.n_variations = False, 1
    settings.drawn_start = request.start_mesh == DRAWING
    settings.reference_image, settings.reference_path = None, request.reference_image
    settings.further_views.clear()
    for view in request.further_views:
        item = settings.further_views.add()
        item.path, item.azimuth_deg, item.elevation_deg, item.weight = view.image, view.azimuth_deg, view.elevation_deg, view.weight
    scale = overrides.get(GUIDANCE_SCALE, "0")
    settings.guidance_scale = _number(scale)
    if "," not in scale:  # a schedule stays an option: the panel's one number cannot hold it
        overrides.pop(GUIDANCE_SCALE, None)
    overrides.pop(START_COLORS, None)  # says something about the mesh of that job only
    settings.options.clear()
    known = engine_options()
    for key, value in overrides.items():
        if key in known:
            set_option(settings, known[key], value)
    return sorted(overrides.keys() - known.keys())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
