"""A job's folder: what is asked, what happened, what can be resumed, what came out. No torch here.

job.json       request, settings, versions: written first
events.jsonl   every event, with its time
checkpoints/   see training/checkpoint.py
previews/      pictures while it trains
reference*.png the pictures to follow and their maps, prepared; see protocol.kept_name
source.npz     the mesh to start from, prepared
result/        complete or absent: made as result.partial and renamed
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import JobConfig, check_request, config_from_json, config_to_json, prepare_references
from engine.errors import UserError
from engine.job_lock import LOCK_NAME
from engine.protocol import Event, JobRequest, ProtocolError, encode, kept_name, request_from_json
from engine.version import ENGINE_VERSION

if TYPE_CHECKING:
    from engine.continuation import Start
    from engine.meshing.source_mesh import SourceMesh
    from engine.scene.reference_view import Reference

FORMAT = 1
# A draft writes about 30 MB; a full disk must be noticed before minutes of work, not after.
MIN_FREE_BYTES = 200 << 20
OURS = (
    "job.json", "events.jsonl", "checkpoints", "previews", "reference.png", "source.npz", "source.partial", "tensorboard",
    "result", "result.partial", "renders", "exports", "error.log", "engine.log", LOCK_NAME,
)  # fmt: skip
# Further pictures and their maps go by a number.
OUR_PICTURES = re.compile(r"reference(-\d+)?(-depth|-normal)?\.png")
# Do not make a folder the folder of a job.
HARMLESS = (".log", ".lock")


@dataclass(frozen=True)
class JobFolder:
    """An open job. `path` is absolute."""

    path: Path
    request: JobRequest
    config: JobConfig

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def source(self) -> Path:
        return self.path / "source.npz"

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def partial_result(self) -> Path:
        return self.path / "result.partial"

    def record(self, event: Event) -> None:
        """Append to events.jsonl. A full disk does not end a job here: the next checkpoint will say so."""
        body = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"), **json.loads(encode(event))}
        with contextlib.suppress(OSError), (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(body) + "\n")


def slug_of(prompt: str) -> str:
    """A short file name from a prompt: ASCII letters, digits and dashes; "asset" if nothing is left."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "asset"


def check_folder(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise UserError unless a job may be made (or continued) here. Changes nothing."""
    if path.is_symlink() and not path.exists() or path.exists() and not path.is_dir():
        raise _output_error(f"The output folder {path} is a file.", "Use another --out.")
    # The nearest folder that is there: what lies between it and the job is made with the job.
    place = next(folder for folder in (path, *path.absolute().parents) if os.path.exists(folder))
    if not place.is_dir():
        raise _output_error(f"{place}, in which the output shall lie, is a file.", "Use another --out.")
    if resume and not (path / "job.json").is_file():
        raise _output_error(f"There is no job in {path} to resume.", "Leave --resume out to start one.")
    entries = _entries(path) if path.exists() and not resume else []
    if not overwrite and any(_is_ours(entry) and entry.suffix not in HARMLESS for entry in entries):
        raise _output_error(
            f"The output folder {path} already holds a job.", "Use --resume to continue it, --overwrite to replace it, or another --out."
        )
    if any(not _is_ours(entry) for entry in entries):
        raise _output_error(f"The output folder {path} holds other files.", "Use an empty or a new folder as --out.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise _output_error(f"The folder {place} cannot be written to.", "Use another --out.")
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_BYTES:
        raise _output_error(
            f"The disk of {place} has {free >> 20} MB left, but a job needs {MIN_FREE_BYTES >> 20} MB.", "Make room, or use another --out."
        )


def create_job(
    path: Path,
    request: JobRequest,
    *,
    overwrite: bool = False,
    start: Start | None = None,
    source: SourceMesh | None = None,
    config: JobConfig | None = None,
) -> JobFolder:
    """A new job; with `start` it goes on from there, with `source` it has that mesh to start from. Raises UserError.

    config: the settings, where they are not just the request's.
    """
    config = start.config if start else config or check_request(request)
    check_folder(path, resume=False, overwrite=overwrite)
    references = prepare_references(request, config)  # before the folder is cleared, in which they may lie
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if overwrite:
            _clear(path)
        body = {
            "format": FORMAT,
            "engine": ENGINE_VERSION,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "request": asdict(request),
            "config": config_to_json(config),
            "versions": {"engine": ENGINE_VERSION, "python": platform.python_version(), "system": platform.platform()},
        }
        _write_references(path, references)
        if source is not None:
            source.save(path / "source.npz")
        if start:
            from engine.training.checkpoint import save_checkpoint  # torch, which whoever made `start` has loaded already

            save_checkpoint(path / "checkpoints", start.checkpoint.meta["step"], start.checkpoint)
        write_json(path / "job.json", body)  # last: without it there is no job
    return JobFolder(path.resolve(), request, config)


def _write_references(path: Path, references: list[Reference]) -> None:
    """The pictures that the job follows, and their maps. Raises OSError."""
    for i, reference in enumerate(references):
        from engine.scene.reference_view import write_picture  # brings Pillow

        write_picture(path / kept_name(i), reference.picture)
        for kind, values in (("depth", reference.depth), ("normal", reference.normals)):
            if values is not None:
                write_picture(path / kept_name(i, kind), values)


def _is_ours(entry: Path) -> bool:
    return entry.name in OURS or OUR_PICTURES.fullmatch(entry.name) is not None


def read_job(path: Path) -> tuple[JobRequest, JobConfig]:
    """What was asked for in the job folder `path`, and its settings. Raises UserError."""
    try:
        body = json.loads((path / "job.json").read_text(encoding="utf-8"))
        return request_from_json(body["request"]), config_from_json(body["config"])
    except (OSError, ValueError, KeyError, TypeError, ProtocolError) as error:
        raise UserError(f"{path / 'job.json'} is damaged.", "Start the job again in another folder.", "output") from error


def open_job(path: Path, request: JobRequest | None = None) -> JobFolder:
    """An existing job, to resume it. Raises UserError if it is not readable or was asked for something else than `request`."""
    check_folder(path, resume=True, overwrite=False)
    saved, config = read_job(path)
    if request is not None and request != saved:
        names = [name for name, value in asdict(saved).items() if asdict(request)[name] != value]
        raise UserError(
            f"The job in {path} was started with another {' and '.join(names)}, so it cannot be resumed with this one.",
            "Leave it out to continue the job, or use another --out.",
            "option",
        )
    return JobFolder(path.resolve(), saved, config)


def write_json(path: Path, body: Any) -> None:
    """Complete or not at all. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns OSError inside into a UserError about the output folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise _output_error(f"Writing to {path} failed: {reason}.", "Make room or give access, then continue with --resume.") from error


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise _output_error(f"The folder {path} cannot be read.", "Use another --out.") from error


def _clear(path: Path) -> None:
    for entry in _entries(path):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.suffix not in HARMLESS:
            entry.unlink()


def _output_error(text: str, fix: str) -> UserError:
    return UserError(text, fix, "output")
