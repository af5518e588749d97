"""The table of encodings. Adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.fields.dense_grid import DenseGrid
from engine.fields.field_config import FieldConfig
from engine.fields.frequency import FrequencyEncoding
from engine.fields.hash_grid import HashGrid
from engine.fields.tcnn_grid import TcnnGrid

Encoding = DenseGrid | HashGrid | FrequencyEncoding | TcnnGrid

ENCODINGS: dict[str, Callable[[FieldConfig, torch.Generator], Encoding]] = {
    "dense": DenseGrid.from_config,
    "hash": HashGrid.from_config,
    "frequency": FrequencyEncoding.from_config,
    "tcnn": TcnnGrid.from_config,
}
