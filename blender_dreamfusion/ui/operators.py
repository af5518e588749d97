"""Operators. Each unpacks its properties and calls one function.

Problems end as a sentence in the status bar; in a script as the RuntimeError that Blender makes of it.
"""

import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import bpy

from ..core.job_state import Status
from ..core.naming import new_job_folder
from ..core.protocol import messages
from ..core.settings import NOT_SET_UP, job_request
from ..core.terminal import TerminalProgress
from . import preferences, runtime
from .properties import MAX_SEED, PRESETS

# Kept values of the last call would silently change the next one.
SKIP = {"SKIP_SAVE"}
HIDDEN = {"SKIP_SAVE", "HIDDEN"}


class DREAMFUSION_OT_generate(bpy.types.Operator):
    """Make an object from the prompt; in the background this waits until the object is in the scene"""

    bl_idname = "dreamfusion.generate"
    bl_label = "Generate"
    bl_options = {"REGISTER"}

    prompt: bpy.props.StringProperty(name="Prompt", description="What to make; left out: the scene's prompt", options=SKIP)  # type: ignore[valid-type]
    negative: bpy.props.StringProperty(name="Negative Prompt", description="What it must not look like", options=SKIP)  # type: ignore[valid-type]
    model: bpy.props.StringProperty(name="Model", description="Id in the model table or a folder", default="toybox", options=SKIP)  # type: ignore[valid-type]
    preset: bpy.props.EnumProperty(name="Quality", description="Left out: the scene's quality", items=PRESETS, options=SKIP)  # type: ignore[valid-type]
    seed: bpy.props.IntProperty(name="Seed", description="Left out: the scene's seed", min=0, max=MAX_SEED, options=SKIP)  # type: ignore[valid-type]
    settings: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Settings", description="Engine settings as name=value, separated by spaces", options=SKIP
    )
    out_dir: bpy.props.StringProperty(  # type: ignore[valid-type]
        name="Job Folder", description="Left out: a new folder in the jobs folder", subtype="DIR_PATH", options=HIDDEN
    )
    resume: bpy.props.BoolProperty(name="Resume", description="Go on from the job folder's last checkpoint", options=SKIP)  # type: ignore[valid-type]
    height_m: bpy.props.FloatProperty(name="Height (m)", description="Left out: the scene's height", default=1.0, min=0.001, options=SKIP)  # type: ignore[valid-type]

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if runtime.state().is_active:
            cls.poll_message_set("A job is running; cancel it or wait for it")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        preferences.forget_cache()
        python = preferences.engine_python(context)
        if python is None:
            return self._refuse(str(NOT_SET_UP))
        try:
            request = job_request(
                prompt=self._value(context, "prompt"),
                negative=self.negative,
                model=self.model,
                preset=self._value(context, "preset"),
                seed=self._value(context, "seed"),
                settings=self.settings,
            )
            folder = self._folder(context, request.prompt)
            log_path = Path(bpy.utils.user_resource("DATAFILES", path="dreamfusion", create=True)) / "engine.log"
            plan = replace(runtime.current_plan(context), height_m=self._value(context, "height_m"))
            runtime.start(request, folder, plan, python=python, log_path=log_path, resume=self.resume)
        except (ValueError, OSError) as error:  # ProtocolError is a ValueError
            text = "The prompt is too long. Keep it under 1,000 characters." if isinstance(error, messages.ProtocolError) else str(error)
            return self._refuse(text)
        if bpy.app.background:
            return self._wait()
        problem = runtime.problem()  # the engine could not even be started
        return {"FINISHED"} if problem is None else self._refuse(str(problem))

    def _wait(self) -> set[str]:
        progress = TerminalProgress(sys.stdout)
        end = runtime.wait(progress.show)
        progress.finish(end)
        runtime.release_engine()
        problem = runtime.problem()
        if problem is not None:
            return self._refuse(str(problem))
        return {"FINISHED"} if end.status is Status.DONE else {"CANCELLED"}

    def _value(self, context: bpy.types.Context, name: str):  # type: ignore[no-untyped-def]
        """What the caller gave, else what the scene's panel says."""
        return getattr(self if self.properties.is_property_set(name) else context.scene.dreamfusion, name)

    def _folder(self, context: bpy.types.Context, prompt: str) -> Path:
        if self.out_dir:
            return Path(bpy.path.abspath(self.out_dir)).resolve()
        jobs = preferences.jobs_folder(context)
        jobs.mkdir(parents=True, exist_ok=True)  # the engine makes the job's own folder, but not those above
        return new_job_folder(jobs, prompt, datetime.now())

    def _refuse(self, text: str) -> set[str]:
        self.report({"ERROR"}, text)
        return {"CANCELLED"}


class _JobOperator:
    """Operators that talk to the running job."""

    bl_options = {"REGISTER"}
    allowed: frozenset[Status]

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return runtime.state().status in cls.allowed


class DREAMFUSION_OT_cancel(_JobOperator, bpy.types.Operator):
    """End the job without a result; its folder stays and can be resumed"""

    bl_idname = "dreamfusion.cancel"
    bl_label = "Cancel"
    allowed = frozenset({Status.STARTING, Status.RUNNING, Status.PAUSED, Status.FINISHING})

    def execute(self, _context: bpy.types.Context) -> set[str]:
        return _told(lambda session: session.cancel())


class DREAMFUSION_OT_finish_now(_JobOperator, bpy.types.Operator):
    """Stop shaping and make the object from what there is"""

    bl_idname = "dreamfusion.finish_now"
    bl_label = "Finish Now"
    allowed = frozenset({Status.RUNNING, Status.PAUSED})

    def execute(self, _context: bpy.types.Context) -> set[str]:
        return _told(lambda session: session.finish_now())


class DREAMFUSION_OT_pause(_JobOperator, bpy.types.Operator):
    """Hold the job, or let it go on"""

    bl_idname = "dreamfusion.pause"
    bl_label = "Pause"
    allowed = frozenset({Status.RUNNING, Status.PAUSED})

    def execute(self, _context: bpy.types.Context) -> set[str]:
        if runtime.state().status is Status.PAUSED:
            return _told(lambda session: session.resume())
        return _told(lambda session: session.pause())


def _told(tell) -> set[str]:  # type: ignore[no-untyped-def]
    session = runtime.session()
    if session is None:
        return {"CANCELLED"}
    tell(session)
    return {"FINISHED"}


CLASSES = (
    DREAMFUSION_OT_generate,
    DREAMFUSION_OT_cancel,
    DREAMFUSION_OT_finish_now,
    DREAMFUSION_OT_pause,
)
