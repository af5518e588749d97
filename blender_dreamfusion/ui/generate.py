"""The operator that starts jobs. What its caller leaves out comes from the scene's panel.

In a window it returns at once and the pump does the rest; in the background it waits until the objects are there.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy

from ..core.protocol import messages
from ..core.queue import QueueEntry
from ..core.settings import job_request, parse_overrides
from . import reference_image, runtime
from .option_panels import changed_options
from .properties import MAX_SEED, MAX_VARIATIONS, PRESETS
from .starting import begin, new_folder, refuse

# Kept values of the last call would silently change the next one.
SKIP = {"SKIP_SAVE"}
HIDDEN = {"SKIP_SAVE", "HIDDEN"}


class DREAMFUSION_OT_generate(bpy.types.Operator):
    """Make an object from the prompt; in the background this waits until the object is in the scene"""

    bl_idname = "dreamfusion.generate"
    bl_label = "Generate"
    bl_options = {"REGISTER"}

    prompt: bpy.props.StringProperty(name="Prompt", description="What to make; left out: the scene's prompt", options=SKIP)  # type: ignore[valid-type]
    negative: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Negative Prompt", description="What it must not look like; left out: the scene's", options=SKIP
    )
    model: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Model", description="Id in the model table or a folder; left out: the scene's model", options=SKIP
    )
    preset: bpy.props.EnumProperty(name="Quality", description="Left out: the scene's quality", items=PRESETS, options=SKIP)  # type: ignore[valid-type]
    seed: bpy.props.IntProperty(name="Seed", description="Left out: the scene's seed", min=0, max=MAX_SEED, options=SKIP)  # type: ignore[valid-type]
    n_variations: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Variations",
        description="Objects with this seed and the next ones; left out: the scene's number",
        default=1,
        min=1,
        max=MAX_VARIATIONS,
        options=SKIP,
    )
    guidance_scale: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Guidance Scale", description="0 takes what suits the method; left out: the scene's", min=0.0, max=1000.0, options=SKIP
    )
    reference_image: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Reference", description="Picture file of the object; left out: the scene's", subtype="FILE_PATH", options=SKIP
    )
    start_from: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Start From", description="Job folder whose last state the new job goes on from", subtype="DIR_PATH", options=HIDDEN
    )
    settings: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Settings", description="Engine settings as name=value, separated by spaces; they win over the scene's", options=SKIP
    )
    out_dir: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Job Folder", description="Left out: a new folder in the jobs folder", subtype="DIR_PATH", options=HIDDEN
    )
    resume: bpy.props.BoolProperty(name="Resume", description="Go on from the job folder's last checkpoint", options=SKIP)  # type: ignore[valid-type]
    height_m: bpy.props.FloatProperty(name="Height (m)", description="Left out: the scene's height", default=1.0, min=0.001, options=SKIP)  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            entries = self._entries(context)
        except (ValueError, OSError) as error:
            return refuse(self, str(error))
        if self._takes_new_seed(context):
            context.scene.dreamfusion.seed = entries[0].request.seed  # what was made can be made again
        return begin(self, context, entries)

    def _entries(self, context: bpy.types.Context) -> list[QueueEntry]:
        """One job per variation. Raises: ValueError, OSError with a sentence for the user."""
        request = self._request(context)
        plan = runtime.current_plan(context)._replace(height_m=self._value(context, "height_m"))
        n_variations = self._value(context, "n_variations")
        if self.out_dir and n_variations > 1:
            raise ValueError("One job folder holds one job. Leave the folder out, or make one variation.")
        entries: list[QueueEntry] = []
        for number in range(n_variations):
            seed = (request.seed + number) % (MAX_SEED + 1)
            folder = self._folder(context, request.prompt, taken=[entry.folder for entry in entries])
            entries.append(QueueEntry(replace(request, seed=seed), str(folder), plan, resume=self.resume))
        return entries

    def _request(self, context: bpy.types.Context) -> messages.JobRequest:
        settings = context.scene.dreamfusion
        overrides = changed_options(settings)
        scale = self._value(context, "guidance_scale")
        if self._is_given("guidance_scale") or (scale > 0 and "guidance.guidance_scale" not in overrides):
            overrides["guidance.guidance_scale"] = f"{scale:g}"
        overrides.update(parse_overrides(self.settings))
        picture = bpy.path.abspath(self.reference_image) if self._is_given("reference_image") else reference_image.file_of(settings)
        return job_request(
            prompt=self._value(context, "prompt"),
            negative=self._value(context, "negative"),
            model=self._value(context, "model"),
            preset=self._value(context, "preset"),
            seed=random.randrange(MAX_SEED + 1) if self._takes_new_seed(context) else self._value(context, "seed"),
            overrides=overrides,
            reference_image=picture,
            start_from=bpy.path.abspath(self.start_from) if self.start_from else "",
        )

    def _takes_new_seed(self, context: bpy.types.Context) -> bool:
        return context.scene.dreamfusion.new_seed_each_time and not self._is_given("seed")

    def _is_given(self, name: str) -> bool:
        return bool(self.properties.is_property_set(name))

    def _value(self, context: bpy.types.Context, name: str) -> Any:
        """What the caller gave, else what the scene's panel says."""
        return getattr(self if self._is_given(name) else context.scene.dreamfusion, name)

    def _folder(self, context: bpy.types.Context, prompt: str, taken: list[str]) -> Path:
        if self.out_dir:
            return Path(bpy.path.abspath(self.out_dir)).resolve()
        return new_folder(context, prompt, taken)


CLASSES = (DREAMFUSION_OT_generate,)
