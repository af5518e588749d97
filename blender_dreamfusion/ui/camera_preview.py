"""The running job seen through the scene's camera, over a 3D viewport, or as a light mesh in the scene.

A follower of the job (see runtime.followers): at each pump it reads the view that is wanted, asks the engine for pictures of
it, and shows those that came. It keeps numbers only; data-blocks are looked up each time, so nothing of it dies on undo, load,
a deleted camera or another scene.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import bpy
from bpy.app.handlers import persistent

from ..bl.camera_view import CannotShowError, camera_view, placement_of, viewport_view, viewports
from ..bl.provenance import replaceable
from ..core.deferred import Deferred
from ..core.job_state import JobState
from ..core.protocol import messages
from ..core.view_numbers import Placement, View
from . import runtime, viewport_overlay
from .drawing import draw_text
from .ids import TAB

if TYPE_CHECKING:
    from ..bl import camera_background, proxy_mesh
    from ..core import proxy_file
else:  # used while a job is followed
    camera_background, proxy_mesh = Deferred("..bl.camera_background"), Deferred("..bl.proxy_mesh")
    proxy_file = Deferred(".proxy_file")

# A view that goes on moving is asked for this often, one that has come to rest at once.
MOVING_S = 0.3
# Pictures of views asked for longer ago than this many are not shown any more.
KEPT_VIEWS = 16


class DREAMFUSION_PG_camera(bpy.types.PropertyGroup):
    """What a scene shows of a running job."""

    follow: bpy.props.EnumProperty(  # type: ignore[valid-type]
        name="Show In",
        description="Where the object is shown while it takes shape, beside the panel",
        items=(
            ("NONE", "Panel Only", "Only the small turning picture in the panel"),
            ("CAMERA", "Camera", "Through the scene's camera, as a background image in front of everything"),
            ("VIEWPORT", "3D Viewport", "Over the largest 3D viewport, following as you orbit"),
        ),
    )
    every_s: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Every (s)", description="Seconds between two pictures while the view rests", default=2.0, min=0.2, max=600.0
    )
    use_proxy: bpy.props.BoolProperty(  # type: ignore[valid-type]
        name="Mesh in Scene", description="A light mesh where the object will stand, until the object is there; it is not rendered"
    )
    proxy_every_s: bpy.props.FloatProperty(  # type: ignore[valid-type]
        name="Mesh Every (s)", description="Seconds between two light meshes", default=5.0, min=1.0, max=600.0
    )


class _Following:
    """What the engine was asked for by one job, in numbers."""

    def __init__(self, job: str = "") -> None:
        self.job = job
        self.number = 0
        self.asked: dict[int, tuple[View, Placement]] = {}
        self.every_s = 0.0
        self.asked_at = float("-inf")
        self.seen: View | None = None
        self.shown_path = ""
        self.proxy_every_s = 0.0
        self.proxy_path = ""
        self.problem = ""

    @property
    def newest(self) -> tuple[View, Placement] | None:
        return self.asked.get(self.number)


_following = _Following()


def problem() -> str:
    """Why the running job is not shown where it was to be; empty if it is."""
    return _following.problem


def follow(state: JobState) -> None:
    """Ask and show; called at each pump."""
    global _following
    plan = runtime.plan()
    scene = bpy.data.scenes.get(plan.scene_name or bpy.context.scene.name) if plan is not None else None
    if not state.is_active or plan is None or scene is None:
        if _following.job:
            clear()
        return
    if state.job != _following.job:
        clear()
        _following = _Following(state.job)
    settings = scene.dreamfusion.camera
    placement = placement_of(plan.location, plan.height_m, scene, replaceable(plan.replace_object))
    before = _following.problem
    _following.problem = ""
    try:
        _follow_view(state, scene, settings, placement)
    except CannotShowError as error:
        _stop_view()
        _following.problem = str(error)
    _follow_proxy(state, scene, settings, placement)
    if _following.problem != before:
        runtime.redraw()


def clear() -> None:
    """Nothing of a job is shown any more, in any scene."""
    global _following
    _following = _Following()
    camera_background.clear()
    proxy_mesh.clear()
    viewport_overlay.clear()


def _follow_view(state: JobState, scene: bpy.types.Scene, settings: bpy.types.PropertyGroup, placement: Placement) -> None:
    """Raises: CannotShowError."""
    if settings.follow == "NONE":
        _stop_view()
        return
    view = camera_view(scene) if settings.follow == "CAMERA" else viewport_view(scene)
    if _is_to_be_asked(view, placement, settings.every_s):
        _ask(state, view, placement, settings.every_s)
    _following.seen = view
    pictured = _following.asked.get(state.view_number)
    if not state.view_path or pictured is None:
        return
    if settings.follow == "CAMERA":
        viewport_overlay.clear()
        is_registered = view.resembles(pictured[0]) and placement == pictured[1]
        camera_background.show(scene.camera.data, state.view_path, registered=is_registered)
    else:
        camera_background.clear()
        viewport_overlay.show(state.view_path, pictured[0], scene.name)
    if state.view_path != _following.shown_path:
        _following.shown_path = state.view_path
        for _, region, _ in viewports(scene):
            region.tag_redraw()


def _is_to_be_asked(view: View, placement: Placement, every_s: float) -> bool:
    """Whether the engine shows another view than this one, and it is time to tell it."""
    newest = _following.newest
    if newest is None:
        return True
    if placement == newest[1] and view.resembles(newest[0]):
        return every_s != _following.every_s
    is_at_rest = _following.seen is not None and view.resembles(_following.seen)
    return is_at_rest or time.monotonic() - _following.asked_at >= MOVING_S


def _ask(state: JobState, view: View, placement: Placement, every_s: float) -> None:
    session = runtime.session()
    if session is None:
        return
    number = _following.number + 1
    try:
        session.tell(placement.set_view(view, job=state.job, every_s=every_s, number=number))
    except (ValueError, messages.ProtocolError) as error:
        raise CannotShowError(str(error)) from error
    _following.number, _following.every_s, _following.asked_at = number, every_s, time.monotonic()
    _following.asked[number] = (view, placement)
    _following.asked.pop(number - KEPT_VIEWS, None)


def _stop_view() -> None:
    if _following.newest is None:
        return
    session = runtime.session()
    if session is not None:
        session.tell(messages.ClearView(job=_following.job))
    _following.asked.clear()
    _following.seen, _following.shown_path = None, ""
    camera_background.clear()
    viewport_overlay.clear()


def _follow_proxy(state: JobState, scene: bpy.types.Scene, settings: bpy.types.PropertyGroup, placement: Placement) -> None:
    every_s = settings.proxy_every_s if settings.use_proxy else 0.0
    session = runtime.session()
    if every_s != _following.proxy_every_s and session is not None:
        session.tell(messages.SetProxy(job=state.job, every_s=every_s))
        _following.proxy_every_s = every_s
        if not every_s:
            proxy_mesh.clear()
    if every_s and state.proxy_path and state.proxy_path != _following.proxy_path:
        _following.proxy_path = state.proxy_path
        try:
            proxy_mesh.show(scene, proxy_file.read_proxy(Path(state.proxy_path)), placement)
        except (ValueError, OSError):  # the next one comes soon; the engine keeps only the last few
            return


class DREAMFUSION_PT_camera(bpy.types.Panel):
    bl_label = "Live Preview"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = TAB
    bl_parent_id = "DREAMFUSION_PT_main"
    bl_options = {"DEFAULT_CLOSED"}
    bl_order = 40

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.dreamfusion.camera
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        column.prop(settings, "follow")
        if settings.follow != "NONE":
            column.prop(settings, "every_s")
        column = layout.column()
        column.prop(settings, "use_proxy")
        if settings.use_proxy:
            column.prop(settings, "proxy_every_s")
        if problem():
            draw_text(layout, problem(), icon="ERROR")


@persistent
def _before_save(*_arguments: object) -> None:
    """A picture or a mesh of half a job is not saved with the file; the next pump brings them back."""
    camera_background.clear()
    proxy_mesh.clear()
    _following.proxy_path = ""


@persistent
def _after_load(*_arguments: object) -> None:
    """What an autosave or a crash kept."""
    clear()


@persistent
def _after_undo(*_arguments: object) -> None:
    """Undo brings back what was shown at that time. While a job runs the follower puts it right."""
    if not runtime.state().is_active:
        clear()


HANDLERS = (("save_pre", _before_save), ("load_post", _after_load), ("undo_post", _after_undo), ("redo_post", _after_undo))
CLASSES = (DREAMFUSION_PG_camera, DREAMFUSION_PT_camera)


def register_extra() -> None:
    for name, handler in HANDLERS:
        getattr(bpy.app.handlers, name).append(handler)
    runtime.followers.append(follow)


def unregister_extra() -> None:
    for name, handler in HANDLERS:
        getattr(bpy.app.handlers, name).remove(handler)
    if follow in runtime.followers:
        runtime.followers.remove(follow)
    clear()
