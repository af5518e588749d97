"""What a running job shows of itself: turning pictures, pictures through the user's camera, and a light mesh.

What it may cost: a picture through the camera gets as many pixels as can be rendered in the time of VIEW_STEPS training
steps, measured on the pictures before it; one is made when the camera has moved, else at the pace that was asked for, but
never so that repeated pictures, the object's measures and light meshes each take more than SHARE of the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import UserError
from engine.meshing.export import write_png
from engine.meshing.rough_shape import RoughShape, rough_colors, rough_shape
from engine.protocol import Event, Preview, Proxy, SetView
from engine.scene.cameras import Cameras, orbit_cameras
from engine.scene.sampling import SURVEY_FOV_DEG, SURVEY_RADIUS, survey_cameras
from engine.training.control import Control
from engine.training.surface_trainer import SurfaceTrainer
from engine.training.teacher import DiffusionTeacher
from engine.training.trainer import Trainer

TURN_ELEVATION_DEG = 20.0
TURN_START_DEG = 30.0
# While the user orbits there is a picture after every step; training then runs at nearly half its pace.
VIEW_STEPS = 1.25
SHARE = 0.15
# Smaller than this nothing is recognised, larger and Blender has more to load than to show.
MIN_VIEW_PIXELS, MAX_VIEW_SIDE = 48 * 48, 1024
# Views and pixels that tell where the cut must lie: about the rays of one training step.
SHAPE_VIEWS, SHAPE_PX = 6, 32
# A reader has seconds to open a file before it goes.
KEPT_FILES = 8


AnyTrainer = Trainer | SurfaceTrainer


class Previews:
    """Pictures and light meshes of one job. Call `tick` after every step (or when the view changed), `finish` after the last."""

    def __init__(self, trainer: AnyTrainer, folder: Path, job: str, control: Control, emit: Callable[[Event], None]) -> None:
        self._trainer, self._folder, self._job, self._control, self._emit = trainer, folder, job, control, emit
        self._turn = _Pace()
        self._view = _Pace()
        self._proxy = _Pace()
        self._measure = _Pace()
        self._shape: RoughShape | None = None
        self._shape_step = -1
        self._seconds_per_step = self._seconds_per_ray = 0.0  # 0: not known yet
        self._n_files = 0
        self._inspected_step = -1
        for pattern in ("view-*", "proxy-*"):  # of an engine that was killed
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)

    def tick(self, seconds_per_step: float) -> None:
        """Make what is due. seconds_per_step: of training; 0 if not known yet."""
        self._seconds_per_step = seconds_per_step
        step, every_s = self._trainer.step, self._trainer.config.training.preview_every_s
        if every_s and self._turn.is_due(step, every_s):
            with self._turn.made_at(step):
                self._show_turn()
        every = self._trainer.config.output.inspect_every
        if every and step % every == 0 and step != self._inspected_step:
            self._inspected_step = step
            self._inspect()
        changed, view = self._control.view_changed(), self._control.view()  # in this order none that comes meanwhile is lost
        if view is not None and (changed or self._view.is_due(step, view.every_s or every_s or math.inf)):
            with self._view.made_at(step):
                self._show_view(view)
        changed, proxy_every_s = self._control.proxy_changed(), self._control.proxy_every_s()
        if proxy_every_s and (changed or self._proxy.is_due(step, proxy_every_s)):
            with self._proxy.made_at(step):
                self._send_proxy()

    def finish(self) -> None:
        """Training is over: the last of each kind that somebody looks at, with the object measured anew."""
        for pace in (self._turn, self._view, self._proxy, self._measure):
            pace.forget()
        self.tick(self._seconds_per_step)

    def _show_turn(self) -> None:
        trainer = self._trainer
        azimuth = (trainer.step / max(trainer.n_steps, 1) * 720 + TURN_START_DEG) % 360
        values = (azimuth, TURN_ELEVATION_DEG, SURVEY_RADIUS, SURVEY_FOV_DEG)
        size = trainer.config.training.preview_size_px
        image = trainer.picture(orbit_cameras(*(torch.tensor([value]) for value in values)), size, size).image[0]
        path = self._write(f"step-{trainer.step:07d}.png", lambda partial: write_png(partial, image.cpu().numpy()))
        self._emit(Preview(job=self._job, path=str(path), step=trainer.step))

    def _inspect(self) -> None:
        """guidance-NNNNNNN.png: what the model makes of the front (of a ring, if it sees several views), where the teacher can tell."""
        trainer = self._trainer
        if not isinstance(trainer.teacher, DiffusionTeacher):
            return
        n = trainer.teacher.denoiser.views_per_sample
        rest = (torch.full((n,), value) for value in (TURN_ELEVATION_DEG, SURVEY_RADIUS, SURVEY_FOV_DEG))
        cameras = orbit_cameras(torch.arange(n) * 360.0 / n, *rest)
        size = trainer.views(min(trainer.step, trainer.n_steps - 1))[1]
        image = trainer.picture(cameras, size, size).image
        generator = torch.Generator().manual_seed(0)  # the same noise each time: what changes is the render
        seen = trainer.teacher.inspect(image, cameras.to(trainer.device), trainer.step, trainer.n_steps, generator)
        self._write(f"guidance-{trainer.step:07d}.png", lambda partial: write_png(partial, seen.cpu().numpy()))

    def _show_view(self, view: SetView) -> None:
        shape = self._measured() if view.frame == "object" else None
        width, height = fitted_pixels(view.width_px, view.height_px, self._pixel_budget())
        start = time.monotonic()
        pixels = view_picture(self._trainer, view_cameras(view, shape), height, width, far=_far(view, shape))
        seconds = (time.monotonic() - start) / (width * height)
        self._seconds_per_ray += (0.5 if self._seconds_per_ray else 1.0) * (seconds - self._seconds_per_ray)
        step = self._trainer.step
        path = self._write(f"view-{step:07d}-{self._next()}.png", lambda partial: write_png(partial, pixels))
        self._emit(Preview(job=self._job, path=str(path), view="camera", step=step, number=view.number))

    def _pixel_budget(self) -> int:
        if not (self._seconds_per_ray and self._seconds_per_step):
            return 2 * MIN_VIEW_PIXELS
        return max(MIN_VIEW_PIXELS, int(VIEW_STEPS * self._seconds_per_step / self._seconds_per_ray))

    def _send_proxy(self) -> None:
        shape = self._measured()
        if shape is None:
            return
        trainer, colors = self._trainer, shape_colors(self._trainer, shape)

        def save(partial: Path) -> None:
            with partial.open("wb") as file:  # given a name, savez would add its own suffix
                np.savez(file, vertices=shape.standing(), faces=shape.faces, colors=colors)

        path = self._write(f"proxy-{trainer.step:07d}-{self._next()}.npz", save)
        self._emit(Proxy(job=self._job, path=str(path), step=trainer.step))

    def _measured(self) -> RoughShape | None:
        """The object's present shape, measured again when that has become cheap enough; None before there is anything."""
        step = self._trainer.step
        if self._measure.is_due(step, 0.0):
            with self._measure.made_at(step):
                try:
                    self._shape = measured_shape(self._trainer)
                except UserError:  # nothing to be seen at the moment; what was last known is the best guess
                    pass
        return self._shape

    def _next(self) -> str:
        self._n_files += 1
        return f"{self._n_files:06d}"

    def _write(self, name: str, save: Callable[[Path], None]) -> Path:
        """Save under another name, rename, and drop the oldest of its kind."""
        self._folder.mkdir(exist_ok=True)
        path = self._folder / name
        partial = path.with_name(name + ".partial")
        save(partial)
        partial.replace(path)
        kind = name.split("-")[0]
        for old in sorted(self._folder.glob(f"{kind}-*{path.suffix}"))[:-KEPT_FILES]:
            old.unlink(missing_ok=True)
        return path


class _Pace:
    """When something was made last, at which step, and how long it took."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._step, self._ended, self._seconds = -1, -math.inf, 0.0

    def is_due(self, step: int, every_s: float) -> bool:
        """Whether there is something new to show, and it is time, counted from the end of the last one."""
        return step != self._step and time.monotonic() - self._ended >= max(every_s, self._seconds / SHARE)

    @contextmanager
    def made_at(self, step: int) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._step, self._ended = step, time.monotonic()
        self._seconds = self._ended - start


def shape_colors(trainer: AnyTrainer, shape: RoughShape) -> NDArray[np.float32]:
    """Colors [V, 3] in [0, 1] at the vertices of the measured shape."""
    if isinstance(trainer, SurfaceTrainer):
        return trainer.rough_colors(shape)
    field = trainer.ema.module
    with torch.no_grad(), field.frozen():
        return rough_colors(field.density, lambda positions: field(positions)[1], shape, device=trainer.device)


def measured_shape(trainer: AnyTrainer) -> RoughShape:
    """The object in the averaged field, or the averaged surface. Raises UserError while there is nothing to be seen."""
    if isinstance(trainer, SurfaceTrainer):
        return trainer.rough_shape()
    cameras, field, mesh = survey_cameras(SHAPE_VIEWS), trainer.ema.module, trainer.config.mesh
    with torch.no_grad(), field.frozen():
        return rough_shape(
            field.density,
            trainer.picture(cameras, SHAPE_PX, SHAPE_PX).opacity.cpu(),
            cameras,
            trainer.occupancy.bounds.cpu().numpy(),
            isovalue=mesh.isovalue,
            min_component=mesh.min_component,
            device=trainer.device,
        )


def view_cameras(view: SetView, shape: RoughShape | None) -> Cameras:
    """The camera of a set_view in the field's space; `shape` is None for one that is given there already."""
    camera_to_world = torch.tensor(view.camera_to_world).view(1, 4, 4)
    window = torch.tensor(view.window).view(1, 4)
    near = view.clip_start if view.orthographic else max(view.clip_start, 0.0)
    if shape is not None:
        camera_to_world[:, :3, 3] = camera_to_world[:, :3, 3] * shape.height + torch.from_numpy(shape.foot)
        near *= shape.height
        window = window * shape.height if view.orthographic else window
    return Cameras(camera_to_world, window, view.orthographic, near)


def _far(view: SetView, shape: RoughShape | None) -> float:
    return view.clip_end * (1.0 if shape is None else shape.height) if view.clip_end > 0 else math.inf


def view_picture(trainer: AnyTrainer, cameras: Cameras, height: int, width: int, *, far: float = math.inf) -> NDArray[np.float32]:
    """[H, W, 4] float32 in [0, 1], sRGB-encoded with straight alpha: the averaged field through one camera.

    far: nothing is seen where the surface lies farther from the camera plane, world units.
    """
    found = trainer.picture(cameras, height, width)
    alpha = found.opacity[0].clamp(0, 1)
    color = (found.image[0] - (1 - alpha[..., None])) / alpha[..., None].clamp(min=1e-3)
    if far < math.inf:
        alpha = torch.where(plane_depth(cameras, found.depth[0] / alpha.clamp(min=1e-3)) > far, 0.0, alpha)
    return torch.cat([color.clamp(0, 1), alpha[..., None]], dim=-1).cpu().numpy()


def plane_depth(cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    """Distance from the camera plane [H, W] of what lies `depth` [H, W] along the rays of one camera."""
    if cameras.orthographic:
        return depth + cameras.near
    height, width = depth.shape
    left, right, bottom, top = cameras.window[0].tolist()
    x = torch.linspace(left, right, 2 * width + 1, device=depth.device)[1::2]
    y = torch.linspace(top, bottom, 2 * height + 1, device=depth.device)[1::2]
    return depth / torch.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2) + cameras.near


def fitted_pixels(width: int, height: int, budget: int) -> tuple[int, int]:
    """Width and height of the same aspect (as near as whole pixels allow) with at most about `budget` pixels."""
    width, height = max(width, 1), max(height, 1)
    scale = min(1.0, math.sqrt(budget / (width * height)), MAX_VIEW_SIDE / max(width, height))
    return max(8, round(width * scale)), max(8, round(height * scale))
