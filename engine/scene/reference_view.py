"""The picture that a run follows: read, its object told from the background, brought into one frame. No torch here.

The frame is a square whose middle is the middle of the object's bounding box, and whose half side is FRAME times the
distance of the object's farthest pixel from there. So any picture of the same object gives the same frame, and the size
of the object in the world is the run's to choose (`reference.object_radius`).

Shapes: H W pixels of the file, S = SIZE_PX.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from engine.errors import UserError
from engine.scene.cut_out import EDGE_PX, cut_out, pure_colors, without_specks

Pixels = NDArray[np.float32]
Box = tuple[float, float, float, float]

# Sharper than any view that is trained.
SIZE_PX = 256
# Room round the object: matter beside it is seen by the known camera and pulled away.
FRAME = 1.25
MIN_SIDE_PX, MAX_SIDE_PX = 16, 8192
# Objects are told from backgrounds at this size: enough for an outline, quick for any photo.
WORK_PX = 512
FORMATS = ("PNG", "JPEG", "WEBP")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
GRAY_MODES = ("L", "LA", "RGB", "RGBA", "I", "I;16", "I;16B")
MAX_8, MAX_16 = 255, 65535
# Maps may be smaller or larger than their picture, but must show the same: sides in the same ratio, to a pixel in a hundred.
MAX_SHAPE_ERROR = 0.01
# Colours nearer than this to the background's are background, in Lab; two neighbouring gray cards differ by some 5.
TOLERANCE_LAB = 10.0
# How much of the border must be of the background's colour. The object may be cut by one edge.
PLAIN_SHARE = 0.7
# An object of less than this share of the picture, or a background of less, is none.
MIN_SHARE = 0.002
TRANSPARENT = "Give a picture with a transparent background."
CUT_OUT = "Give a picture with a transparent background, or a model that cuts the object out: --reference.cut-out-model FILE.onnx"


@dataclass(frozen=True)
class Reference:
    """A prepared picture and its maps, all in one frame.

    Attributes:
        picture: [S, S, 4] in [0, 1]: sRGB, straight alpha; color is 0 where alpha is.
        depth: [S, S] in [0, 1], as bright as the file; None if there is no map.
        normals: [S, S, 3] in [0, 1], (n + 1) / 2 as in the file; None if there is no map.
    """

    picture: Pixels
    depth: Pixels | None = None
    normals: Pixels | None = None


def prepare_reference(path: Path, depth: Path | None = None, normals: Path | None = None, cut_out_model: Path | None = None) -> Reference:
    """The object of the picture at `path`, and of its maps, which show the same section.

    Args:
        cut_out_model: an .onnx file for `cut_out`, which tells the object from its background where no alpha does.
    Raises: UserError, code "image", if one is no picture or too large, if the picture shows no object, or a map does not fit;
        what `cut_out` raises.
    """
    pixels = _with_alpha(path, cut_out_model)
    box = _frame(pixels[..., 3])
    object_ = pixels[..., 3] >= 0.5
    depth_map = None if depth is None else _framed_map(_read_gray(depth, pixels.shape[:2], object_), box)[..., 0]
    normal_map = None if normals is None else _framed_map(_read_color(normals, pixels.shape[:2]), box)
    return Reference(_framed(pixels, box), depth_map, normal_map)


def prepare_picture(path: Path, cut_out_model: Path | None = None) -> Pixels:
    """`prepare_reference` of a picture without maps."""
    return prepare_reference(path, cut_out_model=cut_out_model).picture


def _with_alpha(path: Path, cut_out_model: Path | None) -> Pixels:
    """The picture at `path` at the size of work, [H, W, 4]; alpha tells the object."""
    image = _read(path)
    whole = image.convert("RGB") if cut_out_model else None  # models look at more pixels than are worked on
    image.thumbnail((WORK_PX, WORK_PX), PIL.Image.Resampling.BOX)
    pixels = np.asarray(image, np.float32) / 255
    seen = pixels[..., 3] >= 0.5
    if seen.mean() < MIN_SHARE:
        raise _error(f"The picture {path} is transparent all over.", "Give a picture that shows the object.")
    if seen.mean() <= 1 - MIN_SHARE:
        return pixels
    # Alpha says nothing.
    if whole is None or cut_out_model is None:
        pixels[..., 3] = _foreground(pixels[..., :3], path)
        return pixels
    alpha = _modelled(whole, image.size, cut_out_model, path)
    return np.concatenate([pure_colors(pixels[..., :3], alpha), alpha[..., None]], axis=-1)


def _modelled(whole: PIL.Image.Image, size: tuple[int, int], model: Path, path: Path) -> Pixels:
    """What a model takes for the object of the picture `whole`, at `size` (columns, rows): [H, W] in [0, 1]. Raises UserError."""
    mask = PIL.Image.fromarray(cut_out(whole, model)).resize(size, PIL.Image.Resampling.BICUBIC)
    alpha = np.asarray(mask, np.float32).clip(0, 1)
    object_ = without_specks(alpha >= 0.5)
    if not MIN_SHARE < object_.mean() < 1 - MIN_SHARE:
        raise _error(f"The model {model} found no object in {path} that stands out from its background.", TRANSPARENT)
    from scipy import ndimage

    # The soft edge of what stays, not what lies about elsewhere.
    near = ndimage.binary_dilation(object_, iterations=EDGE_PX)
    return np.where(near, alpha, 0).astype(np.float32)


def write_picture(path: Path, pixels: Pixels) -> None:
    """[H, W, 3 or 4] as PNG with 8 bits, [H, W] with 16; complete or not at all. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    levels, kind = (MAX_16, np.uint16) if pixels.ndim == 2 else (MAX_8, np.uint8)
    PIL.Image.fromarray(np.round(pixels * levels).astype(kind)).save(partial, format="PNG")
    partial.replace(path)


def read_picture(path: Path) -> Pixels:
    """A picture that `write_picture` wrote, [S, S, 4]. Raises UserError."""
    return _read_copy(path, "RGBA") / MAX_8


def read_depth(path: Path) -> Pixels:
    """A depth map that `write_picture` wrote, [S, S]. Raises UserError."""
    return _read_copy(path, "I") / MAX_16


def read_normals(path: Path) -> Pixels:
    """A normal map that `write_picture` wrote, [S, S, 3]. Raises UserError."""
    return _read_copy(path, "RGB") / MAX_8


def _read_copy(path: Path, mode: str) -> Pixels:
    try:
        with PIL.Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert(mode), np.float32)
    except _DAMAGED as error:
        raise _error(f"The job's copy of its picture, {path}, is damaged.", "Start the job again in another folder.") from error


# What Pillow raises for a file that is not what it says: it does not promise more than that.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


def _read(path: Path, modes: tuple[str, ...] = MODES, mode: str = "RGBA") -> PIL.Image.Image:
    """The picture upright, in `mode`; `modes` are those that are taken."""
    if path.is_dir():
        raise _error(f"The picture {path} is a folder.", "Give a PNG, JPG or WebP file.")
    if not path.is_file():
        raise _error(f"There is no picture {path}.", "Check the path.")
    too_large = _error(
        f"The picture {path} is too large, at most {MAX_SIDE_PX:,} pixels a side are read.", "Make it smaller; 1,000 pixels are plenty."
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(path, formats=FORMATS)
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError):
        raise too_large from None
    except _DAMAGED as error:  # PIL.UnidentifiedImageError is an OSError
        raise _error(f"{path} is no picture, or none of PNG, JPG and WebP.", "Save it as PNG.") from error
    with image:
        if max(image.size) > MAX_SIDE_PX:
            raise too_large
        if min(image.size) < MIN_SIDE_PX:
            size = f"{image.width} x {image.height}"
            raise _error(f"The picture {path} is {size} pixels small, but needs {MIN_SIDE_PX} a side.", "Give a larger one.")
        # A phone's MPO is a JPG with a second picture for depth or a thumbnail behind it.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise _error(f"The picture {path} moves: it has {getattr(image, 'n_frames', 2)} frames.", "Save one frame as PNG.")
        if image.mode not in modes:
            raise _error(f"The picture {path} has colors of the kind {image.mode}, not RGB.", "Save it as RGB with 8 bits a channel.")
        try:
            image.load()
            return PIL.ImageOps.exif_transpose(image).convert(mode)
        except _DAMAGED as error:
            raise _error(f"The picture {path} is damaged or was cut short.", "Give another copy of it.") from error


def _read_gray(path: Path, size: tuple[int, ...], object_: NDArray[np.bool_]) -> Pixels:
    """A depth map at `size` (rows, columns), [H, W, 1], stretched so that the object `object_` fills 0..1."""
    image = _read(path, GRAY_MODES, "F")
    values = _at_size(image, size, path)[..., None]
    low, high = float(values[object_].min()), float(values[object_].max())
    if high - low < 1e-6 * max(abs(high), 1.0):
        raise _error(f"The depth map {path} is of one brightness where the object is.", "Give another one, or leave it out.")
    return np.clip((values - low) / (high - low), 0, 1)


def _read_color(path: Path, size: tuple[int, ...]) -> Pixels:
    """A normal map at `size` (rows, columns), [H, W, 3] in [0, 1]."""
    image = _read(path, ("RGB", "RGBA"), "RGB")
    return np.stack([_at_size(channel.convert("F"), size, path) / MAX_8 for channel in image.split()], axis=-1)


def _at_size(image: PIL.Image.Image, size: tuple[int, ...], path: Path) -> Pixels:
    """A gray float image at the size of its picture. Raises UserError if it has another shape."""
    height, width = size
    if abs(image.width / image.height - width / height) > MAX_SHAPE_ERROR * width / height:
        text = f"The map {path} is {image.width} x {image.height} pixels, which is not the shape of its picture."
        raise _error(text, "Make it from the same picture, uncut.")
    return np.asarray(image.resize((width, height), PIL.Image.Resampling.BOX), np.float32)


def _foreground(colors: Pixels, path: Path) -> Pixels:
    """1 on the object and 0 on the background that reaches the border of [H, W, 3], float32 [H, W]."""
    from scipy import ndimage
    from skimage.color import rgb2lab

    height, width = colors.shape[:2]
    lab = rgb2lab(colors)
    border = np.zeros((height, width), bool)
    thickness = max(1, min(height, width) // 64)
    border[:thickness] = border[-thickness:] = border[:, :thickness] = border[:, -thickness:] = True
    distances = np.linalg.norm(lab - _background(lab, border), axis=-1)
    alike = distances < TOLERANCE_LAB
    if alike[border].mean() < PLAIN_SHARE:
        raise _error(f"The background of {path} is not plain, so the object cannot be told from it.", CUT_OUT)
    # Flood fill: what is alike and hangs together with the border. A white eye before a white wall stays.
    regions, _ = ndimage.label(alike)
    outside = np.unique(regions[border & alike])
    object_ = ~np.isin(regions, outside[outside > 0])
    object_ = without_specks(object_)
    if not MIN_SHARE < object_.mean() < 1 - MIN_SHARE:
        raise _error(f"Nothing in {path} stands out from its background.", TRANSPARENT)
    return object_.astype(np.float32)


def _background(lab: Pixels, border: NDArray[np.bool_]) -> Pixels:
    """[H, W, 3]: the border's colour as a plane, for a wall is darker on one side. Twice, the second time without what is no wall."""
    height, width = border.shape
    y, x = np.mgrid[0:height, 0:width]
    place = np.stack([np.ones_like(x), x / width - 0.5, y / height - 0.5], axis=-1).astype(np.float32)  # [H, W, 3]
    plain = np.broadcast_to(np.median(lab[border], axis=0), lab.shape)
    for _ in range(2):
        wall = border & (np.linalg.norm(lab - plain, axis=-1) < 2 * TOLERANCE_LAB)
        if wall.sum() < PLAIN_SHARE / 2 * border.sum():
            break
        plane, *_ = np.linalg.lstsq(place[wall], lab[wall], rcond=None)
        plain = place @ plane
    return np.asarray(plain, np.float32)


def _frame(alpha: Pixels) -> Box:
    """Left, top, right and bottom in pixels of the frame round the object of [H, W]; may reach beyond the picture."""
    rows, columns = np.nonzero(alpha >= 0.5)
    middle_y, middle_x = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
    half = FRAME * (np.hypot(rows + 0.5 - middle_y, columns + 0.5 - middle_x).max() + 0.5)
    return (middle_x - half, middle_y - half, middle_x + half, middle_y + half)


def _framed(pixels: Pixels, box: Box) -> Pixels:
    """`box` of straight-alpha [H, W, 4] at [S, S, 4]."""
    premultiplied = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=-1)
    channels = [_resized(premultiplied[..., k], box) for k in range(4)]
    alpha = np.clip(channels[3], 0, 1)
    color = np.stack(channels[:3], axis=-1) / np.maximum(alpha, 1e-3)[..., None]
    return np.concatenate([np.clip(color, 0, 1) * (alpha > 1e-3)[..., None], alpha[..., None]], axis=-1).astype(np.float32)


def _framed_map(values: Pixels, box: Box) -> Pixels:
    """`box` of [H, W, C] at [S, S, C]."""
    return np.clip(np.stack([_resized(values[..., k], box) for k in range(values.shape[-1])], axis=-1), 0, 1)


def _resized(channel: Pixels, box: Box) -> Pixels:
    """`box` of [H, W] at [S, S]; 0 outside. Averages when it shrinks."""
    pad = int(np.ceil(max(0.0, -min(box), box[2] - channel.shape[1], box[3] - channel.shape[0]))) + 1
    padded = PIL.Image.fromarray(np.pad(channel, pad))
    left, top, right, bottom = (side + pad for side in box)
    return np.asarray(padded.resize((SIZE_PX, SIZE_PX), PIL.Image.Resampling.BILINEAR, box=(left, top, right, bottom)))


def _error(text: str, fix: str) -> UserError:
    return UserError(text, fix, "image")
