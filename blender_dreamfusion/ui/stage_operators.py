"""Jobs that start from the selected mesh: a new texture for it, a better shape of it, something new grown from it.

The mesh goes into a file as it stands in the scene, edits and modifiers included; the result stands where the mesh stands.
In a script: bpy.ops.dreamfusion.new_texture(prompt="a wooden chair") for the active object.
"""

from typing import TYPE_CHECKING, Any

import bpy

from ..bl.provenance import PROVENANCE_PREFIX
from ..core.deferred import Deferred
from ..core.queue import QueueEntry
from ..core.settings import job_request
from . import preferences, runtime
from .asking import SKIP, JobOperator
from .drawing import refuse as refuse_poll
from .object_operators import leave_mode
from .starting import begin, refuse

if TYPE_CHECKING:
    from ..bl import source_object
    from ..core import source_file
else:  # used by a click
    source_object, source_file = Deferred("..bl.source_object"), Deferred(".source_file")

COLORS = "surface.colors"


class _FromMesh(JobOperator):
    """An operator that makes a job of the active mesh object. In a window it asks for the prompt first."""

    bl_options = {"REGISTER"}
    stage: str
    asks_own_prompt = False
    """Whether an object that was generated here proposes its own prompt, rather than the panel its."""
    keeps_colors = True
    """What `keep_colors` is if nobody says."""

    prompt: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Prompt", description="What it is to be; left out: what the object was generated from, else the scene's prompt", options=SKIP
    )
    into_selected: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Into Selected",
        description="Exchange the mesh of the selected object; its transform, modifiers and collections stay. Off: a new object",
        options=SKIP,
    )
    keep_colors: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Start from Its Colors", description="Start from the texture that the mesh has, if it has one. Off: from gray", options=SKIP
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        active = context.active_object
        if active is None or active.type != "MESH":
            return refuse_poll(cls, "Select a mesh object first")
        if preferences.engine_python(context) is None:
            return refuse_poll(cls, "The engine is not set up. Set it up in the add-on's preferences first")
        return True

    def invoke(self: Any, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        if not self.is_given("prompt"):
            self.prompt = self._proposed_prompt(context)
        if not self.is_given("keep_colors"):
            self.keep_colors = self.keeps_colors
        return set(context.window_manager.invoke_props_dialog(self, width=320))

    def draw(self: Any, _context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        for name in ("prompt", "keep_colors", "into_selected"):
            layout.prop(self, name)

    def execute(self: Any, context: bpy.types.Context) -> set[str]:
        if not leave_mode(context):
            return refuse(self, "Blender is in a mode that cannot be left. Go to Object Mode, then try again.")
        try:
            entry = self._entry(context, context.active_object)
        except (ValueError, OSError) as error:
            return refuse(self, str(error))
        if self.takes_new_seed(context):
            context.scene.dreamfusion.seed = entry.request.seed
        return begin(self, context, [entry])

    def _entry(self: Any, context: bpy.types.Context, active: bpy.types.Object) -> QueueEntry:
        """Raises: ValueError, OSError with a sentence for the user."""
        asked = self.asked(context)
        # A mesh that is exchanged keeps its modifiers, so they must not be in the new one already. A texture exchanges none.
        source = source_object.read_source(active, with_modifiers=self.stage == "texture" or not self.into_selected)
        source_file.check_source(source, active.name)
        keeps = self.keep_colors if self.is_given("keep_colors") else self.keeps_colors
        picture = source_object.color_picture(active) if keeps else None
        asked["overrides"].setdefault(COLORS, "gray" if picture is None or source.corner_uvs is None else "source")
        path = source_file.write_source(source, picture, runtime.data_folder() / "sources")
        prompt = self.prompt if self.is_given("prompt") else self._proposed_prompt(context)
        request = job_request(prompt=prompt, **asked, start_mesh=str(path), stage=self.stage)
        plan = runtime.current_plan(context)._replace(
            location=source.bottom,
            height_m=source.height * context.scene.unit_settings.scale_length,
            replace_object="",
            into_object=active.name if self.into_selected else "",
            only_texture=self.stage == "texture",
        )
        if self.stage == "texture":
            plan = plan._replace(quads=False)  # the mesh is to stay
        return QueueEntry(request, str(self.job_folder(context, request.prompt, taken=[])), plan, resume=False)

    def _proposed_prompt(self, context: bpy.types.Context) -> str:
        own = str(context.active_object.get(PROVENANCE_PREFIX + "prompt", ""))
        panel = str(context.scene.dreamfusion.prompt)
        return (own or panel) if self.asks_own_prompt else (panel or own)


class DREAMFUSION_OT_new_texture(_FromMesh, bpy.types.Operator):
    """Paint the selected mesh anew from a prompt. Its shape stays, and so does its UV map where that can hold a texture"""

    bl_idname = "dreamfusion.new_texture"
    bl_label = "New Texture from Prompt"
    stage = "texture"
    keeps_colors = False

    prompt: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Prompt", description="What it is to look like; left out: the scene's prompt", options=SKIP
    )
    into_selected: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Into Selected",
        description="Give the selected object itself the new texture; its mesh stays as it is. Off: a new object with the same shape",
        default=True,
        options=SKIP,
    )


class DREAMFUSION_OT_refine_shape(_FromMesh, bpy.types.Operator):
    """Work out the shape and the colors of the selected mesh further. Its surface may move; it must be closed"""

    bl_idname = "dreamfusion.refine_shape"
    bl_label = "Refine Shape"
    stage = "refine"
    asks_own_prompt = True


class DREAMFUSION_OT_start_from_mesh(_FromMesh, bpy.types.Operator):
    """Generate an object from a prompt that begins as the selected mesh, instead of as a ball"""

    bl_idname = "dreamfusion.start_from_mesh"
    bl_label = "Start from Selected Mesh"
    stage = "generate"

    prompt: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Prompt", description="What it is to become; left out: the scene's prompt", options=SKIP
    )


CLASSES = (DREAMFUSION_OT_new_texture, DREAMFUSION_OT_refine_shape, DREAMFUSION_OT_start_from_mesh)
