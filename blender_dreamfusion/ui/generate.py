"""The operator that starts jobs. What its caller leaves out comes from the scene's panel.

In a window it returns at once and the pump does the rest; in the background it waits until the objects are there.
"""

from dataclasses import replace

import bpy

from ..core.protocol import messages
from ..core.queue import QueueEntry
from ..core.settings import job_request
from . import reference_files, runtime
from .asking import HIDDEN, SKIP, JobOperator
from .models import DRAWING, needs_picture
from .properties import MAX_SEED, MAX_VARIATIONS
from .starting import begin, refuse


class DREAMFUSION_OT_generate(JobOperator, bpy.types.Operator):
    """Make an object from the prompt; in the background this waits until the object is in the scene"""

    bl_idname = "dreamfusion.generate"
    bl_label = "Generate"
    bl_options = {"REGISTER"}

    prompt: bpy.props.StringProperty(name="Prompt", description="What to make; left out: the scene's prompt", options=SKIP)  # type: ignore[valid-type]
    n_variations: bpy.props.IntProperty(  # type: ignore[valid-type]
        name="Variations",
        description="Objects with this seed and the next ones; left out: the scene's number",
        default=1,
        min=1,
        max=MAX_VARIATIONS,
        options=SKIP,
    )
    reference_image: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Reference", description="Picture file of the object; left out: the scene's pictures", subtype="FILE_PATH", options=SKIP
    )
    start_from: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Start From", description="Job folder whose last state the new job goes on from", subtype="DIR_PATH", options=HIDDEN
    )
    start_mesh: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Start Mesh",
        description="Mesh file (GLB, OBJ, PLY, STL) that it grows from, sphere, or shap-e to draw one; left out: what the scene says",
        subtype="FILE_PATH",
        options=HIDDEN,
    )
    resume: bpy.props.BoolProperty(name="Resume", description="Go on from the job folder's last checkpoint", options=SKIP)  # type: ignore[valid-type]
    height_m: bpy.props.FloatProperty(name="Height (m)", description="Left out: the scene's height", default=1.0, min=0.001, options=SKIP)  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            entries = self._entries(context)
        except (ValueError, OSError) as error:
            return refuse(self, str(error))
        if self.takes_new_seed(context):
            context.scene.dreamfusion.seed = entries[0].request.seed  # what was made can be made again
        return begin(self, context, entries)

    def _entries(self, context: bpy.types.Context) -> list[QueueEntry]:
        """One job per variation. Raises: ValueError, OSError with a sentence for the user."""
        request = self._request(context)
        plan = runtime.current_plan(context)._replace(height_m=self.value(context, "height_m"))
        n_variations = self.value(context, "n_variations")
        if self.out_dir and n_variations > 1:
            raise ValueError("One job folder holds one job. Leave the folder out, or make one variation.")
        entries: list[QueueEntry] = []
        for number in range(n_variations):
            seed = (request.seed + number) % (MAX_SEED + 1)
            folder = self.job_folder(context, request.title, taken=[entry.folder for entry in entries])
            entries.append(QueueEntry(replace(request, seed=seed), str(folder), plan, resume=self.resume))
        return entries

    def _request(self, context: bpy.types.Context) -> "messages.JobRequest":
        settings = context.scene.dreamfusion
        further: tuple[messages.FurtherView, ...] = ()
        if self.is_given("reference_image"):  # the scene's further pictures show something else
            picture = bpy.path.abspath(self.reference_image)
        else:
            picture, further = reference_files.file_of(settings), reference_files.further_views(settings)
        asked = self.asked(context)
        return job_request(
            prompt=self.value(context, "prompt"),
            needs_words=not needs_picture(asked["model"]),
            **asked,
            reference_image=picture,
            further_views=further,
            start_from=bpy.path.abspath(self.start_from) if self.start_from else "",
            start_mesh=self._start_mesh(context),
        )

    def _start_mesh(self, context: bpy.types.Context) -> str:
        if self.is_given("start_mesh"):
            return bpy.path.abspath(self.start_mesh) if self.start_mesh else ""
        return DRAWING if context.scene.dreamfusion.drawn_start and not self.start_from else ""


CLASSES = (DREAMFUSION_OT_generate,)
