"""Modules that are imported when they are first used, so that enabling the extension does not pay for them."""

from __future__ import annotations

import importlib
from typing import Any


class Deferred:
    """Stands for a module, named as in an import of this package: `setup_plan = Deferred(".setup_plan")`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name, __package__), name)
