"""The object cut out of a busy picture by a model: an .onnx file of the user's, run by onnxruntime, an optional package.

U2-Net (2005.09007), IS-Net (2203.03041), BiRefNet (2401.03407) and what is laid out like them: a picture in, a mask out.
Nothing is fetched, and no torch here. Shapes: H W pixels of the picture, h w of what the model answers.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from engine.errors import UserError

Pixels = NDArray[np.float32]
Numbers = tuple[float, float, float]

# What a picture's values are moved and divided by, as each family was trained. The file does not say, its published name does.
PHOTO_MEAN, PHOTO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
HALF, ONE = (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)
NORMS: dict[str, tuple[Numbers, Numbers]] = {"isnet-anime": (PHOTO_MEAN, ONE), "isnet": (HALF, ONE), "ben": (HALF, ONE)}
# Side of the picture for a model that takes any, in pixels.
FREE_SIDE_PX = 1024
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
# A model that is nowhere as sure as this has found nothing.
MIN_SURE = 0.3
# What of the object is seen so purely that nothing of the background is in its color, and how far that color is carried.
PURE, EDGE_PX = 0.95, 4
# Specks of dust and of compression are smaller than this share of the object.
SPECK_SHARE = 0.02
# Answers that are kept: a request is checked before its job is made, and large models take long.
KEPT = 8

GET = "isnet-general-use.onnx or u2net.onnx, for example (docs/image-to-3d.md says where they are)"


def cut_out(image: PIL.Image.Image, model: Path) -> Pixels:
    """How much of each pixel of the RGB `image` is the object, [h, w] in [0, 1]; the surest pixel is 1.

    Raises: UserError. Code "setup": onnxruntime is not there. "model": no such file, or no such model. "image": nothing is found.
    """
    model = model.expanduser()
    if not model.is_file():
        what = "is a folder" if model.is_dir() else "is not there"
        raise UserError(f"The model {model} that is to cut out the object {what}.", f"Name an .onnx file: {GET}.", "model")
    mask = _kept_answer(image.size, image.tobytes(), model, model.stat().st_mtime_ns)
    if mask.max() < MIN_SURE:
        raise UserError("The model found no object in the picture.", "Give a closer picture or another model, or cut it out.", "image")
    return mask / mask.max()


def without_specks(object_: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`object_` [H, W] without pieces of less than SPECK_SHARE of its largest."""
    from scipy import ndimage

    pieces, n = ndimage.label(object_)
    areas = np.bincount(pieces.ravel(), minlength=n + 1)
    areas[0] = 0
    return np.isin(pieces, np.flatnonzero(areas > SPECK_SHARE * areas.max()))


def pure_colors(colors: Pixels, alpha: Pixels) -> Pixels:
    """`colors` [H, W, 3] in which pixels of the edge, that show the background too, have the color of the object beside them."""
    from scipy import ndimage

    pure = alpha > PURE
    if not pure.any():
        return colors
    distance, (rows, columns) = ndimage.distance_transform_edt(~pure, return_indices=True)
    return np.where((distance <= EDGE_PX)[..., None], colors[rows, columns], colors)


@lru_cache(maxsize=KEPT)
def _kept_answer(size: tuple[int, int], rgb: bytes, model: Path, changed_ns: int) -> Pixels:
    """`_answer` for a picture of these pixels by the model file as it was at `changed_ns`."""
    return _answer(PIL.Image.frombytes("RGB", size, rgb), model)


def _answer(image: PIL.Image.Image, model: Path) -> Pixels:
    """What the model says of each pixel, [h, w] in [0, 1]. Raises UserError, codes "setup" and "model"."""
    onnxruntime = _runtime()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # what it would print is in the exception
    settings.intra_op_num_threads = os.cpu_count() or 1  # its own choice binds threads to cores that may not be ours
    try:
        session = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
        takes = session.get_inputs()
        name, kind, shape = takes[0].name, takes[0].type, takes[0].shape
        if len(takes) != 1 or kind not in TYPES or len(shape) != 4 or shape[1] != 3:
            raise _no_model(model, f"it takes {', '.join(f'{each.name} {each.shape}' for each in takes)}, not one RGB picture")
        height, width = (side if isinstance(side, int) and side > 0 else FREE_SIDE_PX for side in shape[2:])
        found = session.run(None, {name: _normalized(image, model, width, height).astype(TYPES[kind])})[0]
    except UserError:
        raise
    except Exception as error:  # onnxruntime's errors have no class in common
        raise _no_model(model, _reason(error)) from error
    mask = np.asarray(found, np.float32)
    if mask.ndim not in (3, 4) or any(side != 1 for side in mask.shape[:-2]):
        raise _no_model(model, f"it answers with {list(mask.shape)}, not with one mask")
    if not np.isfinite(mask).all():
        raise _no_model(model, "its answer is not finite")
    mask = mask.reshape(mask.shape[-2:])
    # Some answer with logits, some with shares.
    return mask if mask.min() >= -1e-3 and mask.max() <= 1 + 1e-3 else 1 / (1 + np.exp(-mask.clip(-50, 50)))


def _normalized(image: PIL.Image.Image, model: Path, width: int, height: int) -> Pixels:
    """[1, 3, height, width], by the picture's brightest value and the numbers of the model's family."""
    colors = np.asarray(image.resize((width, height), PIL.Image.Resampling.LANCZOS), np.float32)
    mean, std = next((norm for start, norm in NORMS.items() if model.name.lower().startswith(start)), (PHOTO_MEAN, PHOTO_STD))
    scaled = (colors / max(float(colors.max()), 1.0) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)


def _runtime() -> Any:
    """The module onnxruntime, told to report nothing to anybody. Raises UserError, code "setup"."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        reason = _reason(error)
        text = f"reference.cut-out-model needs the package onnxruntime, which the engine's Python cannot load: {reason}."
        raise UserError(text, f'Run: "{sys.executable}" -m pip install onnxruntime', "setup") from error
    onnxruntime.disable_telemetry_events()  # Microsoft's builds for Windows have some
    return onnxruntime


def _reason(error: Exception) -> str:
    """The first line without onnxruntime's numbers and code words."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return first.split(" : ", 3)[-1].rpartition(" failed:")[2].rstrip(". ")


def _no_model(model: Path, reason: str) -> UserError:
    return UserError(f"The model {model} cannot cut out the object: {reason}.", f"Use {GET}.", "model")
