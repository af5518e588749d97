"""The table of encodings. Adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.fields.dense_grid import DenseGrid
from engine.fields.field_config import FieldConfig
from engine.fields.hash_grid import HashGrid

ENCODINGS: dict[str, Callable[[FieldConfig, torch.Generator], DenseGrid | HashGrid]] = {
    "dense": DenseGrid.from_config,
    "hash": HashGrid.from_config,
}
