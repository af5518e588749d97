"""Where the engine's Python is looked for, and how a job is described. No bpy: the callers pass paths and values."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from .problem import Problem
from .protocol import messages

ENGINE_PYTHON_VARIABLE = "DREAMFUSION_ENGINE_PYTHON"
# Names and values are checked by the engine; here only the form.
_OVERRIDE = re.compile(r"([A-Za-z_][\w.\-]*)=(\S+)")


def find_engine_python(preference: str, engine_folder: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The Python that runs the engine: the environment variable, else the preference, else the engine set up by the add-on.

    None if the first two are empty and the third is not there. What the user named is returned unchecked: starting it tells.
    """
    named = environ.get(ENGINE_PYTHON_VARIABLE, "").strip() or preference.strip()
    if named:
        # Not resolved: a virtual environment's python is a link, and only its own path leads to its packages.
        return Path(shutil.which(named) or Path(named).expanduser().absolute())
    from .setup_task import installed_python  # not above: enabling the extension would pay for it

    return installed_python(engine_folder)


NOT_SET_UP = Problem(
    "The engine is not set up.",
    f"Click Set Up Engine, or name its Python in the add-on's preferences or in the environment variable {ENGINE_PYTHON_VARIABLE}.",
    "setup",
)


def parse_overrides(text: str) -> dict[str, str]:
    """ "training.n_steps=100 field.encoding=hash" as a dictionary. Raises: ValueError with a sentence for the user."""
    overrides = {}
    for word in text.split():
        match = _OVERRIDE.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is not a setting. Write settings as name=value, for example training.n_steps=200.")
        overrides[match[1]] = match[2]
    return overrides


def job_request(
    *,
    prompt: str,
    needs_words: bool = True,
    negative: str = "",
    model: str = "",
    preset: str = "draft",
    seed: int = 0,
    overrides: Mapping[str, str] | None = None,
    reference_image: str = "",
    further_views: tuple[messages.FurtherView, ...] = (),
    start_from: str = "",
    start_mesh: str = "",
    stage: str = "generate",
) -> messages.JobRequest:
    """The request as typed in Blender: `preset` in any case, texts with line ends and spaces anyhow.

    needs_words: whether the model is told in words what to make; else `reference_image` tells it.

    Raises: ValueError with a sentence for the user.
    """
    if needs_words and not prompt.strip():
        raise ValueError("The prompt is empty. Write what to make, for example: a red mug.")
    if not needs_words and not reference_image:
        raise ValueError(f"The model {model} makes an object from a picture, not from words. Choose a reference image.")
    return messages.JobRequest(
        prompt=" ".join(prompt.split()),  # 5.2 has a box of several lines; the line ends mean nothing
        negative=" ".join(negative.split()),
        model=model.strip() or "toybox",
        preset=preset.lower(),
        seed=seed,
        overrides=dict(overrides or {}),
        reference_image=reference_image,
        further_views=further_views,
        start_from=start_from,
        start_mesh=start_mesh,
        stage=stage,
    )
