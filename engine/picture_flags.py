"""`--image PATH[,name=value]...`, once or several times, as fields of a job. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from engine.errors import UserError
from engine.protocol import FurtherView

NAMES = ("azimuth", "elevation", "weight", "depth", "normal")


def picture_fields(texts: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of a JobRequest and overrides of settings: the first picture's place and weight are settings of the run.

    Paths become absolute: the engine may stand elsewhere when it resumes.
    Raises: UserError, code "option", for a value that is no number, or a further picture of which nobody says where it was taken.
    """
    (first, values), *further = [_split(text) for text in texts]
    fields = {
        "reference_image": first,
        "reference_depth": values.get("depth", ""),
        "reference_normal": values.get("normal", ""),
        "further_views": tuple(_further(path, values) for path, values in further),
    }
    keys = {"azimuth": "reference.azimuth_deg", "elevation": "reference.elevation_deg", "weight": "reference.weight"}
    return fields, {key: values[name] for name, key in keys.items() if name in values}


def _split(text: str) -> tuple[str, dict[str, str]]:
    """The path, and what follows it as name=value; a comma that no known name follows is part of the path."""
    values: dict[str, str] = {}
    path = text
    while (comma := path.rfind(",")) >= 0:
        name, equals, value = path[comma + 1 :].partition("=")
        if not equals or name.strip() not in NAMES:
            break
        values.setdefault(name.strip(), value)
        path = path[:comma]
    for name in ("depth", "normal"):
        if values.get(name):
            values[name] = os.path.abspath(values[name])
    return os.path.abspath(path), values


def _further(path: str, values: dict[str, str]) -> FurtherView:
    if "azimuth" not in values:
        text = f"The picture {path} is the second or a later one, and nothing says from where it was taken."
        raise UserError(text, f"Use --image {os.path.basename(path)},azimuth=90 for the object's left side.", "option")
    numbers = {name: _number(path, name, values[name]) for name in ("azimuth", "elevation", "weight") if name in values}
    return FurtherView(
        image=path,
        azimuth_deg=numbers["azimuth"],
        elevation_deg=numbers.get("elevation", 0.0),
        weight=numbers.get("weight", 1.0),
        depth=values.get("depth", ""),
        normal=values.get("normal", ""),
    )


def _number(path: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name} of the picture {path} is {text!r}, but must be a number.", f"Use {name}=45.", "option") from None
