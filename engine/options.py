"""Settings as text: dataclass fields to option names, texts to values, and back. Standard library only.

A setting is named `group.field` ("guidance.guidance_scale"); on a command line dashes may stand for underscores.
Kinds: bool, int, float, str, Literal of words, tuple of numbers (any or a fixed length), Scheduled.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import textwrap
import types
import typing
from typing import Any, Literal, Union

from engine.errors import UserError


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """Field name to the string that stands under it in the class body; "" where there is none."""
    docs = {item.name: "" for item in dataclasses.fields(cls)}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except OSError:  # shipped without sources
        return docs
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for line, following in zip(body, body[1:]):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(following, ast.Expr):
            if isinstance(following.value, ast.Constant) and isinstance(following.value.value, str):
                docs[line.target.id] = " ".join(following.value.value.split())
    return docs


def parse_value(text: str, hint: Any, option: str) -> Any:
    """`text` as a value of type `hint`. Raises UserError, which names the option as typed."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        words = typing.get_args(hint)
        if text in words:
            return text
        raise _refused(option, text, "one of " + ", ".join(words), str(words[0]))
    if hint is bool:
        if text.lower() in ("true", "yes", "on", "1"):
            return True
        if text.lower() in ("false", "no", "off", "0"):
            return False
        raise _refused(option, text, "true or false", "true")
    if hint is str:
        return text
    if hint is int:
        try:
            return int(text)
        except ValueError:
            raise _refused(option, text, "a whole number", "1") from None
    if hint is float:
        return _number(text, option)
    if origin is tuple:
        kinds = typing.get_args(hint)
        values = _numbers(text, option)
        if Ellipsis not in kinds and len(values) != len(kinds):
            raise _refused(option, text, f"{len(kinds)} numbers with commas between", ",".join(["1"] * len(kinds)))
        return tuple(int(value) for value in values) if kinds[0] is int else values
    if origin in (Union, types.UnionType):  # Scheduled
        return _numbers(text, option) if "," in text else _number(text, option)
    raise TypeError(f"{option} has type {hint}, which no option can have")


def to_json(value: Any) -> Any:
    """A config as nested dicts, lists, numbers and words."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return [to_json(part) for part in value] if isinstance(value, (tuple, list)) else value


def from_json(cls: type, data: dict[str, Any], where: str = "") -> Any:
    """The dataclass `cls` from `to_json`'s output. Missing fields take their default, unknown ones raise UserError."""
    hints = typing.get_type_hints(cls)
    names = {item.name for item in dataclasses.fields(cls)}
    for name in data:
        if name not in names:
            raise UserError(f"{where}{name} is no setting of this version.", "Start the job again in another folder.", "option")
    arguments = {}
    for name, value in data.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            arguments[name] = from_json(typing.cast(type, hint), value, f"{where}{name}.")
        elif isinstance(value, list):
            arguments[name] = tuple(value)
        else:
            arguments[name] = float(value) if hint is float else value
    return cls(**arguments)


def to_text(value: Any) -> str:
    """A value as a user would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(to_text(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    return tuple(_number(part, option) for part in text.strip("[]() ").split(","))


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _refused(option, text, "a number", "1") from None
    if not math.isfinite(value):
        raise _refused(option, text, "a finite number", "1")
    return value


def _refused(option: str, text: str, wanted: str, example: str) -> UserError:
    return UserError(f"{option} is {text!r}, but must be {wanted}.", f"Use for example --{option} {example}.", "option")
