"""Every setting as plain data, for a panel that cannot import the engine (`python -m engine options --json`). No torch."""

from __future__ import annotations

import json
import re
import typing
from typing import Any, Literal

from engine.config import PRESETS, Option, default_text, options

# A field's docstring states its range as "0..1"; that the checks agree is tested.
_RANGE = re.compile(r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)\.\.(-?\d+(?:\.\d+)?(?:e-?\d+)?)")


def option_list() -> dict[str, Any]:
    """Presets, and per option its key, kind, help, range (null where it has none), words, and the text of each preset's value.

    Kinds: bool, int, float, word (one of `words`), pair (two numbers with a comma), schedule (a number or step,value,...), text.
    """
    return {"presets": list(PRESETS), "options": [_as_json(option) for option in options().values()]}


def option_list_text() -> str:
    """The same as JSON, one option a line, so that a change shows as one line."""
    listed = option_list()
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in listed["options"])
    return f'{{"presets": {json.dumps(listed["presets"])}, "options": [\n{rows}\n]}}'


def _as_json(option: Option) -> dict[str, Any]:
    found = _RANGE.search(option.help)
    low, high = (float(found[1]), float(found[2])) if found else (None, None)
    return {
        "key": option.key,
        "kind": _kind(option.kind),
        "help": option.help,
        "low": low,
        "high": high,
        "words": list(typing.get_args(option.kind)) if typing.get_origin(option.kind) is Literal else [],
        "values": {preset: default_text(option, preset) for preset in PRESETS},
    }


def _kind(hint: Any) -> str:
    if hint in (bool, int, float):
        return str(hint.__name__)
    if hint is str:
        return "text"
    if typing.get_origin(hint) is Literal:
        return "word"
    return "pair" if typing.get_origin(hint) is tuple else "schedule"
