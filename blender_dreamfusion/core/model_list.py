"""The models that can be used, as the engine lists them (`python -m engine models list --json`), kept on disk between sessions.

Before the engine was ever asked, the table that ships (`models.json` beside this file, compared with the engine's by a test) is
shown, so that the page and the menu can be drawn before anything runs. No bpy.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

TABLE_PATH = Path(__file__).with_name("models.json")
DEFAULT_MODEL = "toybox"
MODELS_VARIABLE = "DREAMFUSION_MODELS"
_ORIGINS = {"shipped": "ships with the add-on", "added": "local folder", "hub cache": "in the hub's cache"}


class ModelRow(NamedTuple):
    """One model, or a helper: a small one that works beside a model. What it is: the engine's models.toml. How it stands here:
    engine/model_store/manage.py. Sizes in MB and bytes.

    needs_picture: its prompt is a picture, not words.
    made_for: ids of the models that a helper fits, empty if any. withheld: why it cannot be fetched; instead: what to use.
    """

    id: str
    title: str
    licence: str = ""
    note: str = ""
    download_mb: int = 0
    vram_gb: float = 0.0
    resolution_px: int = 0
    gated: bool = False
    vocabulary: str = ""
    needs_picture: bool = False
    is_helper: bool = False
    made_for: tuple[str, ...] = ()
    withheld: str = ""
    instead: str = ""
    installed: bool = False
    origin: str = ""
    folder: str = ""
    size_bytes: int = 0
    partial_bytes: int = 0
    can_remove: bool = False

    @property
    def is_downloadable(self) -> bool:
        return self.download_mb > 0 and not self.withheld

    @property
    def size_text(self) -> str:
        """What it takes on the disk, or will: "2.1 GB"; empty while not known."""
        megabytes = self.size_bytes / 1e6 if self.installed else float(self.download_mb)
        return f"{megabytes / 1000:.1f} GB" if megabytes >= 100 else f"{megabytes:.0f} MB" if megabytes else ""

    @property
    def vram_text(self) -> str:
        return f"{self.vram_gb:.0f} GB VRAM" if self.vram_gb else "CPU"

    @property
    def state_text(self) -> str:
        """Whether it can be used, in a few words."""
        if self.installed:
            return _ORIGINS.get(self.origin, "ready")
        if self.partial_bytes and self.download_mb:
            return f"{min(99, self.partial_bytes / 1e4 / self.download_mb):.0f} % downloaded"
        if self.withheld:
            return "cannot be fetched"
        if not self.is_downloadable:
            return "folder is missing"
        return "needs access" if self.gated else "not downloaded"


def rows_from(models: object) -> tuple[ModelRow, ...]:
    """The rows of a list as the engine prints it. Unknown fields are left out, and whatever is no row."""
    known = get_type_hints(ModelRow)
    rows = []
    for model in models if isinstance(models, list) else []:
        if isinstance(model, dict) and model.get("id") and model.get("title"):
            rows.append(ModelRow(**{name: _value(kind, model[name]) for name, kind in known.items() if name in model}))
    return tuple(rows)


def listed_rows(result: Mapping[str, object]) -> tuple[ModelRow, ...]:
    """Models, then helpers, of the result of `models list`; empty if it lists no models."""
    models = rows_from(result.get("models"))
    return models + rows_from(result.get("helpers")) if models else ()


def for_text(row: ModelRow, rows: Sequence[ModelRow]) -> str:
    """Which models a helper works beside, by their titles."""
    titles = {other.id: other.title for other in rows}
    return ", ".join(titles.get(name, name) for name in row.made_for) or "any model"


def _value(kind: type, value: object) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        return kind()


def shipped_rows() -> tuple[ModelRow, ...]:
    """The table as it ships. Toybox is there; nothing is known of the others."""
    rows = rows_from(json.loads(TABLE_PATH.read_text(encoding="utf-8")))
    return tuple(row._replace(installed=row.download_mb == 0) for row in rows)


def read_cache(path: Path) -> tuple[ModelRow, ...]:
    """What the engine said last time, else the table that ships. What an older version kept lacks what came since: added here."""
    try:
        kept = rows_from(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        kept = ()
    if not kept:
        return shipped_rows()
    known = {row.id for row in kept}
    return kept + tuple(row for row in shipped_rows() if row.id not in known)


def write_cache(path: Path, rows: Sequence[ModelRow]) -> None:
    """Keep the rows for the next session. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.write_text(json.dumps([row._asdict() for row in rows], indent=1), encoding="utf-8")
    os.replace(partial, path)


def models_command(python: str | Path, package_root: Path, *words: str) -> list[str]:
    """The command line of `engine models ...` as a task (core/task_process.py)."""
    launcher = package_root / "blender_dreamfusion" / "core" / "launch_engine.py"
    return [str(python), "-I", "-u", str(launcher), "models", *words, "--json", "--end-with-stdin"]


def with_models_folder(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment in which the engine finds the models."""
    return {**environ, MODELS_VARIABLE: str(folder)}


def progress_text(done: float, of: float) -> str:
    """ "120 of 2,130 MB"; empty while nothing is known."""
    return f"{done / 1e6:,.0f} of {of / 1e6:,.0f} MB" if of > 0 else ""
