"""What a job shows of itself: where it stands in the user's camera, what it costs, which files stay."""

import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from engine.config import make_config
from engine.meshing.raster import iou, silhouettes
from engine.previews import KEPT_FILES, Previews, fitted_pixels, measured_shape, view_cameras, view_picture
from engine.protocol import Preview, Proxy, SetView
from engine.scene.cameras import Cameras
from engine.training.control import Control
from engine.training.trainer import Trainer

FRONT = (1.0, 0, 0, 0, 0, 0, -1, -3, 0, 1, 0, 0.5, 0, 0, 0, 1)
"""Stands three heights in front of the object, half a height above its foot."""


class NoTeacher:
    def loss(self, images, cameras, shading, step, n_steps, generator):
        return images.sum() * 0.0


class Solid(torch.nn.Module):
    """An egg off the middle, red above and blue below; the interface of a field."""

    CENTER, RADII = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([0.3, 0.25, 0.45])

    def __init__(self, strength=60.0):
        super().__init__()
        self.strength = strength

    def density(self, positions):
        distance = ((positions - self.CENTER) / self.RADII).norm(dim=-1) - 1
        return self.strength * torch.sigmoid(-distance * 80)

    def albedo(self, positions):
        red, blue = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
        return torch.where(positions[:, 2:] > 0.1, red, blue)

    def forward(self, positions):
        return self.density(positions), self.albedo(positions)

    def evaluate(self, positions, *, with_normals=False):
        from engine.fields.field import FieldSamples

        return FieldSamples(self.density(positions), self.albedo(positions), None)

    def frozen(self):
        import contextlib

        return contextlib.nullcontext()


@pytest.fixture
def trainer():
    """One whose averaged field is the egg."""
    overrides = {"training.n_steps": "50", "training.preview_every_s": "0", "training.preview_size_px": "32", "render.n_samples": "128"}
    made = Trainer(make_config("draft", overrides), 0, torch.device("cpu"), NoTeacher())
    made.ema.module = Solid()
    made.occupancy.update(made.ema.module.density, 0, torch.Generator().manual_seed(0))
    made.step = 3
    return made


class Shown:
    """Previews with everything they emitted."""

    def __init__(self, trainer, folder):
        self.control, self.events = Control(), []
        self.previews = Previews(trainer, folder, "a", self.control, self.events.append)

    def tick(self, seconds_per_step=0.5):
        before = len(self.events)
        self.previews.tick(seconds_per_step)
        return self.events[before:]


@pytest.fixture
def shown(trainer, tmp_path):
    return Shown(trainer, tmp_path / "previews")


def view(**values):
    given = {"job": "a", "camera_to_world": FRONT, "window": (-0.4, 0.4, -0.4, 0.4), "width_px": 96, "height_px": 96, "frame": "object"}
    return SetView(**given | values)


def test_the_measured_shape_is_the_object_s_own(trainer):
    shape = measured_shape(trainer)
    assert shape.height == pytest.approx(0.9, rel=0.03)
    assert shape.foot == pytest.approx([0.3, -0.2, -0.35], abs=0.015)
    standing = shape.standing()
    assert standing[:, 2].min() == 0 and standing[:, 2].max() == pytest.approx(1)
    assert np.abs(standing[:, :2].min(axis=0) + standing[:, :2].max(axis=0)).max() < 1e-5


VIEWS = {
    "in front": view(),
    "shifted portrait": view(window=(-0.15, 0.25, -0.3, 0.5), width_px=60, height_px=120),
    "parallel": view(orthographic=True, window=(-0.8, 0.8, -0.6, 0.6), width_px=128, height_px=96),
    "parallel from the middle": view(
        orthographic=True, window=(-1, 1, -1, 1), clip_start=-10.0, camera_to_world=(1.0, 0, 0, 0, 0, 0, -1, 0, 0, 1, 0, 0.5, 0, 0, 0, 1)
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_picture_in_the_object_s_frame_shows_it_where_the_standing_mesh_is(trainer, name):
    asked, shape = VIEWS[name], measured_shape(trainer)
    picture = view_picture(trainer, view_cameras(asked, shape), asked.height_px, asked.width_px)
    moved = np.eye(4, dtype=np.float32)
    moved[1, 3] = -5 if name == "parallel from the middle" else 0  # the rasteriser has no near plane
    camera = Cameras(
        torch.tensor(asked.camera_to_world).view(1, 4, 4) + torch.from_numpy(moved - np.eye(4, dtype=np.float32)),
        torch.tensor([asked.window]),
        asked.orthographic,
    )
    mask = silhouettes(shape.standing(), shape.faces, camera, asked.height_px, asked.width_px)[0]
    assert 0.03 < mask.mean() < 0.6
    assert iou(picture[..., 3] > 0.5, mask) > 0.95


def test_colors_are_straight_and_nothing_stands_outside_the_object(trainer):
    picture = view_picture(trainer, view_cameras(view(), measured_shape(trainer)), 96, 96)
    assert picture[0, 0, 3] == 0 and picture[48, 48, 3] > 0.99
    upper, lower = picture[35, 48, :3], picture[62, 48, :3]
    assert upper == pytest.approx([0.9, 0.1, 0.1], abs=0.02) and lower == pytest.approx([0.1, 0.1, 0.9], abs=0.02)
    edge = (picture[..., 3] > 0.2) & (picture[..., 3] < 0.8)
    assert edge.any() and picture[edge, 1].max() < 0.15, "white of the background in the edge"


def test_clipping_hides_what_is_too_near_or_too_far(trainer):
    shape = measured_shape(trainer)

    def coverage(**values):
        asked = view(**values)
        far = asked.clip_end * shape.height or math.inf
        return view_picture(trainer, view_cameras(asked, shape), 48, 48, far=far)[..., 3].mean()

    whole = coverage()
    assert coverage(clip_start=1.0, clip_end=10.0) == pytest.approx(whole, rel=1e-4)
    assert coverage(clip_start=4.0) == 0 and coverage(clip_end=2.0) < 1e-5
    assert 0 < coverage(clip_start=3.05) < whole
    assert coverage(clip_start=4.0, orthographic=True) == 0


def test_a_new_view_is_shown_at_once_and_an_old_one_not_again(shown, trainer):
    shown.control.set_view(view(number=7))
    (event,) = shown.tick()
    assert (event.view, event.number, event.step) == ("camera", 7, 3)
    assert shown.tick() == []
    trainer.step += 1
    assert shown.tick() == [], "no pace was asked for"
    shown.control.set_view(view(number=8))
    (event,) = shown.tick()
    assert event.number == 8
    assert PIL.Image.open(event.path).mode == "RGBA"
    shown.control.set_view(None)
    trainer.step += 1
    assert shown.tick() == []


def test_a_resting_view_is_shown_again_at_its_pace_and_only_with_something_new(shown, trainer, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("engine.previews.time.monotonic", lambda: now[0])
    shown.control.set_view(view(every_s=2.0))
    assert len(shown.tick()) == 1
    now[0] += 5
    assert shown.tick() == [], "no step was done"
    trainer.step += 1
    assert len(shown.tick()) == 1
    now[0] += 1.5
    trainer.step += 1
    assert shown.tick() == []


def test_turning_pictures_go_on_beside_the_camera(trainer, tmp_path):
    import dataclasses

    training = dataclasses.replace(trainer.config.training, preview_every_s=0.001)
    trainer.config = dataclasses.replace(trainer.config, training=training)
    shown = Shown(trainer, tmp_path / "previews")
    shown.control.set_view(view())
    assert {event.view for event in shown.tick()} == {"turn", "camera"}
    assert {event.view for event in (shown.events.clear(), shown.previews.finish(), shown.events)[2]} == {"turn", "camera"}


def test_pixels_follow_the_time_of_a_step_and_keep_the_aspect(shown):
    shown.control.set_view(view(width_px=4000, height_px=1000))
    shown.tick()
    sizes = []
    for seconds_per_step in (1e-5, 0.02, 1000.0):
        shown.control.set_view(view(width_px=4000, height_px=1000))
        (event,) = shown.tick(seconds_per_step)
        sizes.append(PIL.Image.open(event.path).size)
    assert sizes[0] == (96, 24) and sizes[2] == (1024, 256), sizes
    assert sizes[0] <= sizes[1] <= sizes[2]
    assert fitted_pixels(30, 20, 10**6) == (30, 20), "never more than was asked for"
    assert fitted_pixels(1, 5000, 10**6) == (8, 1024) and fitted_pixels(0, -1, 100) == (8, 8)


def test_a_proxy_is_a_closed_colored_mesh_in_the_object_s_frame(shown, trainer):
    from engine.meshing.cleanup import open_edges

    shown.control.set_proxy(1000.0)
    (event,) = shown.tick()
    assert isinstance(event, Proxy) and event.step == 3 and Path(event.path).is_absolute()
    with np.load(event.path, allow_pickle=False) as mesh:
        vertices, faces, colors = mesh["vertices"], mesh["faces"], mesh["colors"]
    assert (vertices.dtype, faces.dtype, colors.dtype) == (np.float32, np.int32, np.float32)
    assert colors.shape == vertices.shape and open_edges(faces) == 0 and 500 < len(faces) < 20000
    assert vertices[:, 2].min() == 0 and vertices[:, 2].max() == pytest.approx(1)
    upper, lower = colors[vertices[:, 2] > 0.6].mean(axis=0), colors[vertices[:, 2] < 0.4].mean(axis=0)
    assert upper[0] > 0.8 > 0.2 > upper[2] and lower[2] > 0.8 > 0.2 > lower[0]
    assert shown.tick() == []
    shown.control.set_proxy(0.0)
    trainer.step += 1
    assert shown.tick() == []


def test_an_empty_field_sends_empty_pictures_and_no_proxy(shown, trainer):
    trainer.ema.module = Solid(strength=0.0)
    shown.control.set_view(view())
    shown.control.set_proxy(1.0)
    (event,) = shown.tick()
    assert isinstance(event, Preview) and np.asarray(PIL.Image.open(event.path))[..., 3].max() == 0


def test_few_files_stay_none_partial_and_none_of_a_former_run(trainer, tmp_path):
    folder = tmp_path / "previews"
    folder.mkdir()
    (folder / "view-0000001-000001.png").write_bytes(b"old")
    shown = Shown(trainer, folder)
    for _ in range(KEPT_FILES + 3):
        shown.control.set_view(view(width_px=16, height_px=16))
        shown.tick()
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == KEPT_FILES and names[-1] == f"view-0000003-{KEPT_FILES + 3:06d}.png"
    assert shown.events[-1].path.endswith(names[-1])


def test_a_view_set_while_the_job_is_paused_wakes_it_for_a_picture():
    import threading
    import time

    control = Control()
    control.pause()
    waited = []
    thread = threading.Thread(target=lambda: waited.append(control.wait_if_paused()))
    thread.start()
    time.sleep(0.15)
    assert not waited
    control.set_view(view())
    thread.join(5)
    assert waited and control.paused and control.view_changed()
