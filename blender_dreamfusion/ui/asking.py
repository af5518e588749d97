"""What the operators that ask for a job share: the properties of a job, and where what is left out comes from."""

import random
from pathlib import Path
from typing import Any

import bpy

from ..core.settings import parse_overrides
from .option_panels import changed_options
from .properties import MAX_SEED, PRESETS
from .starting import new_folder

# Kept values of the last call would silently change the next one.
SKIP = {"SKIP_SAVE"}
HIDDEN = {"SKIP_SAVE", "HIDDEN"}


class JobOperator:
    """Mixed into operators. What their caller leaves out comes from the scene's panel."""

    negative: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Negative Prompt", description="What it must not look like; left out: the scene's", options=SKIP
    )
    model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Model", description="Id in the model table or a folder; left out: the scene's model", options=SKIP
    )
    preset: bpy.props.EnumProperty(name="Quality", description="Left out: the scene's quality", items=PRESETS, options=SKIP)  # type: ignore[valid-type]
    seed: bpy.props.IntProperty(name="Seed", description="Left out: the scene's seed", min=0, max=MAX_SEED, options=SKIP)  # type: ignore[valid-type]
    guidance_scale: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Guidance Scale", description="0 takes what suits the method; left out: the scene's", min=0.0, max=1000.0, options=SKIP
    )
    settings: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Settings", description="Engine settings as name=value, separated by spaces; they win over the scene's", options=SKIP
    )
    out_dir: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Job Folder", description="Left out: a new folder in the jobs folder", subtype="DIR_PATH", options=HIDDEN
    )

    def is_given(self: Any, name: str) -> bool:
        return bool(self.properties.is_property_set(name))

    def value(self: Any, context: bpy.types.Context, name: str) -> Any:
        """What the caller gave, else what the scene's panel says."""
        return getattr(self if self.is_given(name) else context.scene.dreamfusion, name)

    def takes_new_seed(self: Any, context: bpy.types.Context) -> bool:
        return context.scene.dreamfusion.new_seed_each_time and not self.is_given("seed")

    def asked(self: Any, context: bpy.types.Context) -> dict[str, Any]:
        """What every job is asked with, as arguments of `job_request`. Raises: ValueError with a sentence for the user."""
        overrides = changed_options(context.scene.dreamfusion)
        scale = self.value(context, "guidance_scale")
        if self.is_given("guidance_scale") or (scale > 0 and "guidance.guidance_scale" not in overrides):
            overrides["guidance.guidance_scale"] = f"{scale:g}"
        overrides.update(parse_overrides(self.settings))
        return {
            "negative": self.value(context, "negative"),
            "model": self.value(context, "model"),
            "preset": self.value(context, "preset"),
            "seed": random.randrange(MAX_SEED + 1) if self.takes_new_seed(context) else self.value(context, "seed"),
            "overrides": overrides,
        }

    def job_folder(self: Any, context: bpy.types.Context, prompt: str, taken: list[str]) -> Path:
        """Raises: OSError if the jobs folder cannot be made."""
        if self.out_dir:
            return Path(bpy.path.abspath(self.out_dir)).resolve()
        return new_folder(context, prompt, taken)
