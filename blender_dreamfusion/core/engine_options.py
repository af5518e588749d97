"""The engine's options as the panel shows them: kinds, ranges, and what each preset gives. No bpy.

The table is `engine_options.json` beside this file, what `python -m engine options --json` prints; a test compares the two.
Values are texts, as overrides carry them.
"""

import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

TABLE_PATH = Path(__file__).with_name("engine_options.json")
_UNITS = {"deg": "\u00b0", "px": "px", "s": "s"}
_SHORT = {"fov": "FOV", "rms": "RMS", "ema": "EMA", "tv": "TV", "ddim": "DDIM", "log2": "Log2"}


class EngineOption(NamedTuple):
    """One setting of the engine."""

    key: str
    """Group and name: "training.n_steps"."""
    kind: str
    """bool, int, float, word (one of `words`), pair (two numbers), schedule (a number, or step,value,step,value,...), text."""
    help: str
    values: Mapping[str, str]
    """By preset, lower case."""
    words: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def group(self) -> str:
        return self.key.partition(".")[0]

    @property
    def attribute(self) -> str:
        """The key as the name of a property."""
        return self.key.replace(".", "__")

    @property
    def label(self) -> str:
        """The name in words: "n_steps" is "Steps", "roll_deg" is "Roll (°)"."""
        words = self.key.partition(".")[2].removeprefix("n_").removeprefix("lambda_").split("_")
        unit = _UNITS.get(words[-1], "") if len(words) > 1 else ""
        if unit:
            words.pop()
        return " ".join(_SHORT.get(word, word.capitalize()) for word in words) + (f" ({unit})" if unit else "")


@functools.cache
def engine_options() -> dict[str, EngineOption]:
    """All options by key, in the order of their groups."""
    rows = json.loads(TABLE_PATH.read_text(encoding="utf-8"))["options"]
    return {row["key"]: EngineOption(**{**row, "words": tuple(row["words"])}) for row in rows}


@functools.cache
def preset_names() -> tuple[str, ...]:
    """Lower case, from quick to good."""
    return tuple(next(iter(engine_options().values())).values)


@functools.cache
def groups() -> tuple[str, ...]:
    return tuple(dict.fromkeys(option.group for option in engine_options().values()))


def found(search: str, options: Iterable[EngineOption]) -> list[EngineOption]:
    """Those with every word of `search` in their key, label or help; all of them where it is empty."""
    words = search.lower().split()
    return [option for option in options if all(word in f"{option.key} {option.label} {option.help}".lower() for word in words)]


def value_of(key: str, preset: str, changed: Mapping[str, str]) -> str:
    """What the engine will take: the user's value, else the preset's. `preset` in any case."""
    return changed[key] if key in changed else engine_options()[key].values[preset.lower()]


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a pair or a schedule. Raises: ValueError."""
    return tuple(float(part) for part in text.strip("[]() ").split(","))


def number_text(value: float) -> str:
    """A number as a user would type it; six digits, since Blender's own numbers have seven."""
    return f"{value:.6g}"


def fault(option: EngineOption, text: str) -> str:
    """Why the engine would not take this text; empty where it would, as far as the form tells."""
    if option.kind not in ("pair", "schedule", "int", "float"):
        return ""
    try:
        values = numbers(text)
    except ValueError:
        return f"{option.label} must be a number" + ("" if option.kind != "schedule" else ", or step,value,step,value")
    if option.kind == "schedule" and len(values) > 1 and len(values) % 2:
        return f"{option.label} must be step,value,step,value"
    if option.kind == "pair" and len(values) != 2:
        return f"{option.label} must be two numbers"
    if option.kind in ("int", "float") and len(values) != 1:
        return f"{option.label} must be one number"
    given = values[1::2] if option.kind == "schedule" and len(values) > 1 else values
    if option.low is not None and option.high is not None and not all(option.low <= value <= option.high for value in given):
        return f"{option.label} must lie in {option.low:g} to {option.high:g}"
    return ""


def sizes(preset: str, changed: Mapping[str, str]) -> dict[str, int]:
    """What a preset's name stands for: steps, picture_px (the largest training view), texture_px, faces.

    A value that cannot be read counts as 0: this is for show, the engine refuses it with a sentence.
    """
    keys = {"steps": "training.n_steps", "picture_px": "render.size_px", "texture_px": "mesh.texture_size", "faces": "mesh.target_faces"}
    return {name: round(largest(value_of(key, preset, changed))) for name, key in keys.items()}


def largest(text: str) -> float:
    """The largest value of a number or schedule; 0 where it cannot be read."""
    try:
        values = numbers(text)
    except ValueError:
        return 0.0
    return max(values[1::2] if len(values) > 1 else values)


def mean(text: str, *, power: int = 1) -> float:
    """The mean over a run of a number or schedule, each value raised to `power`; 0 where it cannot be read.

    Steps as fractions of the run or as steps; the last step is then taken as the end.
    """
    try:
        values = numbers(text)
    except ValueError:
        return 0.0
    if len(values) < 4:
        return values[-1] ** power
    times, heights = values[0::2], [value**power for value in values[1::2]]
    end = max(times[-1], 1.0)
    area = heights[0] * times[0] + heights[-1] * (end - times[-1])
    area += sum((heights[i] + heights[i + 1]) / 2 * (times[i + 1] - times[i]) for i in range(len(times) - 1))
    return float(area / end)
