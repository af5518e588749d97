"""What lies in the models folder, in its own words: a record beside each fetched model, one file for the folders that were added.

    MODELS/sd15/dreamfusion-model.json     where it came from and the hash of every file
    MODELS/first-seen.json                 what a source held that the table does not pin (model_store/first_seen.py)
    MODELS/added-models.json               folders of the user that go by a name; they stay where they are
    MODELS/.downloading/sd15/              a download that is not whole yet; renamed to MODELS/sd15 when it is

Standard library only, nothing is loaded, nothing goes online.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from engine.errors import UserError

MODELS_VARIABLE = "DREAMFUSION_MODELS"
RECORD_NAME = "dreamfusion-model.json"
ADDED_NAME = "added-models.json"
DOWNLOADING_NAME = ".downloading"


@dataclass(frozen=True)
class FileRecord:
    """One file of a model. `path` is relative to its folder, with slashes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """A model as it was fetched or added. `source` is "hub id@commit", "" for an added folder."""

    id: str
    title: str
    folder: str
    source: str
    files: tuple[FileRecord, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def models_root() -> Path:
    """The folder that holds models by id: DREAMFUSION_MODELS, else dreamfusion/models beside the hub's cache."""
    named = os.environ.get(MODELS_VARIABLE, "").strip()
    cache = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    return (Path(named) if named else Path(cache) / "dreamfusion" / "models").expanduser()


def read_record(folder: Path) -> Record | None:
    """The record of a fetched model, None if the folder has none that can be read. `folder` wins over what the file says."""
    try:
        body = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        return _record({**body, "folder": str(folder)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: Path, record: Record) -> None:
    write_json(folder / RECORD_NAME, {name: value for name, value in _body(record).items() if name != "folder"})


def read_added(root: Path) -> dict[str, Record]:
    """Id to record of the folders that were added.

    Raises: UserError, code "model", if the file is there but cannot be read: writing it anew would forget what is in it.
    """
    path = root / ADDED_NAME
    try:
        return {body["id"]: _record(body) for body in json.loads(path.read_text(encoding="utf-8"))["models"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"The list of added models, {path}, cannot be read.", "Remove it, and add the models again.", "model") from error


def write_added(root: Path, records: dict[str, Record]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / ADDED_NAME, {"models": [_body(record) for record in records.values()]})


def _record(body: dict) -> Record:  # type: ignore[type-arg]
    return Record(str(body["id"]), str(body["title"]), str(body["folder"]), str(body["source"]), file_records(body["files"]))


def file_records(body: list) -> tuple[FileRecord, ...]:  # type: ignore[type-arg]
    """Files as they stand in JSON. Raises ValueError, KeyError or TypeError."""
    return tuple(FileRecord(str(file["path"]), int(file["size"]), str(file["sha256"])) for file in body)


def _body(record: Record) -> dict:  # type: ignore[type-arg]
    return {**vars(record), "files": [vars(file) for file in record.files]}


def write_json(path: Path, body: object) -> None:
    """Whole or not at all: a reader never meets half a file."""
    partial = path.with_name(path.name + ".new")
    partial.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
