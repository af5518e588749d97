"""Operators that talk to the running job. Each calls one function."""

import bpy

from ..core.job_state import Status
from . import runtime
from .drawing import refuse


class _JobOperator:
    """Operators that talk to the running job."""

    bl_options = {"REGISTER"}
    allowed: frozenset[Status]
    refusal = "Only while a job takes shape"

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        if runtime.state().status in cls.allowed:
            return True
        return refuse(cls, cls.refusal)


class DREAMFUSION_OT_cancel(_JobOperator, bpy.types.Operator):
    """End the job without a result; its folder stays and can be resumed"""

    bl_idname = "dreamfusion.cancel"
    bl_label = "Cancel"
    allowed = frozenset({Status.STARTING, Status.RUNNING, Status.PAUSED, Status.FINISHING})
    refusal = "No job is running"

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
    DREAMFUSION_OT_cancel,
    DREAMFUSION_OT_finish_now,
    DREAMFUSION_OT_pause,
)
