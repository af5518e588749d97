"""Blender's camera numbers turned into the view that the engine is asked to show. Pure arithmetic, no bpy.

The engine is given the camera in the object's frame: origin at the middle of the object's bottom, one unit is its height,
Z up, front -Y. `Placement` says where that frame stands in the world; so moving the placement moves the picture.

Matrices are 4x4, row by row, and act on columns. Lengths are Blender units but for lens and sensor, which are millimetres.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .protocol import messages

Matrix = npt.NDArray[np.float64]
Window = tuple[float, float, float, float]
"""Left, right, bottom, top edge of the picture: at distance 1 for a perspective camera, in units for an orthographic one."""

# More than a viewport shows of a soft preview; the engine takes fewer where a step's time does not allow it.
MAX_SIDE_PX = 768
# Closer than this (in heights of the object, or of the picture) two views cannot be told apart in a picture of MAX_SIDE_PX.
SAME_VIEW = 1e-4


class Lens(NamedTuple):
    """What Blender keeps in a camera and in the output properties.

    `sensor_fit` is AUTO, HORIZONTAL or VERTICAL; `shift` is in parts of the picture's fitted side. The size in pixels is that
    of the render: its percentage and its border change no angle, so they are not asked for.
    """

    orthographic: bool = False
    lens_mm: float = 50.0
    ortho_scale: float = 6.0
    sensor_fit: str = "AUTO"
    sensor_width_mm: float = 36.0
    sensor_height_mm: float = 24.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    width_px: int = 1920
    height_px: int = 1080
    pixel_aspect_x: float = 1.0
    pixel_aspect_y: float = 1.0

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the picture in square pixels."""
        return self.width_px * self.pixel_aspect_x, self.height_px * self.pixel_aspect_y

    def window(self) -> Window:
        """As Blender's camera frame (BKE_camera_params_compute_viewplane)."""
        width, height = self.size
        fits_width = self.sensor_fit == "HORIZONTAL" or self.sensor_fit == "AUTO" and width >= height
        fitted = width if fits_width else height
        # AUTO measures the longer side with the sensor's width, whichever side that is.
        sensor_mm = self.sensor_height_mm if self.sensor_fit == "VERTICAL" else self.sensor_width_mm
        extent = self.ortho_scale if self.orthographic else sensor_mm / self.lens_mm
        half_x, half_y = extent * width / fitted / 2, extent * height / fitted / 2
        x, y = extent * self.shift_x, extent * self.shift_y
        return x - half_x, x + half_x, y - half_y, y + half_y


class View(NamedTuple):
    """A camera or a viewport, in the world."""

    camera_to_world: tuple[float, ...]
    """16 numbers; scale is ignored, as Blender does."""
    window: Window
    orthographic: bool
    clip_start: float
    clip_end: float
    """Distances from the camera plane; the start may be negative for an orthographic view."""
    size: tuple[float, float]
    """Width and height of the picture in square pixels."""

    def resembles(self, other: "View") -> bool:
        """Whether a picture of one can be shown for the other."""
        if self.orthographic != other.orthographic:
            return False
        mine, others = self._numbers(), other._numbers()
        return bool((np.abs(mine - others) <= SAME_VIEW * np.maximum(1.0, np.abs(others))).all())

    def _numbers(self) -> npt.NDArray[np.float64]:
        width, height = self.size
        return np.array([*self.camera_to_world, *self.window, width / max(height, 1e-9)])


class Placement(NamedTuple):
    """object_to_world: from the object's frame (height 1) to the world, 16 numbers; scale is the height."""

    object_to_world: tuple[float, ...]

    @staticmethod
    def standing_at(location: Sequence[float], height: float) -> "Placement":
        """Upright, front -Y; `height` in Blender units."""
        matrix = np.diag([height, height, height, 1.0])
        matrix[:3, 3] = location
        return Placement(as_numbers(matrix))

    @property
    def height(self) -> float:
        return float(np.linalg.norm(as_matrix(self.object_to_world)[:3, 2]))

    def set_view(self, view: View, *, job: str, every_s: float = 0.0, number: int = 0) -> "messages.SetView":
        """The request for pictures of this view. Raises: ValueError for an object without height."""
        height = self.height
        if not height > 1e-9:
            raise ValueError("The object would have no height. Choose a height above zero.")
        camera = np.linalg.inv(as_matrix(self.object_to_world)) @ as_matrix(view.camera_to_world)
        width_px, height_px = fitted_size(view.size)
        left, right, bottom, top = (edge / height for edge in view.window) if view.orthographic else view.window
        return messages.SetView(
            job=job,
            camera_to_world=as_numbers(rigid(camera)),
            window=(left, right, bottom, top),
            orthographic=view.orthographic,
            width_px=width_px,
            height_px=height_px,
            frame="object",
            every_s=every_s,
            clip_start=view.clip_start / height,
            clip_end=view.clip_end / height,
            number=number,
        )


def fitted_size(size: tuple[float, float]) -> tuple[int, int]:
    """Whole pixels of this aspect, at most MAX_SIDE_PX long."""
    scale = min(1.0, MAX_SIDE_PX / max(*size, 1.0))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def rigid(matrix: Matrix) -> Matrix:
    """The matrix with axes of length 1."""
    result = matrix.copy()
    lengths = np.linalg.norm(result[:3, :3], axis=0)
    result[:3, :3] /= np.where(lengths > 1e-12, lengths, 1.0)
    return result


def window_of_projection(projection: Sequence[float], orthographic: bool) -> tuple[Window, float, float]:
    """Window, clip start and clip end of an OpenGL projection matrix (16 numbers), as a viewport has one."""
    p = as_matrix(projection).tolist()
    column, sign = (3, -1.0) if orthographic else (2, 1.0)
    left, right = ((edge + sign * p[0][column]) / p[0][0] for edge in (-1.0, 1.0))
    bottom, top = ((edge + sign * p[1][column]) / p[1][1] for edge in (-1.0, 1.0))
    if orthographic:
        return (left, right, bottom, top), (p[2][3] + 1) / p[2][2], (p[2][3] - 1) / p[2][2]
    return (left, right, bottom, top), p[2][3] / (p[2][2] - 1), p[2][3] / (p[2][2] + 1)


def as_matrix(numbers: Sequence[float]) -> Matrix:
    return np.array(numbers, np.float64).reshape(4, 4)


def as_numbers(matrix: Matrix) -> tuple[float, ...]:
    return tuple(float(number) for number in matrix.reshape(-1))
