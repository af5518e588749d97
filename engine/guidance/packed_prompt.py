"""Changes to all embeddings of a prompt at once, for models that put more than words into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from engine.scene.view_prompts import PromptEmbeds


def map_embeds(prompt: PromptEmbeds, change: Callable[[Tensor], Tensor], *, text: Tensor | None = None) -> PromptEmbeds:
    """The prompt with `change` applied to each embedding [B, ..., T, D], to `text` only if none is given in its place.

    Fields of other shapes stay. Two fields that are one object stay one, for a guidance that asks the model once for both.
    """
    tokens = prompt.text.shape[-2:]
    changed: dict[int, Tensor] = {}
    fields: dict[str, Any] = {}
    for item in dataclasses.fields(prompt):
        value = getattr(prompt, item.name)
        if isinstance(value, Tensor) and value.ndim >= 3 and value.shape[-2:] == tokens:
            if text is not None and item.name == "text":
                fields["text"] = text
            else:
                fields[item.name] = changed.setdefault(id(value), change(value))
    return dataclasses.replace(prompt, **fields)
